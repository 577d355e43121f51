"""A run directory may hold anything: the shim reads on, nothing outside is written, and nothing is waited for."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.processes.durable import write_durably
from scheduler.store.run_records import read_end
from worker.classification import Ending, Exit, classify, code_of
from worker.ending import outcome_of
from worker.progress import EventSummary, happened_at
from worker.rundir import RunDir
from worker.tail import Tail
from worker.tasks import read_ids

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["optimizer", "failed", 80]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    *("event", "attempt", "at", "step", "total_steps", "loss", "micro_batch", "new_micro_batch", "phase", "message"),
    *("needed_bytes", "limit_bytes", "exit_code", "reason", "peaks", "process_peak_bytes", "number", "eta_seconds"),
]
KINDS = ["started", "step", "out_of_memory", "failed", "finished", "evaluation", "resized", "checkpoint", "memory"]
events = st.builds(
    lambda fields, kind: fields | {"event": kind, "attempt": 1},
    st.dictionaries(st.sampled_from(KEYS), anything, max_size=8),
    st.sampled_from(KINDS),
)
records = anything.map(lambda one: json.dumps(one).encode())
lines = events.map(lambda event: json.dumps(event).encode()) | st.binary() | records


@given(st.lists(lines, max_size=8).map(b"\n".join))
@example(b"[" * 200_000)
@example(b'{"event": "failed", "attempt": 1, "message": "\\ud800", "exit_code": 1}')
@example(b'{"event": "out_of_memory", "attempt": 1, "phase": "\\ud800", "needed_bytes": 1e400}')
@example(b'{"event": "step", "attempt": 1, "loss": ' + b"9" * 400 + b"}")
@example(b'{"event": "step", "attempt": 1, "loss": ' + b"9" * 5000 + b"}")
def test_any_events_are_heard_out(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "events.jsonl").write_bytes(content + b"\n")
    summary = EventSummary()
    for event in Tail(tmp_path / "events.jsonl", 1).read():
        summary.add(event)
        happened_at(event)
    summary.progress()
    outcome = outcome_of(Ending(exit=Exit(code=1), last=summary.last), summary)
    assert storable(outcome.message)
    for value in summary.numbers.values():
        assert isinstance(value, int | float)
        assert abs(value) < 1 << 63 or isinstance(value, float)


def storable(text: str | None) -> bool:
    return text is None or bool(text.encode())


@given(anything, anything)
def test_any_result_is_classified(result: Any, event: Any) -> None:
    found = result if isinstance(result, dict) else {"exit_code": result, "reason": result, "message": result}
    last = {"event": "failed", "exit_code": event, "message": event, "reason": event}
    for exit_ in (Exit(), Exit(code=1), Exit(signal=9)):
        reason, message = classify(Ending(exit=exit_, last=last, result=found))
        assert reason
        assert storable(message)
        code_of(Ending(exit=exit_, last=last, result=found))


@given(st.binary() | records)
@example(b"[" * 200_000)
@example(b'{"reason": "done", "message": "\\ud800"}')
def test_any_record_of_an_end_is_read_or_none(tmp_path: Path, content: bytes) -> None:
    run = RunDir(root=tmp_path, number=1)
    run.create()
    run.exit.write_bytes(content)
    run.result.write_bytes(content)
    end = read_end(run.exit)
    assert end is None or storable(end.outcome.message)
    run.read_result()


def test_a_record_of_any_size_is_not_read_whole(tmp_path: Path) -> None:
    run = RunDir(root=tmp_path, number=1)
    run.create()
    with run.result.open("wb") as file:
        file.truncate(1 << 40)
    assert run.read_result() is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["events.jsonl", "result.json", "attempts/1/exit.json"])
@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    run = RunDir(root=tmp_path, number=1)
    run.create()
    match kind:
        case "fifo":
            os.mkfifo(tmp_path / name)
        case "device":
            (tmp_path / name).symlink_to("/dev/zero")
        case _:
            (tmp_path / name).mkdir()
    assert Tail(run.events, 1).read() == []
    assert Tail.from_end(run.events, 1).read() == []
    assert run.read_result() is None
    assert read_end(run.exit) is None


def test_a_link_in_the_way_of_what_is_written_is_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    (run / f".exit.json.{os.getpid()}").symlink_to(outside)
    (run / "exit.json").symlink_to(outside)
    write_durably(run / "exit.json", "{}\n")
    assert outside.read_text() == "mine"
    assert (run / "exit.json").read_text() == "{}\n"
    assert not (run / "exit.json").is_symlink()


@given(st.lists(anything, max_size=3).map(tuple), st.dictionaries(st.text(), anything, max_size=1))
def test_any_message_names_two_ids_or_nothing(said: tuple[object, ...], more: dict[str, object]) -> None:
    found = read_ids(said, more)
    assert found is None or (found == said and not more and all(0 < one < 1 << 63 for one in found))


def test_a_long_line_of_nothing_is_stepped_over_in_time(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"x" * (64 << 20) + b'\n{"event": "step", "attempt": 1}\n')
    began_at = time.process_time()
    assert [event["event"] for event in Tail(path, 1).read()] == ["step"]
    assert time.process_time() - began_at < 5
