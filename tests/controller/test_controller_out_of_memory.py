"""What is planned after an attempt ran out of device memory for good: less of it by other means, until none is left."""

import json
import time
from typing import Any

import pytest

from scheduler.jobs.retries import Shortage
from scheduler.jobs.states import EndReason, JobState
from scheduler.store import attempts, jobs, observations
from scheduler.store.records import Attempt, Outcome
from tests.controller.bench import MIB, Bench

MEANS = ("activation_checkpointing", "optimizer_offload")


def admitted(bench: Bench, job_id: int) -> Attempt:
    bench.cycles(4)  # the other means are traced once the first are no help
    job = bench.job(job_id)
    assert job.state is JobState.ADMITTED, (job.state, job.waiting, job.message)
    assert job.attempt_id is not None
    return attempts.get(bench.db, job.attempt_id)


def run_out(bench: Bench, attempt: Attempt, *, phase: str = "forward", micro_batch: int, lacked_bytes: int = 1) -> None:
    """End an attempt as a trainer's refusal does: its event into the story, then its end."""
    attempts.claim(bench.db, attempt.id, at=time.time())
    event: dict[str, Any] = {
        "step": 1,
        "phase": phase,
        "micro_batch": micro_batch,
        "new_micro_batch": None,
        "needed_bytes": attempt.reserved_bytes + lacked_bytes,
        "limit_bytes": attempt.reserved_bytes,
    }
    observations.note(bench.db, attempt, "out_of_memory", event, at=time.time())
    told = {name: event[name] for name in Shortage.__struct_fields__}
    outcome = Outcome(reason=EndReason.OUT_OF_MEMORY, exit_code=80, micro_batch=micro_batch, shortage=Shortage(**told))
    attempts.finish(bench.db, attempt.id, outcome, at=time.time())


def means(attempt: Attempt) -> tuple[object, ...]:
    plan = json.loads(attempt.plan)
    return tuple(plan[name] for name in MEANS)


def test_at_micro_batch_1_checkpointing_then_offload_are_tried_and_then_it_is_said_what_would_fit(bench: Bench) -> None:
    bench.tracer.base_mib, bench.tracer.row_mib = 100, 80
    job_id = bench.submit("memory.micro_batch=1")
    tried = []
    for _ in range(7):
        attempt = admitted(bench, job_id)
        tried.append(means(attempt))
        run_out(bench, attempt, micro_batch=1)
        if bench.job(job_id).state is JobState.FAILED:
            break
    checkpointing = ("off", "selective", "full")
    assert tried == [(one, offloads) for offloads in (False, True) for one in checkpointing]
    job = bench.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, EndReason.OUT_OF_MEMORY)
    assert job.message is not None
    assert "with nothing left to try: activation checkpointing was full, optimizer offload was on" in job.message
    assert ", which virtual:0 (1.0 GiB) would have: mmq retry" in job.message
    story = bench.db.query("SELECT detail FROM events WHERE job_id = :job AND to_state = 'admitted'", job=job_id)
    told = [json.loads(row["detail"]).get("means") for row in story]
    assert told[:2] == [None, "selective activation checkpointing"]
    assert told[-1] == "activation checkpointing, optimizer offload"
    story = bench.db.query("SELECT detail FROM events WHERE job_id = :job AND to_state = 'queued'", job=job_id)
    said = [json.loads(row["detail"])["message"] for row in story if "message" in json.loads(row["detail"])]
    assert ["with activation checkpointing" in said[0], "with optimizer offload" in said[2]] == [True, True]


def test_what_the_states_lack_is_not_sought_in_the_micro_batch(bench: Bench) -> None:
    job_id = bench.submit()
    first = admitted(bench, job_id)
    run_out(bench, first, phase="optimizer", micro_batch=first.micro_batch)
    second = admitted(bench, job_id)
    assert json.loads(second.plan)["optimizer_offload"] is True
    assert second.micro_batch == first.micro_batch > 1


def test_a_crash_in_between_does_not_bring_back_what_was_too_much(bench: Bench) -> None:
    bench.tracer.row_mib = 80
    job_id = bench.submit()
    run_out(bench, admitted(bench, job_id), micro_batch=1)
    again = admitted(bench, job_id)
    assert means(again) == ("selective", False)
    attempts.claim(bench.db, again.id, at=time.time())
    attempts.finish(bench.db, again.id, Outcome(reason=EndReason.KILLED, exit_signal=9), at=time.time())
    assert means(admitted(bench, job_id)) == ("selective", False)


def test_a_retry_by_hand_begins_anew(bench: Bench) -> None:
    bench.tracer.row_mib = 80
    job_id = bench.submit("retries.out_of_memory=0")
    run_out(bench, admitted(bench, job_id), micro_batch=1)
    assert bench.job(job_id).state is JobState.FAILED
    jobs.retry(bench.db, job_id, at=time.time())
    assert means(admitted(bench, job_id)) == ("off", False)


@pytest.mark.parametrize("lacked_mib", [0, 50])
def test_a_later_job_of_the_same_configuration_is_planned_by_the_refusal(bench: Bench, lacked_mib: int) -> None:
    """The prediction was too small by so much: the next job of the same kind is reserved more from the start."""
    job_id = bench.submit("memory.micro_batch=8", "retries.out_of_memory=0")
    first = admitted(bench, job_id)
    assert first.predicted_process_bytes == first.reserved_bytes == 180 * MIB
    run_out(bench, first, micro_batch=8, lacked_bytes=lacked_mib * MIB)
    same = admitted(bench, bench.submit("memory.micro_batch=8"))
    assert same.reserved_bytes == (180 + lacked_mib) * MIB
    attempts.claim(bench.db, same.id, at=time.time())
    attempts.finish(bench.db, same.id, Outcome(reason=EndReason.DONE, exit_code=0), at=time.time())
    other = admitted(bench, bench.submit("memory.micro_batch=8", "model.hidden_size=128"))
    assert other.reserved_bytes == 180 * MIB


def test_what_the_host_had_no_memory_for_is_not_laid_there_again(bench: Bench) -> None:
    bench.tracer.base_mib = 1200
    job_id = bench.submit()
    first = admitted(bench, job_id)
    assert json.loads(first.plan)["optimizer_offload"] is True
    attempts.claim(bench.db, first.id, at=time.time())
    outcome = Outcome(reason=EndReason.HOST_OUT_OF_MEMORY, exit_signal=9, message="killed by the kernel")
    attempts.finish(bench.db, first.id, outcome, at=time.time())
    back = bench.job(job_id)
    assert (back.state, back.crash_retries) == (JobState.QUEUED, 1)
    bench.cycles(3)
    job = bench.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, EndReason.DOES_NOT_FIT)
    assert "1.2 GiB would do, or a host with more memory: with optimizer offload that ran out" in (job.message or "")
