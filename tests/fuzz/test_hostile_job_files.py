"""Any job file is a job, or is refused with a sentence; nothing else comes of it, and soon."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.errors import FileError, MmqError
from scheduler.jobs import jobfile, spec
from scheduler.jobs.document import LIMIT_BYTES
from tests.fuzz.loader import refused_or_read

BASE = {"kind": "pretrain", "data": {"path": "rows.jsonl"}}
SECTIONS = ("model", "data", "train", "memory", "resources", "retries", "report", "sample", "init_from", "name", "odd")
FIELDS = sorted(
    {
        name
        for one in (spec.Model, spec.Data, spec.Train, spec.Memory, spec.Resources, spec.Retries)
        for name in one.__struct_encode_fields__
    }
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(["auto", "on", "off", "20GiB", "1e400", "0x" + "f" * 40, "..", "../../etc/passwd", "12h", "@"]),
    st.integers(min_value=10**300, max_value=10**301),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=8
)
groups = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=8), values, max_size=5)
documents = st.dictionaries(st.sampled_from(SECTIONS), groups | values, max_size=5)


@given(documents)
def test_documents_of_our_own_keys(document: dict[str, Any]) -> None:
    merged = BASE | document
    if isinstance(document.get("data"), dict):
        merged["data"] = BASE["data"] | document["data"]  # type: ignore[operator]
    refused_or_read(yaml.safe_dump(merged, allow_unicode=True))


@given(st.text())
@example("kind: pretrain\ndata: {path: a\x00b}\n")
@example("kind: pretrain\ndata: {path: '\\ud800'}\n")
@example("? [a]\n: b\n")
@example("&a [*a]")
@example("{" * 20_000)
@example("- " * 100_000)
@example("a: " + "[" * 100_000)
@example("k: " + "9" * 250_000)
@example("\n".join(f"k{number}: v" for number in range(20_000)))
def test_any_text(text: str) -> None:
    refused_or_read(text)


@given(st.lists(st.text() | st.from_regex(r"[a-z_]{1,8}(\.[a-z_]{1,8}){0,3}=.{0,20}"), max_size=3))
def test_any_override(overrides: list[str]) -> None:
    refused_or_read(yaml.safe_dump(BASE), tuple(overrides))


@given(st.binary())
@example(b"\xff\xfe" + "kind: pretrain".encode("utf-16-le"))
@example(b"kind: pretrain\r\n\x00")
def test_any_bytes_of_a_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(MmqError):
        jobfile.load(path)


def test_a_file_of_any_size_is_read_only_as_far_as_a_job_file_goes(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FileError, match=f"larger than {LIMIT_BYTES // 1024} KiB"):
        jobfile.load(path)


def test_a_pipe_that_nobody_writes_into_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobfile, "PIPE_PATIENCE_SECONDS", 0.2)
    os.mkfifo(tmp_path / "job.yaml")
    with pytest.raises(FileError, match="nothing was written"):
        jobfile.load(tmp_path / "job.yaml")


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    """As `mmq submit <(sed ... job.yaml)` names one."""
    os.mkfifo(tmp_path / "job.yaml")
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n')

    def write() -> None:
        with (tmp_path / "job.yaml").open("w") as pipe:
            for line in yaml.safe_dump(BASE).splitlines(keepends=True):
                pipe.write(line)
                pipe.flush()

    writer = threading.Thread(target=write)
    writer.start()
    found, _ = jobfile.load(tmp_path / "job.yaml")
    writer.join()
    assert found.data.path == str(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "link to itself"])
def test_data_that_is_no_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    rows = tmp_path / "rows.jsonl"
    match kind:
        case "fifo":
            os.mkfifo(rows)
        case "directory":
            rows.mkdir()
        case "device":
            rows.symlink_to("/dev/zero")
        case _:
            rows.symlink_to(rows)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(BASE))
    with pytest.raises(FileError, match=r"data.path"):
        jobfile.load(tmp_path / "job.yaml")


def test_what_a_guided_walk_found_its_way_with_is_walked_again() -> None:
    kept = sorted((Path(__file__).parent / "corpus").iterdir())
    assert len(kept) > 10
    for path in kept:
        refused_or_read(path.read_bytes().decode(errors="surrogateescape"))


def test_twenty_thousand_wrong_keys_are_refused_at_once() -> None:
    began_at = time.process_time()
    refused_or_read("\n".join(f"k{number}: v" for number in range(20_000)))
    assert time.process_time() - began_at < 3
