"""Every failpoint there is, one after the other: the process that comes by is killed, or fails as nobody expected.

The job that was on its way ends as if nothing had happened, and all the invariants hold.
"""

import pytest

from scheduler.failpoints import PLACES
from tests.faults.place import FaultPlace
from tests.processes import kill, until

OF_SUBMIT = [place for place in PLACES if place.startswith("submit.")]
OF_ADOPTION = [place for place in PLACES if place.startswith("adoption.")]
OF_THE_REST = [place for place in PLACES if place not in OF_SUBMIT + OF_ADOPTION]
# Between the claim and the trainer's start: another attempt begins. Anywhere else the one there is goes on.
COSTLY = ("claim.committed", "start.locked", "start.detached", "start.named", "start.owned", "start.prepared")
LIVING = ("start.spawned", "start.updated")  # the trainer is to be found alive, long after


@pytest.mark.parametrize("action", ["kill", "error"])
@pytest.mark.parametrize("where", OF_SUBMIT)
def test_a_submit_cut_off_is_stored_whole_or_not_at_all(place: FaultPlace, where: str, action: str) -> None:
    before = {row["id"] for row in place.place.query("SELECT id FROM jobs")}
    place.arm(where, action)
    done = place.place.mmq("submit", "job.yaml")
    place.fired(where)
    assert done.code != 0
    after = {row["id"] for row in place.place.query("SELECT id FROM jobs")}
    new = after - before
    assert len(new) == (0 if where == "submit.inserted" else 1)
    if done.out:
        assert {int(done.out)} == new
    for job in new:
        assert place.undisturbed(job)


@pytest.mark.parametrize("action", ["kill", "error"])
@pytest.mark.parametrize("where", OF_THE_REST)
def test_a_job_goes_its_way_though_somebody_is_cut_off(place: FaultPlace, where: str, action: str) -> None:
    place.job_file("living", lingers=where in LIVING)
    place.arm(where, action)
    job = place.submit("living.yaml")
    place.fired(where)
    if where in LIVING:
        place.place.until_state(job, "running")
        place.hurry()
    assert place.undisturbed(job)
    assert where in COSTLY or len(place.place.story(job)["attempts"]) == 1


@pytest.mark.parametrize("action", ["kill", "error"])
@pytest.mark.parametrize("where", OF_ADOPTION)
def test_an_adoption_cut_off_is_made_by_the_next(place: FaultPlace, where: str, action: str) -> None:
    """The shim is killed as each place needs it: beside its trainer, after the trainer, or after its record.

    A trainer that lives is not given up.
    """
    if where == "adoption.read":
        place.arm("finish.recorded")
    place.job_file("living", steps=120, pause=0.01, lingers=where != "adoption.read")
    place.arm(where, action)
    job = place.submit("living.yaml")
    if where != "adoption.read":
        trainer = place.place.until_steps(job, more=3)
        shim = place.place.shim(job)
        kill(shim)
        if where == "adoption.orphaned":
            kill(trainer)
    place.fired(where)
    place.hurry()
    assert place.undisturbed(job, steps=120)
    assert len(place.place.story(job)["attempts"]) == (2 if where == "adoption.orphaned" else 1)
    until(lambda: place.place.job_processes() == set(), "the end of its processes")
