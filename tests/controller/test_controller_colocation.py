"""A pair that was slower together than by turns is not packed again: measured, kept, explained, tried again later."""

import time

import pytest

from scheduler.admission.colocation import StepTime
from scheduler.admission.explaining import explain
from scheduler.admission.policy import Policy
from scheduler.admission.wish import wish_of
from scheduler.controller import record
from scheduler.controller.colocation import configuration
from scheduler.jobs.spec import decode
from scheduler.jobs.states import EndReason, JobState
from scheduler.store import attempts, paces
from scheduler.store.records import Attempt, Outcome, Progress
from tests.controller.bench import Bench
from tests.controller.test_controller_elastic import begin

BEAT_SECONDS = 10.0
DONE = Outcome(reason=EndReason.DONE, message="done", exit_code=0)
OTHER = "train.batch_size=4"  # another configuration than that of the job file


def tell(bench: Bench, seconds: float, rates: dict[Attempt, float]) -> None:
    """Let attempts take steps for a time, at so many a second each, told as their shims would."""
    begun = time.time()
    for beat in range(1, int(seconds / BEAT_SECONDS) + 1):
        for attempt, rate in rates.items():
            progress = Progress(step=5 + int(attempts.get(bench.db, attempt.id).step or 0) + int(BEAT_SECONDS * rate))
            attempts.heartbeat(bench.db, attempt.id, progress, at=begun + beat * BEAT_SECONDS)
        bench.controller.cycle()


@pytest.fixture
def first(bench: Bench) -> Attempt:
    """A job that runs alone, and was seen to."""
    job = bench.submit("train.max_steps=100000")
    bench.cycles()
    attempt = begin(bench, job)
    tell(bench, 60, {attempt: 10.0})
    return attempt


@pytest.fixture
def both(bench: Bench, first: Attempt) -> tuple[Attempt, Attempt]:
    """Two jobs of different kinds on one device."""
    job = bench.submit("train.max_steps=100000", OTHER)
    bench.cycles()
    return first, begin(bench, job)


def pairs(bench: Bench) -> set[bool]:
    return {bool(row["beside"]) for row in bench.db.query("SELECT beside FROM paces")}


def test_what_is_seen_is_kept(bench: Bench, both: tuple[Attempt, Attempt]) -> None:
    first, second = both
    assert pairs(bench) == {False}
    tell(bench, 60, {first: 4.0, second: 4.0})
    assert pairs(bench) == {False, True}
    tell(bench, 20, {first: 4.0, second: 4.0})  # the second was never seen alone: nothing is concluded
    assert bench.db.query("SELECT id FROM events WHERE kind = 'slower_together'") == []


def slower(bench: Bench, at: float) -> None:
    """Write down that jobs like the one that runs and jobs like `OTHER` were slower together."""
    mine = bench.db.query("SELECT configuration FROM paces WHERE beside = ''")[0]["configuration"]
    other = bench.submit(OTHER, hold=True)
    spec = decode(bench.job(other).spec)
    its = configuration(spec, wish_of(spec), bench.devices.discover()[0])
    assert its != mine
    known = [(mine, "", 0.1), (its, "", 0.1), (mine, its, 0.25), (its, mine, 0.25)]
    news = [StepTime(configuration=a, beside=b, seconds_per_step=one) for a, b, one in known]
    paces.note(bench.db, news, at=at)


def test_they_are_not_packed_again_and_the_job_says_why(bench: Bench, first: Attempt) -> None:
    slower(bench, time.time())
    waiting = bench.submit(OTHER)
    bench.cycles()
    job = bench.job(waiting)
    assert (job.state, job.waiting_code) == (JobState.QUEUED, "sharing")
    assert f"side by side with job {first.job_id}, the two were measured at 0.80 of the speed" in (job.waiting or "")
    kept = record.read(bench.settings.cycle_record)
    assert kept is not None
    assert kept.decided().decisions == kept.decisions
    told = explain(waiting, kept.jobs, kept.running, kept.devices)
    assert any("0.80 of the speed of one after the other" in line for line in told)
    alike = bench.submit()  # one of the kind that runs has nothing against it
    bench.cycles()
    assert bench.job(alike).state is JobState.ADMITTED


def test_nor_are_two_that_start_in_one_cycle(bench: Bench, first: Attempt) -> None:
    slower(bench, time.time())
    attempts.finish(bench.db, first.id, DONE, at=time.time())
    jobs = [bench.submit(), bench.submit(OTHER)]
    bench.cycles()
    assert sorted(bench.job(job).state for job in jobs) == [JobState.ADMITTED, JobState.QUEUED]


@pytest.mark.parametrize("of", ["pair", "job"])
def test_after_a_day_the_two_are_tried_again_and_whoever_waited_too_long_at_once(
    bench: Bench, first: Attempt, of: str
) -> None:
    slower(bench, time.time() - (paces.TOGETHER_SECONDS + 60 if of == "pair" else 0))
    waiting = bench.submit(OTHER)
    if of == "job":
        with bench.db.transaction() as tx:
            tx.execute(
                "UPDATE jobs SET submitted_at = submitted_at - :seconds WHERE id = :id",
                seconds=Policy().most_patience_seconds + 60,
                id=waiting,
            )
    bench.cycles()
    assert bench.job(waiting).state is JobState.ADMITTED, bench.job(waiting).waiting


def test_the_story_of_a_pair_that_runs_tells_of_it(bench: Bench, both: tuple[Attempt, Attempt]) -> None:
    first, second = both
    tell(bench, 60, {first: 4.0, second: 4.0})
    with bench.db.transaction() as tx:  # the second kind was seen alone on another day
        tx.execute(
            "INSERT INTO paces SELECT configuration, '', 0.1, at FROM paces"
            " WHERE beside <> '' AND configuration NOT IN (SELECT configuration FROM paces WHERE beside = '')"
        )
    bench.cycles()
    told = bench.db.query("SELECT job_id, detail FROM events WHERE kind = 'slower_together' ORDER BY job_id")
    assert [row["job_id"] for row in told] == [first.job_id, second.job_id]
    assert f'"job": {second.job_id}' in told[0]["detail"]
