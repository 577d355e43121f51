"""The controller's cycle on a real store and virtual devices: admitted, explained, refused, never twice."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scheduler.admission.cycle import HEADS
from scheduler.footprint.tracer import Answer
from scheduler.jobs.states import EndReason, JobState
from scheduler.processes.liveness import boot_id, process_started
from scheduler.store import attempts, devices, footprints, heartbeats, jobs
from scheduler.store.records import Outcome
from tests.controller.bench import MIB, Bench
from tests.processes import hold


def ends_out_of_memory(bench: Bench, job_id: int, micro_batch: int) -> None:
    attempt_id = bench.job(job_id).attempt_id
    assert attempt_id is not None
    attempts.claim(bench.db, attempt_id, at=1.0)
    outcome = Outcome(reason=EndReason.OUT_OF_MEMORY, micro_batch=micro_batch, exit_code=80)
    attempts.finish(bench.db, attempt_id, outcome, at=2.0)


def test_a_job_is_traced_admitted_and_published(bench: Bench) -> None:
    job_id = bench.submit()
    bench.cycles(1)
    assert bench.job(job_id).waiting_code == "tracing"
    bench.cycles(1)
    job = bench.job(job_id)
    assert job.state is JobState.ADMITTED
    (attempt,) = attempts.of_job(bench.db, job_id)
    # 512 tokens a row: 8 rows are the knee of 8. 100 MiB and 10 a row; virtual devices have no margin.
    assert (attempt.micro_batch, attempt.accumulation_steps, attempt.device) == (8, 1, "virtual:0")
    assert attempt.reserved_bytes == attempt.predicted_process_bytes == 180 * MIB
    plan = json.loads(attempt.plan)
    assert plan["device_config"]["limit_bytes"] == 180 * MIB
    assert plan["device_config"]["kind"] == "virtual"
    assert plan["environment"]["CUDA_VISIBLE_DEVICES"] == ""
    assert {"micro_batch", "accumulation_steps", "activation_checkpointing"} < set(plan)
    assert bench.publisher.started == [attempt.id]


def test_a_cached_footprint_admits_in_the_first_cycle(bench: Bench) -> None:
    bench.submit()
    bench.cycles()
    second = bench.submit("train.learning_rate=1e-4")  # changes no memory
    bench.cycles(1)
    assert bench.job(second).state is JobState.ADMITTED
    assert len(bench.tracer.asked) == 1  # the fastest means alone: it fits
    assert len(bench.db.query("SELECT key FROM footprints")) == 1


def test_other_means_are_traced_for_a_job_that_the_fastest_does_not_help(bench: Bench) -> None:
    bench.tracer.base_mib, bench.tracer.row_mib = 100, 1500
    job_id = bench.submit()
    bench.cycles(2)
    assert len(bench.tracer.asked) == 1
    assert bench.job(job_id).waiting_code == "tracing"
    bench.cycles(2)
    assert [len(request["modes"]) for request in bench.tracer.asked] == [1, 5]
    (attempt,) = attempts.of_job(bench.db, job_id)
    assert json.loads(attempt.plan)["activation_checkpointing"] != "off"


def test_a_new_controller_finds_the_footprint_in_the_store(bench: Bench) -> None:
    bench.submit()
    bench.cycles()
    bench.tracer.asked.clear()
    later = bench.submit()
    bench.controller = bench.new_controller()
    bench.controller.reconcile()
    bench.cycles(1)
    assert bench.job(later).state is JobState.ADMITTED
    assert bench.tracer.asked == []


def test_packs_until_the_memory_is_promised_and_says_why_the_rest_waits(bench: Bench) -> None:
    bench.tracer.base_mib, bench.tracer.row_mib = 400, 0
    ids = [bench.submit("memory.optimizer_offload=off") for _ in range(4)]
    bench.cycles()
    assert [bench.job(one).state for one in ids] == ["admitted", "admitted", "queued", "queued"]
    waits = bench.job(ids[2])
    assert waits.waiting_code == "memory"
    assert waits.waiting == (
        f"needs 400 MiB; virtual device 0 has 224 MiB free, job {ids[0]} holds 400 MiB, job {ids[1]} holds 400 MiB"
    )


def test_does_not_start_beside_foreign_memory(bench: Bench, bystander) -> None:
    hold(bench.ledger, bystander.pid, 1000 * MIB)
    job_id = bench.submit()
    bench.cycles(4)
    job = bench.job(job_id)
    assert (job.state, job.waiting_code) == (JobState.QUEUED, "memory")
    assert "processes that are not mmq's hold 1000 MiB, and 1.0 GiB are set aside for them" in (job.waiting or "")


def test_what_our_trainer_holds_counts_once_and_raises_its_measured_peak(bench: Bench) -> None:
    bench.tracer.base_mib, bench.tracer.row_mib = 400, 0
    first = bench.submit("memory.optimizer_offload=off")
    bench.cycles()
    attempt_id = bench.job(first).attempt_id
    assert attempt_id is not None
    attempts.claim(bench.db, attempt_id, at=1.0)
    me, ticks = os.getpid(), process_started(os.getpid()) or 0
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)  # a descendant of the "shim"
    attempts.shim_alive(bench.db, attempt_id, shim_pid=me, shim_started=ticks, boot_id=boot_id(), at=1.0)
    hold(bench.ledger, child.pid, 390 * MIB)
    second = bench.submit("memory.optimizer_offload=off")
    bench.cycles()
    child.communicate(b"\n", timeout=10)
    assert bench.job(second).state is JobState.ADMITTED  # 400 promised, not 400 + 390
    assert attempts.get(bench.db, attempt_id).measured_process_bytes == 390 * MIB


def test_what_does_not_fit_is_refused_with_numbers(bench: Bench) -> None:
    bench.tracer.base_mib = 5000
    job_id = bench.submit()
    bench.cycles(4)
    job = bench.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, EndReason.DOES_NOT_FIT)
    assert job.message is not None
    assert "a device of 2.4 GiB would do" in job.message


def test_an_insisted_micro_batch_gets_the_whole_device_and_its_successor_half(bench: Bench) -> None:
    bench.tracer.row_mib = 300
    job_id = bench.submit("memory.micro_batch=8", "memory.activation_checkpointing=off")
    bench.cycles()
    (attempt,) = attempts.of_job(bench.db, job_id)
    assert (attempt.micro_batch, attempt.reserved_bytes) == (8, 1024 * MIB)
    ends_out_of_memory(bench, job_id, 8)
    bench.cycles()
    _, attempt = attempts.of_job(bench.db, job_id)
    assert attempt.micro_batch <= 4
    assert attempt.micro_batch * attempt.accumulation_steps == 8


def test_after_running_out_at_micro_batch_1_the_next_means_is_taken(bench: Bench) -> None:
    job_id = bench.submit()
    bench.cycles()
    ends_out_of_memory(bench, job_id, 1)
    bench.cycles()
    plan = json.loads(attempts.of_job(bench.db, job_id)[-1].plan)
    assert (plan["micro_batch"], plan["activation_checkpointing"]) == (1, "selective")


@pytest.mark.parametrize("hopeless", [True, False])
def test_a_tracer_that_fails(bench: Bench, hopeless: bool) -> None:
    bench.tracer.error = Answer(key="", error="the tracer says no", hopeless=hopeless)
    job_id = bench.submit()
    bench.cycles(3)
    job = bench.job(job_id)
    if hopeless:
        assert (job.state, job.reason) == (JobState.FAILED, EndReason.BAD_CONFIGURATION)
    else:
        assert (job.state, job.waiting_code) == (JobState.QUEUED, "tracing")
        assert job.waiting == "the tracer says no; tried again after 60 s"
        assert len(bench.tracer.asked) == 1


def test_a_tracer_that_does_not_end_is_asked_once_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.controller.footprints.RETRY_SECONDS", 0.0)
    bench.tracer.error = Answer(key="", error="the tracer did not end within 300 s", timed_out=True)
    job_id = bench.submit()
    bench.cycles(6)
    job = bench.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, EndReason.BAD_CONFIGURATION)
    assert job.message == "the tracer did not end within 300 s, twice"
    assert len(bench.tracer.asked) == 2


def test_a_stored_job_that_cannot_be_read_is_refused(bench: Bench) -> None:
    job_id = bench.submit(spec='{"kind": "something else"}')
    bench.cycles()
    assert bench.job(job_id).reason is EndReason.BAD_CONFIGURATION


@pytest.mark.parametrize("spec", ["{", "\x00", '{"kind": "pretrain", "name": 7}'])
def test_a_damaged_spec_is_refused_and_the_next_job_starts(bench: Bench, spec: str) -> None:
    damaged, sound = bench.submit(spec=spec), bench.submit()
    bench.cycles()
    assert bench.job(damaged).reason is EndReason.BAD_CONFIGURATION
    assert bench.job(sound).state is JobState.ADMITTED


def test_a_damaged_row_waits_with_its_reason_and_the_next_job_starts(bench: Bench) -> None:
    damaged, sound = bench.submit(), bench.submit()
    with bench.db.transaction() as tx:
        tx.execute("UPDATE jobs SET effective_batch = 'many' WHERE id = :id", id=damaged)
    bench.cycles()
    assert bench.job(sound).state is JobState.ADMITTED
    (row,) = bench.db.query("SELECT state, waiting_code, waiting FROM jobs WHERE id = :id", id=damaged)
    assert (row["state"], row["waiting_code"]) == ("queued", "error")
    assert "effective_batch" in row["waiting"]
    with bench.db.transaction() as tx:  # what is told again is not written again
        tx.execute(
            "CREATE TRIGGER told AFTER UPDATE OF waiting ON jobs WHEN NEW.waiting_code = 'error'"
            " BEGIN SELECT RAISE(ABORT, 'again'); END"
        )
    bench.cycles()


@pytest.mark.parametrize("place", ["scheduler.controller.snapshot.wish_of", "scheduler.controller.effects.plan_json"])
def test_a_job_that_mmq_fails_on_does_not_stop_the_queue(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    poison, sound = bench.submit(), bench.submit("train.batch_size=4")
    module, name = place.rsplit(".", 1)
    real = getattr(sys.modules[module], name)

    def fails_on_poison(first: object, *others: object, **more: object) -> object:
        batch = getattr(first, "effective_batch", None) or getattr(first, "micro_batch", None)
        if batch == 8:
            raise ZeroDivisionError("poison")
        return real(first, *others, **more)

    monkeypatch.setattr(place, fails_on_poison)
    bench.cycles()
    assert bench.job(sound).state is JobState.ADMITTED
    assert (bench.job(poison).state, bench.job(poison).waiting_code) == (JobState.QUEUED, "error")
    assert bench.job(poison).waiting == "mmq itself failed on it: ZeroDivisionError: poison"
    monkeypatch.setattr(place, real)
    bench.cycles()
    assert bench.job(poison).state is JobState.ADMITTED


def test_a_wall_clock_that_is_set_back_delays_no_second_trace(bench: Bench) -> None:
    seconds = 0.0
    bench.tracer.error = Answer(key="", error="the tracer says no")
    bench.controller = bench.new_controller(monotonic=lambda: seconds)
    bench.controller.reconcile()
    bench.submit()
    bench.cycles(3)
    assert len(bench.tracer.asked) == 1
    bench.controller.clock = lambda: time.time() - 7200
    bench.tracer.error = None
    seconds = 61.0
    bench.cycles(2)
    assert len(bench.tracer.asked) == 2


def test_a_job_waits_for_the_one_it_comes_after(bench: Bench) -> None:
    first = bench.submit()
    second = bench.submit(depends_on=(first,))
    bench.cycles()
    job = bench.job(second)
    assert (job.waiting_code, job.waiting) == ("dependency", f"comes after job {first} (queued)")
    bench.cycles(1)
    assert bench.job(second).waiting == f"comes after job {first} (admitted)"


def test_the_broker_away_is_said_and_made_up_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.controller.dispatch.AWAY_SECONDS", 0.0)
    bench.publisher.away = True
    job_id = bench.submit()
    bench.cycles()
    job = bench.job(job_id)
    assert (job.state, job.waiting_code) == (JobState.ADMITTED, "broker")
    assert "does not answer" in (job.waiting or "")
    assert json.loads(heartbeats.all(bench.db)[0].detail)["broker"] == "the broker at valkey.sock does not answer"
    bench.publisher.away = False
    bench.cycles(1)
    assert bench.publisher.started == [job.attempt_id]
    assert bench.job(job_id).waiting is None


def test_readings_and_a_sign_of_life_are_stored(bench: Bench) -> None:
    bench.cycles(1)
    assert devices.readings(bench.db)["virtual-0@here"].used_bytes == 0
    (beat,) = heartbeats.all(bench.db)
    assert (beat.component, beat.pid) == ("controller@here", os.getpid())


def test_a_device_that_cannot_be_read_gets_no_job(bench: Bench) -> None:
    entry = hold(bench.ledger, os.getpid(), 0)
    entry.write_text("not a number")
    job_id = bench.submit()
    bench.cycles()
    assert (bench.job(job_id).state, bench.job(job_id).waiting_code) == (JobState.QUEUED, "device_error")
    entry.unlink()
    bench.cycles(1)
    assert bench.job(job_id).state is JobState.ADMITTED


def test_a_cancel_between_decision_and_admission_wins(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = bench.submit()
    bench.cycles(1)
    real = attempts.admit

    def cancelled_first(db, wanted, new, *, at):
        jobs.request_cancel(db, job_id, by="ada", at=at)
        return real(db, wanted, new, at=at)

    monkeypatch.setattr("scheduler.store.attempts.admit", cancelled_first)
    bench.cycles(1)
    assert bench.job(job_id).state is JobState.CANCELLED
    assert bench.publisher.started == []
    assert devices.reservations(bench.db) == []


def test_a_long_queue_is_looked_at_in_bounded_pieces(bench: Bench) -> None:
    bench.tracer.base_mib = 1000
    source = bench.job(bench.submit("memory.optimizer_offload=off"))
    with bench.db.transaction() as tx:
        for _ in range(600):
            tx.execute(
                "INSERT INTO jobs (name, kind, user_name, state, waiting_code, waiting, priority, spec, source,"
                " source_path, code_version, effective_batch, gpus, out_of_memory_retries, crash_retries,"
                " submitted_at) SELECT name, kind, user_name, 'queued', 'new', 'new', priority, spec, source,"
                " source_path, code_version, effective_batch, gpus, 0, 0, submitted_at FROM jobs WHERE id = :id",
                id=source.id,
            )
    bench.cycles(5)
    counts = {
        row["waiting_code"]: row["jobs"]
        for row in bench.db.query("SELECT waiting_code, COUNT(*) AS jobs FROM jobs GROUP BY waiting_code")
    }
    assert counts == {None: 1, "memory": HEADS, "behind": 600 - HEADS}


def test_the_stored_answer_is_the_tracers_own(bench: Bench, tmp_path: Path) -> None:
    bench.submit()
    bench.cycles()
    (row,) = bench.db.query("SELECT key FROM footprints")
    stored = footprints.get(bench.db, row["key"])
    assert stored is not None
    assert json.loads(stored.answer)["parameters"] == 7
