"""The record of a cycle: what a real service's controller saw, from which the same is decided again."""

import json
from pathlib import Path

import pytest

from scheduler.admission.decisions import Admit, Decision, Wait
from scheduler.admission.explaining import explain
from scheduler.cli.outlook import in_words, outlooks
from scheduler.controller import record
from scheduler.controller.record import NAME, Cycle, Recorder
from tests.controller.bench import Bench
from tests.controller.test_controller_elastic import NO_MEANS, begin


@pytest.fixture
def kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[Cycle]:
    """Every cycle of a queue with jobs that run, wait, shrink, come after others, and can't be built."""
    seen: list[Cycle] = []
    note = Recorder.note

    def keep(recorder: Recorder, cycle: Cycle) -> None:
        note(recorder, cycle)
        path = bench.home / f"{len(seen)}.json"
        record.write(path, cycle)
        read = record.read(path)
        assert read is not None
        seen.append(read)
        assert decided(cycle.decisions) == decided(read.decisions)

    monkeypatch.setattr(Recorder, "note", keep)
    bench.tracer.base_mib, bench.tracer.row_mib = 200, 80
    first = bench.submit(*NO_MEANS, "train.max_steps=1000")
    bench.cycles()
    begin(bench, first)
    second = bench.submit()
    bench.submit(depends_on=(second,))
    bench.submit("resources.exclusive=true", priority=3)
    bench.submit("memory.micro_batch=8")
    bench.cycles(3)
    return seen


def decided(decisions: tuple[Decision, ...]) -> object:
    return json.loads(record.msgspec.json.encode(decisions))


def test_the_same_is_decided_from_the_record(kept: list[Cycle]) -> None:
    assert any(isinstance(one, Admit) and one.shrinks for cycle in kept for one in cycle.decisions)
    assert any(cycle.running for cycle in kept)
    for cycle in kept:
        assert decided(cycle.decided().decisions) == decided(cycle.decisions)


def test_status_reads_the_place_and_the_time_from_it(bench: Bench, kept: list[Cycle]) -> None:
    seen = outlooks(bench.settings)
    waiting = [one for one in kept[-1].decisions if isinstance(one, Wait)]
    assert waiting
    assert set(seen) == {one.job_id for one in waiting}
    for wait in waiting:
        assert seen[wait.job_id].position == wait.position
        assert (in_words(seen[wait.job_id]) is None) == (wait.position is None)
    (bench.home / NAME).write_text("{")
    assert outlooks(bench.settings) == {}


def test_why_tells_what_was_weighed(kept: list[Cycle]) -> None:
    last = kept[-1]
    for job in last.jobs:
        told = explain(job.job_id, last.jobs, last.running, last.devices, preemptions_left=last.preemptions_left)
        assert told, job.job_id


def test_only_what_is_new_is_written_and_damage_is_no_record(bench: Bench) -> None:
    bench.submit()
    bench.cycles(2)
    path = bench.home / NAME
    assert path.stat().st_mode & 0o777 == 0o600
    bench.cycles(1)
    written = path.stat().st_ino
    bench.cycles(2)
    assert path.stat().st_ino == written
    for text in ("", "{", "[]", '{"jobs": 3, "footprints": []}', path.read_text()[:-40]):
        damaged = Path(bench.home / "damaged.json")
        damaged.write_text(text)
        assert record.read(damaged) is None
