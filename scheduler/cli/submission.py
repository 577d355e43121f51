"""The checks of a job before it is stored: its file, its rows, its references, and whether it can run here."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from scheduler.cli import feasibility
from scheduler.config import Settings
from scheduler.errors import NoSuchJob, UsageError
from scheduler.jobs import jobfile, parameters, presets, rows
from scheduler.jobs.spec import InitFrom, JobSpec, Model, decode, encode
from scheduler.store import jobs
from scheduler.store.database import Database
from scheduler.store.records import NewJob

_SHAPE = tuple(field for field in Model.__struct_fields__ if field not in ("preset", "max_position_embeddings"))
_DERIVED = ("head_dim", "intermediate_size")  # from the widths, unless somebody said otherwise


class CheckedFile(NamedTuple):
    file: jobfile.JobFile
    path: Path
    data_summary: str  # what was checked of the data


def check(path: Path, overrides: Sequence[str], settings: Settings) -> CheckedFile:
    """Check the job file and the rows of its data; FileError."""
    file = jobfile.read(path, overrides)
    data, skips = file.spec.data, file.spec.data.broken_rows == "skip"
    data_summary = _check_rows(data.path, file.spec.kind, skips)
    if isinstance(data.validation, str):
        _check_rows(data.validation, file.spec.kind, skips)
    return CheckedFile(file, path.absolute(), data_summary)


@cache  # the members of a sweep share their data
def _check_rows(path: str, kind: str, skips: bool) -> str:
    return rows.check(Path(path), kind, skips=skips).sentence


def new_job(
    checked: CheckedFile,
    database: Database | None,
    settings: Settings,
    *,
    after: Sequence[str],
    hold: bool,
    key: str | None,
    variant: str | None = None,
) -> NewJob:
    """Look up what the job refers to, refuse what can't run here, and build what is stored."""
    file = checked.file
    spec = _resolve_init_from(file, database)
    feasibility.require_feasible(spec, file.problems, database, settings)
    depends_on = _resolve(database, after) if after else []
    if spec.init_from is not None and spec.init_from.job is not None:
        depends_on.append(spec.init_from.job)
    return NewJob(
        name=spec.name,
        kind=spec.kind,
        user_name=settings.user,
        spec=encode(spec),
        source=file.source,
        source_path=str(checked.path),
        code_version=code_version(),
        effective_batch=spec.effective_batch,
        gpus=spec.resources.gpus,
        priority=spec.priority,
        submit_key=key,
        hold=hold,
        depends_on=tuple(dict.fromkeys(depends_on)),
        variant=variant,
    )


def _resolve_init_from(file: jobfile.JobFile, database: Database | None) -> JobSpec:
    """Replace the job that `init_from` names by its id; take over its model, or check that the shapes agree."""
    start = file.spec.init_from
    if start is None or start.ref is None:
        return file.spec
    try:
        job_ids = _resolve(database, [start.ref])
    except (NoSuchJob, UsageError) as error:
        file.problems.add(("init_from",), error.message, "a job's id or unique name, or a path with a slash in it")
        file.problems.raise_any()
        raise
    if len(job_ids) != 1 or database is None:
        file.problems.add(("init_from",), f"{start.ref} names {len(job_ids)} jobs; weights come from one")
        file.problems.raise_any()
    assert database is not None
    job_id = job_ids[0]
    model = decode(jobs.get(database, job_id).spec).model
    spec = msgspec.structs.replace(file.spec, init_from=InitFrom(job=job_id))
    if file.problems.gives("model"):
        _require_same_shape(job_id, model, file)
    else:
        spec = _inheriting(spec, model, file)
    file.problems.raise_any()
    return spec


def inherited(file: jobfile.JobFile, database: Database | None) -> JobSpec:
    """Return the job with the model that it will get, for a mere estimate: an unknown `init_from` is ignored."""
    start = file.spec.init_from
    if start is None or start.ref is None or database is None:
        return file.spec
    try:
        return _resolve_init_from(file, database)
    except (NoSuchJob, UsageError):
        file.problems.errors.clear()
        return file.spec


def _inheriting(spec: JobSpec, model: Model, file: jobfile.JobFile) -> JobSpec:
    length, positions = spec.data.max_seq_len, model.max_position_embeddings
    if length > positions:
        reason = f"{length} tokens are more than the max_position_embeddings ({positions}) of the model of init_from"
        file.problems.add(("data", "max_seq_len"), reason)
    return msgspec.structs.replace(spec, model=model)


def _require_same_shape(job_id: int, other: Model, file: jobfile.JobFile) -> None:
    """Name all fields in which the models differ, with a hint what to write; derived fields are left out."""
    ours, theirs = msgspec.structs.asdict(file.spec.model), msgspec.structs.asdict(other)
    different = [field for field in _SHAPE if ours[field] != theirs[field]]
    if not different:
        return
    given = {field: value for field, value in theirs.items() if field not in _DERIVED}
    derived = presets.fill_model(given | {"preset": ours["preset"]})
    named = [field for field in different if field not in _DERIVED or derived[field] != theirs[field]] or different
    reason = ", ".join(f"{field} {theirs[field]} and not {ours[field]}" for field in named)
    hint = ", ".join(f"{field}: {msgspec.json.encode(theirs[field]).decode()}" for field in named)
    file.problems.add(("init_from",), f"job {job_id} trains another model: {reason}", f"model: {{{hint}}}")


def _resolve(database: Database | None, refs: Sequence[str]) -> list[int]:
    if database is None:
        raise NoSuchJob(f"there is no job {refs[0]}: none has been submitted yet")
    return jobs.resolve(database, refs)


@cache  # an array has many members, and one source
def code_version() -> str:
    """The program's version and a checksum of the trainer's source, by which a stored job knows its code."""
    from zlib import crc32

    import scheduler

    folder = Path(scheduler.__file__).parent.parent / "trainer"
    checksum = 0
    for path in sorted(folder.rglob("*.py")):
        checksum = crc32(path.read_bytes(), checksum)
    return f"{scheduler.VERSION}+trainer.{checksum:08x}"


def dry_json(new: NewJob) -> dict[str, Any]:
    return {
        "id": None,
        "name": new.name,
        "state": "held" if new.hold else "queued",
        "effective_batch": new.effective_batch,
        "depends_on": list(new.depends_on),
        "spec": msgspec.json.decode(new.spec),
    }


def dry_text(new: NewJob, checked: CheckedFile) -> str:
    spec = decode(new.spec)
    length = f"{spec.train.max_steps:,} steps" if spec.train.max_steps else f"{spec.train.epochs} epochs"
    lines = [
        f"{checked.path} is good; nothing was stored",
        f"  job    {new.name} ({new.kind}), {length}, effective batch {new.effective_batch}",
        f"  model  {parameters.count(spec.model):,} parameters, {spec.train.dtype}",
        f"  data   {spec.data.path}: {checked.data_summary}",
    ]
    if new.depends_on:
        lines.append(f"  after  {', '.join(map(str, new.depends_on))}")
    return "\n".join(lines)
