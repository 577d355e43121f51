"""What people choose: devices in the job file, a limit of jobs a user."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scheduler.admission.shares import HALF_LIFE_SECONDS
from scheduler.controller.fairness import overuse
from scheduler.jobs.states import JobState
from scheduler.store import attempts, jobs
from scheduler.store.history import Use
from tests.controller.bench import Bench
from tests.controller.test_controller_elastic import begin


@pytest.fixture
def three(tmp_path: Path) -> Bench:
    return Bench(tmp_path, "virtual:3x1GiB")


def device_of(bench: Bench, job_id: int) -> str:
    attempt_id = bench.job(job_id).attempt_id
    assert attempt_id is not None, bench.job(job_id).waiting
    return attempts.get(bench.db, attempt_id).device


def test_a_job_gets_none_but_the_devices_it_names(three: Bench) -> None:
    by_number = three.submit("resources.devices=2")
    by_id = three.submit("resources.devices=[virtual-1@here]")
    gone = three.submit("resources.devices=7,8")
    three.cycles()
    assert (device_of(three, by_number), device_of(three, by_id)) == ("virtual:2", "virtual:1")
    assert three.job(gone).state is JobState.QUEUED
    assert three.job(gone).waiting


def test_no_user_has_more_running_than_the_limit(three: Bench) -> None:
    three.settings = replace(three.settings, user_limit=2)
    three.controller = three.new_controller()
    three.controller.reconcile()
    of_ada = [three.submit("train.max_steps=1000") for _ in range(4)]
    of_bob = three.submit("train.max_steps=1000", user_name="bob")
    three.cycles(3)
    states = [three.job(job_id).state for job_id in of_ada]
    assert states.count(JobState.ADMITTED) == 2
    assert three.job(of_bob).state is JobState.ADMITTED
    waiting = next(three.job(job_id) for job_id in of_ada if three.job(job_id).state is JobState.QUEUED)
    assert (waiting.waiting_code, waiting.waiting) == (
        "user_limit",
        "ada has 2 jobs running, of 2 allowed at once, and other jobs of theirs are ahead of it",
    )
    done = next(job_id for job_id in of_ada if three.job(job_id).state is JobState.ADMITTED)
    begin(three, done)
    jobs.request_cancel(
        three.db, next(one for one in of_ada if one != done and _admitted(three, one)), by="ada", at=1.0
    )
    three.cycles()
    assert sum(_admitted(three, job_id) for job_id in of_ada) == 1  # beside the one that runs


def _admitted(bench: Bench, job_id: int) -> bool:
    return bench.job(job_id).state is JobState.ADMITTED


def test_use_decays_by_halves_and_is_held_against_an_equal_share() -> None:
    now = 10 * HALF_LIFE_SECONDS
    fresh = Use("ada", 1 << 30, now - 100.0, None)
    old = Use("bob", 1 << 30, now - HALF_LIFE_SECONDS - 100.0, now - HALF_LIFE_SECONDS)
    shares = overuse([fresh, old], ["cy"], now=now)
    assert shares["ada"] / shares["bob"] == pytest.approx(2.0, rel=1e-3)
    assert shares["cy"] == 0.0
    assert sum(shares.values()) == pytest.approx(3.0)
    assert overuse([], ["ada"], now=now) == {"ada": 1.0}


def test_a_model_too_large_for_each_device_is_divided_once_that_is_traced(three: Bench) -> None:
    """Of 1,800 MiB each of two devices has 1,125 with ZeRO-2 and 900 with ZeRO-3; a device has 1,024."""
    three.tracer.base_mib, three.tracer.row_mib = 1800, 10
    job_id = three.submit("resources.gpus=2", "memory.optimizer_offload=off")
    asked = []
    for _ in range(6):  # a stage is asked for once a cycle has gone by without it
        three.cycles(1)
        asked.append(three.job(job_id).waiting_code)
    assert asked[:5] == ["tracing"] * 5
    assert [{mode["sharding"] for mode in one["modes"]} for one in three.tracer.asked] == [
        {"none"},
        {"none"},
        {"zero2", "zero3"},
    ]
    assert device_of(three, job_id) == "virtual:0,1"
    attempt = attempts.get(three.db, three.job(job_id).attempt_id or 0)
    plan = json.loads(attempt.plan)
    assert (plan["sharding"], plan["processes"], plan["activation_checkpointing"]) == ("zero3", 2, "off")
    assert attempt.micro_batch * attempt.accumulation_steps >= 4
