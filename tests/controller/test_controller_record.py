"""The record of a cycle: what a real service's controller saw, from which the same is decided again."""

import json
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.admission.decisions import Admit, Decision, Wait
from scheduler.admission.explaining import explain
from scheduler.cli.forecast import forecasts, in_words
from scheduler.controller import record
from scheduler.controller.record import Cycle, Recorder
from scheduler.store import attempts
from tests.controller.bench import MIB, Bench
from tests.controller.test_controller_elastic import NO_MEANS, begin
from tests.controller.test_controller_foreign import NOBODY
from tests.processes import hold


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Cycle]:
    """Every cycle from here on, as it is read again from its record."""
    cycles: list[Cycle] = []
    note = Recorder.note

    def keep(recorder: Recorder, cycle: Cycle) -> None:
        note(recorder, cycle)
        path = recorder.path.with_name(f"{len(cycles)}.json")
        record.write(path, cycle)
        read = record.read(path)
        assert read is not None
        cycles.append(read)
        assert decided(cycle.decisions) == decided(read.decisions)

    monkeypatch.setattr(Recorder, "note", keep)
    return cycles


@pytest.fixture
def kept(bench: Bench, seen: list[Cycle]) -> list[Cycle]:
    """A queue with jobs that run, wait, shrink, come after others, and can't be built."""
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


def test_so_it_is_with_jobs_over_several_devices_preemption_and_foreign_memory(
    tmp_path: Path, seen: list[Cycle], bystander: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.controller.snapshot.PREEMPTIONS_A_JOB", 1.0)
    with closing(Bench(tmp_path, "virtual:2x1GiB")) as bench:
        bench.tracer.base_mib, bench.tracer.row_mib = 900, 0
        whole = (*NO_MEANS, "memory.sharding=none")
        gang = bench.submit(*whole, "resources.gpus=2", "train.max_steps=100000")
        bench.cycles()
        attempt = begin(bench, gang, eta_seconds=90000.0)
        attempts.started(bench.db, attempt.id, **NOBODY, boot_id="b", at=time.time())
        bench.submit(*whole, priority=1)
        bench.cycles()
        hold(bench.ledger, bystander.pid, 300 * MIB)
        bench.submit(*whole, "resources.gpus=2")
        bench.cycles()
    assert any(len(job.device_ids) == 2 for cycle in seen for job in cycle.running)
    assert any(isinstance(one, Admit) and one.preempts for cycle in seen for one in cycle.decisions)
    assert any(device.foreign_bytes for cycle in seen for device in cycle.devices)
    assert {job.gpus for job in seen[-1].jobs} == {1, 2}
    for cycle in seen:
        assert decided(cycle.decided().decisions) == decided(cycle.decisions)


def test_status_reads_the_place_and_the_time_from_it(bench: Bench, kept: list[Cycle]) -> None:
    seen = forecasts(bench.settings)
    waiting = [one for one in kept[-1].decisions if isinstance(one, Wait)]
    assert waiting
    assert set(seen) == {one.job_id for one in waiting}
    for wait in waiting:
        assert seen[wait.job_id].position == wait.position
        assert (in_words(seen[wait.job_id]) is None) == (wait.position is None)
    (bench.settings.cycle_record).write_text("{")
    assert forecasts(bench.settings) == {}


def test_why_tells_what_was_weighed(kept: list[Cycle]) -> None:
    last = kept[-1]
    for job in last.jobs:
        told = explain(job.job_id, last.jobs, last.running, last.devices, preemptions_left=last.preemptions_left)
        assert told, job.job_id


def test_only_what_is_new_is_written_and_damage_is_no_record(bench: Bench) -> None:
    bench.submit()
    bench.cycles(2)
    path = bench.settings.cycle_record
    assert path.stat().st_mode & 0o777 == 0o600
    bench.cycles(1)
    written = path.stat().st_ino
    bench.cycles(2)
    assert path.stat().st_ino == written
    for text in ("", "{", "[]", '{"jobs": 3, "footprints": []}', path.read_text()[:-40]):
        damaged = Path(bench.home / "damaged.json")
        damaged.write_text(text)
        assert record.read(damaged) is None
