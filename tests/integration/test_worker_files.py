"""Files of a run and of the service: followed, written whole, cut by size."""

import errno
import json
import os
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from scheduler.processes.durable import write_durably
from scheduler.processes.rotation import LEFT_OUT, cut_within, rotate
from scheduler.service.logs import last_line, open_log
from trainer.reporting.events import EventLog
from worker.rundir import RunDir
from worker.tail import LINE_BYTES, Tail


def line(event: str, attempt: int = 2, **more: object) -> str:
    return json.dumps({"at": 0, "attempt": attempt, "event": event, **more}) + "\n"


def kinds(tail: Tail) -> list[str]:
    return [event["event"] for event in tail.read()]


def test_a_tail_gives_each_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path, 2)
    assert kinds(tail) == []
    with path.open("w") as file:
        file.write(
            line("a") + line("other", attempt=1) + 'no json\n[1]\n\n{"attempt": 2, "event": ["a"]}\n' + line("b")[:10]
        )
        file.flush()
        assert kinds(tail) == ["a"]
        file.write(line("b")[10:] + line("c"))
        file.flush()
        assert kinds(tail) == ["b", "c"]
    assert kinds(tail) == []


def test_a_tail_from_the_end_passes_over_what_was(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(line("old"))
    tail = Tail.from_end(path, 2)
    with path.open("a") as file:
        file.write(line("new"))
    assert kinds(tail) == ["new"]


def test_a_tail_gets_past_an_absurd_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"x" * (5 * LINE_BYTES) + b"\n" + line("after").encode() + b"\xff\xfe\n" + line("last").encode())
    assert kinds(Tail(path, 2)) == ["after", "last"]


def test_a_durable_write_leaves_just_the_file(tmp_path: Path) -> None:
    write_durably(tmp_path / "exit.json", "{}")
    write_durably(tmp_path / "exit.json", '{"a": 1}')
    assert [path.name for path in tmp_path.iterdir()] == ["exit.json"]
    assert stat.S_IMODE((tmp_path / "exit.json").stat().st_mode) == 0o600


def test_the_names_at_the_top_follow_the_latest_attempt(tmp_path: Path) -> None:
    for number in (1, 2):
        run = RunDir(root=tmp_path / "7", number=number)
        run.create()
        run.prepare("kind: sft\n", {"attempt": number}, "{}")
    assert json.loads((tmp_path / "7/config.json").read_text()) == {"attempt": 2}
    assert (tmp_path / "7/log.txt").readlink() == Path("attempts/2/log.txt")
    assert stat.S_IMODE((tmp_path / "7").stat().st_mode) == 0o700


def test_logs_are_cut_by_size_under_their_writer(tmp_path: Path) -> None:
    path = tmp_path / "log" / "worker.log"
    writer = open_log(path)
    for number in range(4):
        os.write(writer, f"line {number}\n".encode() * 100)
        assert rotate(path, limit_bytes=500, kept=2)
        assert not rotate(path, limit_bytes=500, kept=2)
    os.write(writer, b"the latest\x1b[31m\n\n")
    os.close(writer)
    assert path.read_bytes() == b"the latest\x1b[31m\n\n"
    assert last_line(path) == "the latest[31m"
    assert sorted(p.name for p in path.parent.iterdir()) == ["worker.log", "worker.log.1", "worker.log.2"]
    assert path.with_name("worker.log.1").read_text().startswith("line 3")
    assert {stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()} == {0o600}


def test_of_a_log_cut_within_beginning_and_end_stay(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    limit_bytes = 400_000
    with path.open("ab", buffering=0) as writer:
        for number in range(100_000):
            writer.write(b"line %d\n" % number)
            if not number % 1000:
                cut_within(path, limit_bytes=limit_bytes)
    older = path.with_name("log.txt.1").read_bytes()
    assert len(older) + path.stat().st_size < limit_bytes + 70_000
    first, _, last = older.partition(LEFT_OUT)
    assert first.startswith(b"line 0\nline 1\n")
    assert LEFT_OUT not in last
    numbers = [int(line.split()[1]) for line in (last + path.read_bytes()).splitlines()]
    assert numbers == list(range(numbers[0], 100_000))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log.txt", "log.txt.1"]


def test_a_log_that_nobody_looked_at_for_long_is_cut_as_well(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(200_000)))
    assert cut_within(path, limit_bytes=400_000)
    told = path.with_name("log.txt.1").read_bytes()
    assert path.stat().st_size == 0
    assert len(told) < 280_000
    assert told.startswith(b"line 0\n")
    last = told.split(LEFT_OUT)[1]
    assert [line.split()[0] for line in last.splitlines()[:2]] == [b"line", b"line"]
    assert last.endswith(b"line 199999\n")


def test_a_disk_too_full_for_the_copy_is_not_filled_with_a_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"line\n" * 1000)

    def full(source: BinaryIO, target: BinaryIO) -> None:
        target.write(source.read(100))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert not cut_within(path, limit_bytes=1000)
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_size == 5000
    monkeypatch.undo()
    assert cut_within(path, limit_bytes=1000)


def test_nothing_but_a_file_is_cut_within(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("x" * 1000)
    (tmp_path / "log.txt").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pipe").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pipe")
    assert not cut_within(tmp_path / "log.txt", limit_bytes=10)
    assert not cut_within(tmp_path / "pipe", limit_bytes=-2)
    assert (tmp_path / "elsewhere").read_text() == "x" * 1000


def test_a_tail_goes_on_in_the_shorter_file_that_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = EventLog(path)
    tail, late = Tail(path, 1), Tail.from_end(path, 1)
    seen: list[int] = []
    events.limit_bytes = 20_000
    for step in range(2_000):
        events.write("step", step=step, loss=1.0 / (step + 1))
        if not step % 7:
            seen += [event["step"] for event in tail.read() if event["event"] == "step"]
    assert path.stat().st_size < 20_000
    assert seen == list(range(max(seen) + 1))
    assert [event["step"] for event in late.read() if event["event"] == "step"][-1] == 1_999


def test_a_tail_that_is_told_a_place_beyond_the_end_goes_on_after_the_thinning(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text(line("step", step=1) + line("thinned").replace('": "', '":"') + line("step", step=9))
    assert [event["step"] for event in Tail(path, 2, offset=10_000).read()] == [9]
