"""From a job file to a resolved job, or to all its errors, each with file, line, field, reason and remedy.

Steps: strict YAML (`document`), overrides, each field alone (`fields`), defaults (`presets`), fields together
and the files they name (`checks`). Reads the job file and looks at the files it names; writes nothing.
"""

import os
import select
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from scheduler.errors import FileError, UsageError
from scheduler.jobs import checks, document, presets
from scheduler.jobs.fields import read_struct
from scheduler.jobs.problems import Problems
from scheduler.jobs.spec import JobSpec

FRESH = "mmq init pretrain  # writes one to start from"
PIPE_PATIENCE_SECONDS = 10.0


class JobFile(NamedTuple):
    """A checked job file."""

    spec: JobSpec
    source: str  # the text to store
    problems: Problems  # later checks add theirs here, to be reported with their lines


def load(path: str | Path, overrides: Sequence[str] = ()) -> tuple[JobSpec, str]:
    """Read and check a job file: the resolved job, and the text to store. FileError if it is wrong."""
    spec, source, _ = read(path, overrides)
    return spec, source


def read(path: str | Path, overrides: Sequence[str] = (), *, with_files: bool = True) -> JobFile:
    """Do as `load`, for callers that check more; an estimate needs none of the files that the job names."""
    shown, where = str(path), Path(path)
    _require_text(where)
    text = _read(where)
    spec, problems = parse(text, file=shown, overrides=overrides, default_name=where.stem)
    spec = checks.resolve_paths(spec, where.absolute().parent)
    if with_files:
        checks.files(spec, problems)
        problems.raise_any()
    given = "".join(f"# submitted with {_option(override)}\n" for override in overrides)
    return JobFile(spec, f"{text.rstrip()}\n{given}" if given else text, problems)


def parse(
    text: str, *, file: str, overrides: Sequence[str] = (), default_name: str = "job"
) -> tuple[JobSpec, Problems]:
    """Check a job file's text without touching any file; also returns where later checks put their errors."""
    value, lines = document.parse(text, file=file)
    if not isinstance(value, dict):
        reason = "is empty" if value is None else "is not a group of 'key: value' lines"
        raise FileError(reason, file=file, hint=FRESH)
    problems = Problems(file, lines, _override(value, overrides))
    given = read_struct(JobSpec, value, (), problems)
    _require(given, problems)
    filled = _fill(given, default_name)
    checks.combinations(filled, given, problems)
    problems.raise_any()
    return msgspec.convert(filled, JobSpec), problems


def _read(path: Path) -> str:
    try:
        raw = _content(path, document.LIMIT_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = checks.neighbour(path) if isinstance(error, FileNotFoundError) else None
        raise FileError(f"cannot be read: {reason}", file=str(path), hint=hint or FRESH) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise FileError("is not UTF-8 text", file=str(path), line=line, hint="save it as UTF-8") from None


def _content(path: Path, most_bytes: int) -> bytes:
    """Read so much of a file, or of a pipe, as in `mmq submit <(...)`; a pipe without a writer must not block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return stream.read(most_bytes)
        content = b""
        while len(content) < most_bytes:
            if not select.select([descriptor], [], [], PIPE_PATIENCE_SECONDS)[0]:
                raise ValueError(f"nothing was written to this pipe for {PIPE_PATIENCE_SECONDS:g} s")
            chunk = stream.read(most_bytes - len(content))
            if not chunk:
                break
            content += chunk
        return content


def _require_text(path: Path) -> None:
    """Refuse a file in a directory whose name is no text: the paths in it become absolute, and are stored as text."""
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise FileError(
            "has a path that is not UTF-8 text", file=ascii(str(path)), hint="rename its directory"
        ) from None


def _option(override: str) -> str:
    """The override as it was typed: `--name=value` has an option of its own."""
    return override if override.startswith("--") else f"-o {override}"


def _override(value: dict[str, Any], overrides: Sequence[str]) -> dict[document.Path, str]:
    """Write `key.sub=value`, or `--key=value`, into the document; returns which field came from which option."""
    places: dict[document.Path, str] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        path = tuple(key.strip().removeprefix("--").split("."))
        place = _option(key.strip())
        if not equals or not all(path) or not key.isprintable() or len(path) > document.DEPTH:
            shown = override if override.isprintable() else ascii(override)
            raise UsageError(f"-o {shown}: is not of the form key.sub=value", hint="-o train.batch_size=8")
        group = value
        for part in path[:-1]:
            if group.get(part) is None:
                group[part] = {}
            group = group[part]
            if not isinstance(group, dict):
                raise UsageError(f"{place}: {part} is a single value and has no keys under it")
        group[path[-1]] = document.plain_scalar(text.strip())
        places[path] = place
    return places


def _require(given: dict[str, Any], problems: Problems) -> None:
    if "kind" not in given and not problems.touched(("kind",)):
        problems.add(("kind",), "is missing", "add 'kind: pretrain' or 'kind: sft'")
    if not given.get("data", {}).get("path") and not problems.touched(("data",)):
        problems.add(("data", "path"), "is missing", "add the file with the training rows: 'path: data.jsonl'")


def _fill(given: dict[str, Any], default_name: str) -> dict[str, Any]:
    kind = given.get("kind", "pretrain")
    train = given.get("train", {})
    data = presets.DATA | {"max_seq_len": presets.MAX_SEQ_LEN[presets.recipe(kind, train)]}
    return {
        "kind": kind,
        "name": given.get("name", checks.name_from(default_name)),
        "model": presets.fill_model(given.get("model", {})),
        "init_from": given.get("init_from"),
        "data": data | given.get("data", {}),
        "train": presets.fill_train(kind, train),
        "priority": given.get("priority", 0),
        "report": given.get("report"),
    } | {section: defaults | given.get(section, {}) for section, defaults in presets.SECTIONS.items()}
