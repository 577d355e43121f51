"""What becomes of a job when an attempt ends: each reason's rule, and that it all comes to an end."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.jobs.remedies import Place, would_fit
from scheduler.jobs.retries import (
    CRASHES,
    REBOOTS_FORGIVEN,
    AttemptFacts,
    JobFacts,
    Outcome,
    Shortage,
    Verdict,
    verdict,
)
from scheduler.jobs.states import MOVES, EndReason, JobState

JOB = JobFacts(out_of_memory_allowed=6, crash_allowed=2, activation_checkpointing="off", optimizer_offload="off")
ATTEMPT = AttemptFacts(micro_batch=8)
FINAL = (
    EndReason.BAD_CONFIGURATION,
    EndReason.BAD_DATA,
    EndReason.NON_FINITE_LOSS,
    EndReason.TIME_LIMIT,
    EndReason.DISK_FULL,
    EndReason.DOES_NOT_FIT,
    EndReason.DEPENDENCY_FAILED,
)

reasons = st.sampled_from(list(EndReason))
wishes = st.sampled_from(["auto", "on", "off"])
jobs = st.builds(
    JobFacts,
    out_of_memory_allowed=st.integers(0, 8),
    crash_allowed=st.integers(0, 4),
    out_of_memory_retries=st.integers(0, 8),
    crash_retries=st.integers(0, 4),
    reboots=st.integers(0, 4),
    micro_batch_limit=st.none() | st.integers(1, 64),
    cancel_requested=st.booleans(),
    activation_checkpointing=wishes,
    optimizer_offload=wishes,
)
attempts = st.builds(
    AttemptFacts,
    micro_batch=st.integers(1, 64),
    activation_checkpointing=st.sampled_from(["off", "selective", "full"]),
    optimizer_offload=st.booleans(),
    stop_requested=st.booleans(),
    progressed=st.booleans(),
    device_is_host=st.booleans(),
)
shortages = st.none() | st.builds(
    Shortage,
    phase=st.sampled_from(["forward", "optimizer", "outside steps", "save"]),
    needed_bytes=st.none() | st.integers(0, 9),
    limit_bytes=st.none() | st.integers(0, 9),
)


def decide(reason: EndReason, attempt: AttemptFacts = ATTEMPT, **job: Any) -> Any:
    return verdict(msgspec.structs.replace(JOB, **job), attempt, Outcome(reason=reason))


def test_done_is_done_even_if_a_cancel_came_too_late() -> None:
    assert decide(EndReason.DONE).state is JobState.SUCCEEDED
    assert decide(EndReason.DONE, cancel_requested=True).state is JobState.SUCCEEDED


@pytest.mark.parametrize("reason", [reason for reason in EndReason if reason is not EndReason.DONE])
def test_a_cancel_wins_over_every_retry(reason: EndReason) -> None:
    assert decide(reason, cancel_requested=True).state is JobState.CANCELLED


@pytest.mark.parametrize("reason", FINAL)
def test_what_would_only_happen_again_fails(reason: EndReason) -> None:
    assert decide(reason).state is JobState.FAILED


@pytest.mark.parametrize("reason", sorted(CRASHES))
def test_crashes_are_tried_again_so_often(reason: EndReason) -> None:
    again = decide(reason, crash_retries=1)
    assert (again.state, again.crash_retries, again.out_of_memory_retries) == (JobState.QUEUED, 2, 0)
    assert "retry 2 of 2" in again.message
    assert decide(reason, crash_retries=2).state is JobState.FAILED


def test_every_reason_has_its_rule() -> None:
    covered = {EndReason.DONE, EndReason.CANCELLED, EndReason.OUT_OF_MEMORY, EndReason.STOPPED}
    assert covered | CRASHES | set(FINAL) == set(EndReason)


def test_out_of_memory_halves_then_turns_to_other_means_then_fails() -> None:
    halved = decide(EndReason.OUT_OF_MEMORY)
    assert (halved.state, halved.micro_batch_limit, halved.out_of_memory_retries) == (JobState.QUEUED, 4, 1)
    assert decide(EndReason.OUT_OF_MEMORY, micro_batch_limit=3).micro_batch_limit == 3
    smallest = AttemptFacts(micro_batch=1)
    other = decide(EndReason.OUT_OF_MEMORY, smallest, activation_checkpointing="auto")
    assert (other.state, other.micro_batch_limit) == (JobState.QUEUED, 1)
    assert "activation checkpointing" in other.message
    used = AttemptFacts(micro_batch=1, activation_checkpointing="full")
    last = decide(EndReason.OUT_OF_MEMORY, used, activation_checkpointing="auto", optimizer_offload="auto")
    assert "optimizer offload" in last.message
    selective = AttemptFacts(micro_batch=1, activation_checkpointing="selective")
    assert "full activation" in decide(EndReason.OUT_OF_MEMORY, selective, activation_checkpointing="auto").message
    assert decide(EndReason.OUT_OF_MEMORY, selective, activation_checkpointing="selective").state is JobState.FAILED
    failed = decide(EndReason.OUT_OF_MEMORY, used, activation_checkpointing="auto")
    assert failed.state is JobState.FAILED
    assert "checkpointing was full" in failed.message
    assert "optimizer offload is off in the job file" in failed.message
    assert decide(EndReason.OUT_OF_MEMORY, out_of_memory_retries=6).state is JobState.FAILED


def test_states_too_large_by_themselves_turn_to_offload_at_once_whatever_the_micro_batch() -> None:
    def ended(shortage: Shortage, attempt: AttemptFacts = ATTEMPT, offload: str = "auto") -> Verdict:
        job = msgspec.structs.replace(JOB, optimizer_offload=offload)
        return verdict(job, attempt, Outcome(reason=EndReason.OUT_OF_MEMORY, shortage=shortage))

    for shortage in (Shortage(phase="optimizer"), Shortage(phase="outside steps", needed_bytes=9, limit_bytes=8)):
        after = ended(shortage)
        assert (after.state, after.micro_batch_limit, after.out_of_memory_retries) == (JobState.QUEUED, None, 1)
        assert "with optimizer offload" in after.message
        assert "more memory" in ended(shortage, offload="off").message
        assert "more memory" in ended(shortage, AttemptFacts(micro_batch=8, optimizer_offload=True)).message
    for other in (Shortage(phase="forward"), Shortage(phase="outside steps", needed_bytes=8, limit_bytes=8)):
        assert ended(other).micro_batch_limit == 4


def test_a_cpu_s_trainer_killed_for_memory_ran_out_of_its_device_s() -> None:
    on_cpu = decide(EndReason.HOST_OUT_OF_MEMORY, AttemptFacts(micro_batch=8, device_is_host=True))
    assert (on_cpu.micro_batch_limit, on_cpu.out_of_memory_retries, on_cpu.crash_retries) == (4, 1, 0)
    on_gpu = decide(EndReason.HOST_OUT_OF_MEMORY)
    assert (on_gpu.micro_batch_limit, on_gpu.out_of_memory_retries, on_gpu.crash_retries) == (None, 0, 1)


@pytest.mark.parametrize(
    ("attempt", "offload", "used", "phrase"),
    [
        ({"optimizer_offload": True}, "auto", 0, "retry 1 of 2, without optimizer offload"),
        ({"optimizer_offload": True}, "on", 0, "retry 1 of 2"),
        ({"optimizer_offload": True}, "on", 2, "used up; memory.optimizer_offload: off, fewer jobs at once"),
        (
            {"processes": 2},
            "auto",
            2,
            "used up; fewer resources.gpus (each process holds the weights once), fewer jobs",
        ),
        ({}, "auto", 2, "used up; fewer jobs at once or a host with more memory would do"),
    ],
)
def test_a_host_out_of_memory_is_answered_by_what_takes_less_of_it(
    attempt: dict[str, Any], offload: str, used: int, phrase: str
) -> None:
    job = msgspec.structs.replace(JOB, optimizer_offload=offload, crash_retries=used)
    after = verdict(job, AttemptFacts(micro_batch=8, **attempt), Outcome(reason=EndReason.HOST_OUT_OF_MEMORY))
    assert phrase in after.message
    assert after.state is (JobState.FAILED if used else JobState.QUEUED)
    assert after.micro_batch_limit is None


def test_what_was_too_much_for_the_host_is_not_offered_again() -> None:
    job = {"optimizer_offload": "auto", "spares_host": True}
    failed = decide(EndReason.OUT_OF_MEMORY, AttemptFacts(micro_batch=1), **job)
    assert failed.state is JobState.FAILED
    assert "optimizer offload was too much for the host" in failed.message
    states = Outcome(reason=EndReason.OUT_OF_MEMORY, shortage=Shortage(phase="optimizer"))
    again = verdict(msgspec.structs.replace(JOB, **job), ATTEMPT, states)
    assert "offload" not in again.message


def test_what_would_fit_names_devices_or_a_size() -> None:
    small, large = Place("cuda:0", 8 << 30), Place("cuda:1", 24 << 30)
    sentence = would_fit(10 << 30, [small, large], max_memory_bytes=None)
    assert sentence.startswith("it needs at least 10.0 GiB, which cuda:1 (24.0 GiB) would have")
    capped = would_fit(10 << 30, [small, large], max_memory_bytes=9 << 30)
    assert capped == "resources.max_memory is 9.0 GiB: with more than 10.0 GiB there would be room on cuda:1 (24.0 GiB)"
    nowhere = would_fit(30 << 30, [small, large], max_memory_bytes=None)
    assert nowhere.startswith("the largest device here, cuda:1, has 24.0 GiB: one with more than 30.0 GiB would do")
    assert would_fit(1 << 30, [], max_memory_bytes=None).startswith("a device with more than 1.0 GiB would do")


def test_processes_that_may_divide_more_do_before_their_job_fails() -> None:
    may = ("none", "zero2", "zero3")
    for used in ("none", "zero2"):
        again = decide(EndReason.OUT_OF_MEMORY, AttemptFacts(micro_batch=1, sharding=used), shardings=may)
        assert (again.state, "with more sharding" in again.message) == (JobState.QUEUED, True)
    failed = decide(EndReason.OUT_OF_MEMORY, AttemptFacts(micro_batch=1, sharding="zero3"), shardings=may)
    assert (failed.state, "sharding was zero3" in failed.message) == (JobState.FAILED, True)
    asked = AttemptFacts(micro_batch=1, sharding="zero2")
    assert decide(EndReason.OUT_OF_MEMORY, asked, shardings=("zero2",)).state is JobState.FAILED


def test_a_stop_that_was_asked_for_or_got_further_is_free() -> None:
    for free in (AttemptFacts(micro_batch=8, stop_requested=True), AttemptFacts(micro_batch=8, progressed=True)):
        again = decide(EndReason.STOPPED, free, crash_retries=2)
        assert (again.state, again.crash_retries) == (JobState.QUEUED, 2)
    assert decide(EndReason.STOPPED).crash_retries == 1
    assert decide(EndReason.STOPPED, crash_retries=2).state is JobState.FAILED


def test_a_reboot_is_no_crash_of_the_job_s_unless_there_are_too_many() -> None:
    def lost(job: JobFacts = JOB, *, progressed: bool = False) -> Verdict:
        ended = Outcome(reason=EndReason.LOST, message="the host was rebooted", rebooted=True)
        return verdict(job, AttemptFacts(micro_batch=8, progressed=progressed), ended)

    tired = msgspec.structs.replace(JOB, crash_retries=2, reboots=REBOOTS_FORGIVEN)
    assert (lost().state, lost().crash_retries) == (JobState.QUEUED, 0)
    assert "not count as a crash" in lost().message
    assert lost(tired, progressed=True).state is JobState.QUEUED
    assert lost(tired).state is JobState.FAILED


@given(job=jobs, attempt=attempts, reason=reasons, shortage=shortages, rebooted=st.booleans())
def test_any_verdict_is_legal_and_pays_for_the_next_attempt(
    job: JobFacts, attempt: AttemptFacts, reason: EndReason, shortage: Shortage | None, rebooted: bool
) -> None:
    after = verdict(job, attempt, Outcome(reason=reason, shortage=shortage, rebooted=rebooted))
    assert after.state in MOVES[JobState.RUNNING]
    assert after.message
    spent = (after.out_of_memory_retries - job.out_of_memory_retries) + (after.crash_retries - job.crash_retries)
    if after.state is JobState.QUEUED:
        free = reason is EndReason.STOPPED and (attempt.stop_requested or attempt.progressed)
        forgiven = attempt.progressed or job.reboots < REBOOTS_FORGIVEN
        free |= reason is EndReason.LOST and rebooted and forgiven
        assert spent == (0 if free else 1)
        assert after.out_of_memory_retries <= max(job.out_of_memory_allowed, job.out_of_memory_retries)
        assert after.crash_retries <= max(job.crash_allowed, job.crash_retries)
    else:
        assert spent == 0
    of_states = shortage is not None and shortage.is_of_states
    if after.micro_batch_limit is not None and reason is EndReason.OUT_OF_MEMORY and not of_states:
        assert 1 <= after.micro_batch_limit <= (job.micro_batch_limit or 64)


@settings(max_examples=50)
@given(data=st.data(), micro_batch=st.integers(1, 64), total_steps=st.integers(0, 5))
def test_a_job_is_started_a_bounded_number_of_times(data: st.DataObject, micro_batch: int, total_steps: int) -> None:
    """Whatever ends them, and whoever stops them: without a person's asking, retries and steps run out."""
    job, reached, attempts_made, state = JOB, 0, 0, JobState.QUEUED
    while state is JobState.QUEUED:
        attempts_made += 1
        step = data.draw(st.integers(0, total_steps))
        now = AttemptFacts(
            micro_batch=min(micro_batch, job.micro_batch_limit or micro_batch), progressed=step > reached
        )
        reached = max(reached, step)
        ended = Outcome(reason=data.draw(reasons), rebooted=data.draw(st.booleans()))
        after = verdict(job, now, ended)
        state = after.state
        job = msgspec.structs.replace(
            job,
            micro_batch_limit=after.micro_batch_limit,
            out_of_memory_retries=after.out_of_memory_retries,
            crash_retries=after.crash_retries,
            reboots=job.reboots + ended.rebooted,
        )
    assert attempts_made <= 1 + JOB.out_of_memory_allowed + JOB.crash_allowed + REBOOTS_FORGIVEN + total_steps
