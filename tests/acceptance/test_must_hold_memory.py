"""Out of memory on a device that refuses: half the micro-batch, the same effective batch, the same result."""

import pytest

from tests.acceptance.workplace import SLOWLY, Workplace, kill, until
from tests.processes import memory_taken

pytestmark = pytest.mark.timeout(600)  # the default is for tests without a real trainer in them

MIB = 1024**2


def test_a_micro_batch_too_large_is_halved_in_the_same_process(place: Workplace) -> None:
    train = {"batch_size": 64, "max_steps": 4}
    place.job_file("roomy", train=train, memory={"micro_batch": 64})
    place.job_file("tight", train=train, memory={"micro_batch": 64}, resources={"max_memory": "87MiB"})
    roomy, tight = place.submit("roomy.yaml"), place.submit("tight.yaml")
    assert place.until_ended(roomy, tight) == ["succeeded", "succeeded"]
    first, *_ = refusals = place.events(tight, "out_of_memory")
    assert (first["micro_batch"], first["new_micro_batch"], first["step"]) == (64, 32, 1)
    assert len(place.events(tight, "started")) == 1
    reached = refusals[-1]["new_micro_batch"]
    steps = place.events(tight, "step")
    assert {(step["micro_batch"], step["accumulation_steps"]) for step in steps} == {(reached, 64 // reached)}
    assert place.losses(tight) == pytest.approx(place.losses(roomy), rel=1e-5)
    story = place.story(tight)
    assert (story["effective_batch"], story["micro_batch"], story["accumulation_steps"]) == (64, reached, 64 // reached)
    (attempt,) = story["attempts"]
    for figure in ("predicted_process_bytes", "measured_process_bytes"):  # both of the micro-batch that was reached
        assert 64 * MIB < attempt[figure] <= 87 * MIB
    assert "out_of_memory" in {event["kind"] for event in story["events"]}


def test_a_process_that_dies_of_it_goes_on_from_its_checkpoint_with_half_the_micro_batch(place: Workplace) -> None:
    """Memory taken between the check and the start: the trainer can't even place its weights, and dies."""
    expected = place.undisturbed
    job = place.submit("tiny.yaml", *SLOWLY)
    until(lambda: place.events(job, "checkpoint"), "a checkpoint")
    kill(place.until_steps(job, more=2))
    attempt = until(lambda: next(iter(attempts(place, job, number=2)), None), "the second attempt")
    ledger = place.settings.ledger_dir / attempt["device"].replace(":", "-")
    with memory_taken(ledger, 250 * MIB):
        until(lambda: attempts(place, job, number=2)[0]["state"] == "ended", "the death of the second attempt")
    assert place.until_ended(job) == ["succeeded"]

    story = place.story(job)
    assert [one["reason"] for one in story["attempts"]] == ["killed", "out_of_memory", "done"]
    assert [(one["micro_batch"], one["accumulation_steps"]) for one in story["attempts"]] == [(8, 1), (8, 1), (4, 2)]
    assert story["attempts"][1]["exit_code"] == 80
    assert {one["effective_batch"] for one in place.events(job, "started")} == {8}
    last = place.events(job, "started")[-1]
    assert last["step"] in (30, 60, 90)
    assert last["resumed_from"].endswith(f"step-{last['step']}")
    assert place.losses(job) == pytest.approx(expected, rel=1e-5)
    for one in (story["attempts"][0], story["attempts"][2]):
        assert one["predicted_process_bytes"] >= one["measured_process_bytes"] > 64 * MIB
    assert story["attempts"][1]["predicted_process_bytes"] > 64 * MIB


def attempts(place: Workplace, job: int, *, number: int) -> list[dict[str, object]]:
    return place.query("SELECT * FROM attempts WHERE job_id = :job AND number = :number", job=job, number=number)
