"""Kill -9 any part of the running system: the trainer that was there goes on, and no step is done twice."""

import os
import signal

import pytest

from tests.acceptance.workplace import SLOWLY, Workplace, gone, kill, until

pytestmark = pytest.mark.timeout(600)  # the default is for tests without a real trainer in them

LONG = "train.max_steps=500"
PARTS = ("controller", "worker", "broker")


def long_job(place: Workplace, steps: str = LONG) -> tuple[int, int]:
    """A job in the middle of its steps, and its trainer's pid."""
    job = place.submit("tiny.yaml", "-o", steps, *SLOWLY)
    return job, place.until_steps(job, more=3)


def undisturbed(place: Workplace, job: int, trainer: int) -> None:
    """To its end: one attempt, one trainer, each step once and in order."""
    assert place.until_ended(job) == ["succeeded"]
    assert [event["pid"] for event in place.events(job, "started")] == [trainer]
    assert place.steps(job) == list(range(1, place.steps(job)[-1] + 1))
    (attempt,) = place.story(job)["attempts"]
    assert (attempt["reason"], attempt["exit_code"], attempt["pid"]) == ("done", 0, trainer)


def test_controller_worker_broker_and_supervisor_killed_one_after_another(place: Workplace) -> None:
    job, trainer = long_job(place)
    for part in PARTS:
        before = place.child(part)
        kill(before)
        until(lambda part=part, pid=before: place.children().get(part, pid) != pid, f"another {part}")
        assert place.until_steps(job, more=2) == trainer, f"{part} was killed"
    os.kill(place.service(), signal.SIGKILL)
    assert place.until_steps(job, more=2) == trainer
    assert "mmq is up" in place.up()
    assert (place.state(job), gone(trainer)) == ("running", False)
    assert place.until_steps(job, more=2) == trainer
    undisturbed(place, job, trainer)


def test_down_while_training_then_up_adopts_though_the_shim_was_killed_too(place: Workplace) -> None:
    job, trainer = long_job(place)
    place.ok("down")
    assert place.until_steps(job, more=2) == trainer
    shim = place.shim(job)
    kill(shim)
    assert place.until_steps(job, more=2) == trainer
    place.up()
    until(lambda: place.known_shim(job) != shim, "another shim")
    assert (place.state(job), gone(trainer)) == ("running", False)
    undisturbed(place, job, trainer)


def test_a_killed_shim_is_replaced_by_the_running_service(place: Workplace) -> None:
    job, trainer = long_job(place, "train.max_steps=250")
    kill(place.shim(job))
    undisturbed(place, job, trainer)


def test_a_killed_trainer_resumes_and_ends_with_the_same_loss(place: Workplace) -> None:
    expected = place.undisturbed
    job = place.submit("tiny.yaml", *SLOWLY)
    until(lambda: place.events(job, "checkpoint"), "a checkpoint")
    kill(place.until_steps(job, more=2))
    assert place.until_ended(job) == ["succeeded"]
    first, second = place.events(job, "started")
    assert second["pid"] != first["pid"]
    assert second["step"] in (30, 60, 90)
    assert second["resumed_from"].endswith(f"step-{second['step']}")
    assert place.losses(job) == expected
    assert [attempt["reason"] for attempt in place.story(job)["attempts"]] == ["killed", "done"]
