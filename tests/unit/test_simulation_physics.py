"""The simulated world, by figures worked out by hand."""

from collections.abc import Iterator

import pytest

from scheduler.simulation.hardware import parse
from scheduler.simulation.knowledge import Oracle
from scheduler.simulation.moves import Move, Preempt, Refuse, Resize, Start, View
from scheduler.simulation.physics import Stalled
from tests.unit.simulated import GIB, Scripted, ends, job, run


def at_once(view: View) -> Iterator[Move]:
    """Start everything on the first device, with the user's micro-batch and what that needs."""
    for known in view.queue:
        micro_batch = known.told.user_micro_batch
        yield Start(known.job_id, 0, micro_batch, known.bytes_at(micro_batch))


def test_a_job_alone_takes_its_start_and_its_time() -> None:
    outcome = run([job(submit_seconds=7)], Scripted(at_once))
    assert ends(outcome) == {1: 7 + 15 + 1000}
    assert [moment.ended for moment in outcome.moments] == [0, 0, 1]


def test_jobs_that_leave_each_other_time_pay_for_being_neighbours_only() -> None:
    outcome = run([job(1, utilisation=0.3), job(2, utilisation=0.6, alone_seconds=2000.0)], Scripted(at_once))
    first = 15 + 1000 * 1.07
    assert ends(outcome)[1] == pytest.approx(first)
    assert ends(outcome)[2] == pytest.approx(first + 1000)


def test_jobs_that_compute_all_the_time_share_it() -> None:
    outcome = run([job(number, utilisation=1.0) for number in (1, 2, 3)], Scripted(at_once))
    assert ends(outcome) == pytest.approx(dict.fromkeys((1, 2, 3), 15 + 1000 * 3 * 1.14))
    busy = outcome.moments[1].busy
    assert busy == pytest.approx(1 / 1.14)


def test_a_job_that_starts_computes_nothing_and_is_a_neighbour() -> None:
    outcome = run([job(1, utilisation=1.0), job(2, submit_seconds=515, utilisation=1.0)], Scripted(at_once))
    done = 500 + 15 / 1.07
    assert ends(outcome)[1] == pytest.approx(530 + (1000 - done) * 2 * 1.07)


def test_a_smaller_micro_batch_is_slower_from_then_on_and_the_change_is_free() -> None:
    def script(view: View) -> Iterator[Move]:
        yield from at_once(view)
        if view.now == pytest.approx(515):
            yield Resize(1, 1, 2 * GIB)

    jobs = [job(1, overhead=4.0), job(2, submit_seconds=515)]
    outcome = run(jobs, Scripted(script), parse("1x24GiB"))
    at_one = 1000 * (1 + 4) / (1 + 1)
    shared = 1015 * 1.07  # until the other one has ended
    left = 0.5 * at_one - 15 / 1.07 - (shared - 15 * 1.07) / 1.07
    assert ends(outcome)[2] == pytest.approx(515 + 15 + 1000 * 1.07)
    assert left > 0
    assert ends(outcome)[1] == pytest.approx(515 + 15 + 1000 * 1.07 + 0.5 * at_one - 15 / 1.07 - 1000)


def test_a_preempted_job_keeps_its_steps_and_takes_longer_to_start_again() -> None:
    def script(view: View) -> Iterator[Move]:
        if view.now == 415:
            yield Preempt(1)
            yield Start(2, 0, 4, 5 * GIB)
        elif not any(seat.residents for seat in view.seats):
            yield from at_once(view)

    outcome = run([job(1), job(2, submit_seconds=415, alone_seconds=100)], Scripted(script))
    assert ends(outcome) == pytest.approx({2: 415 + 115, 1: 530 + 25 + 600})
    assert outcome.preemptions == 1
    first = outcome.courses[0]
    assert (first.first_waited_seconds, first.known.ran_seconds) == (0, 415)


def test_more_promised_than_there_is_is_an_over_commit() -> None:
    fits = run([job(number, fixed_bytes=3 * GIB) for number in (1, 2, 3)], Scripted(at_once))
    assert fits.over_commits == 0
    assert run([job(number, fixed_bytes=4 * GIB) for number in (1, 2, 3)], Scripted(at_once)).over_commits > 0


def test_a_job_given_too_little_starts_again_halved() -> None:
    outcome = run([job(overhead=4.0)], Scripted(lambda view: [Start(k.job_id, 0, 4, 4 * GIB) for k in view.queue]))
    (course,) = outcome.courses
    assert course.ran_out
    assert course.known.micro_batch == 2
    assert course.ended_at == pytest.approx(15 + 15 + 1000 * (1 + 2) / (1 + 1))


def test_a_job_that_runs_out_at_one_sample_is_queued_again_and_known() -> None:
    given = []

    def script(view: View) -> Iterator[Move]:
        for known in view.queue:
            given.append(known.bytes_at(1))
            yield Start(known.job_id, 0, 1, GIB if len(given) == 1 else known.bytes_at(1))

    outcome = run([job()], Scripted(script), oracle=Oracle(footprint_error=0.05))
    assert given[1] == 2 * GIB != given[0]
    assert outcome.courses[0].ended_at == pytest.approx(15 + 15 + 1000)


def test_footprints_that_are_off_are_reserved_for() -> None:
    jobs = [job(number) for number in range(1, 4)]
    outcome = run(jobs, Scripted(at_once), oracle=Oracle(footprint_error=0.05))
    assert not any(course.ran_out for course in outcome.courses)
    given = [course.known.given_bytes / (5 * GIB) for course in outcome.courses]
    assert all(1 <= share <= 1.05 / 0.95 for share in given)
    assert len(set(given)) == 3


def test_a_refused_job_is_done_with() -> None:
    outcome = run([job(1), job(2)], Scripted(lambda view: [Refuse(known.job_id) for known in view.queue]))
    assert all(course.refused and course.ended_at is None for course in outcome.courses)


def test_a_policy_that_leaves_jobs_on_idle_devices_is_told_on() -> None:
    with pytest.raises(Stalled, match="none of 1 jobs"):
        run([job()], Scripted(lambda view: []))
