"""The policies: what others do, and that ours is the service's own decision."""

import pytest

from scheduler.admission.cycle import decide
from scheduler.simulation import service
from scheduler.simulation.comparison import compare
from scheduler.simulation.hardware import parse
from scheduler.simulation.knowledge import Oracle
from scheduler.simulation.policies import POLICIES
from scheduler.simulation.standard import draw
from tests.unit.simulated import GIB, ONE, ends, job, run

TWO = parse("2x24GiB")


def by(policy: str, *jobs, hardware=ONE, oracle=None):
    return run(list(jobs), POLICIES[policy].make(), hardware, oracle)


def test_first_come_first_served_takes_a_device_a_job() -> None:
    outcome = by("fcfs", job(1), job(2, estimate_seconds=1), job(3), hardware=TWO)
    assert ends(outcome) == {1: 1015, 2: 1015, 3: 2030}


def test_the_shortest_estimate_goes_first_whatever_the_truth() -> None:
    outcome = by("shortest", job(1, estimate_seconds=3), job(2, estimate_seconds=2), job(3, estimate_seconds=1))
    assert ends(outcome) == {3: 1015, 2: 2030, 1: 3045}


def test_declared_memory_is_what_counts_to_those_who_go_by_it() -> None:
    half = job(1, declared_bytes=11 * GIB)
    assert ends(by("declared", half, job(2, declared_bytes=12 * GIB)))[2] == pytest.approx(15 + 1070)
    assert ends(by("declared", half, job(2, declared_bytes=13 * GIB)))[2] == 2030
    assert ends(by("declared", job(1, declared_bytes=99 * GIB)))[1] == 1015


def test_who_declares_too_little_takes_it_from_the_others() -> None:
    small = [job(number, fixed_bytes=8 * GIB, declared_bytes=GIB) for number in (1, 2)]
    assert by("declared", *small).over_commits > 0


def test_a_micro_batch_that_does_not_fit_is_halved_by_its_user() -> None:
    big = job(user_micro_batch=8, bytes_per_sample=4 * GIB)
    for policy in ("fcfs", "shortest", "declared"):
        outcome = by(policy, big, job(2, fixed_bytes=30 * GIB))
        assert [course.known.micro_batch for course in outcome.courses] == [4, 0]
        assert [course.refused for course in outcome.courses] == [False, True]


def test_ours_is_the_decision_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spy(*facts, **more):
        asked.append(more)
        return decide(*facts, **more)

    monkeypatch.setattr(service, "decide", spy)
    outcome = by("mmq", job(1), job(2), job(3, submit_seconds=100))
    assert len(asked) == len(outcome.moments)
    assert {more["policy"].elastic for more in asked} == {True}
    by("rigid", job(1))
    assert asked[-1]["policy"].elastic is False
    assert [more["preemptions_left"] for more in asked[:2]] == pytest.approx([0.0, 0.2])


def test_what_runs_beside_is_packed_and_what_computes_all_the_time_is_not() -> None:
    light = [job(number, utilisation=0.3) for number in (1, 2)]
    assert max(ends(by("mmq", *light)).values()) < 1200
    heavy = [job(number, utilisation=1.0) for number in (1, 2)]
    assert min(ends(by("mmq", *heavy)).values()) == pytest.approx(1015)


def test_reservations_follow_what_was_seen() -> None:
    outcome = by("mmq", job(1), oracle=Oracle(footprint_error=0.05))
    (course,) = outcome.courses
    assert course.known.given_bytes == job().bytes_at(course.known.micro_batch)


def test_a_comparison_is_the_same_each_time_and_has_every_policy() -> None:
    jobs = draw(2, jobs=40)
    first, second = ([each.as_json() for each in compare(jobs, [TWO], list(POLICIES))] for _ in range(2))
    assert first == second
    assert [row["policy"] for row in first] == list(POLICIES)


def test_on_a_standard_workload_sharing_beats_order_and_order_beats_neither() -> None:
    found = {each.policy: each.measures for each in compare(draw(1, jobs=120), [parse("4x24GiB")], list(POLICIES))}
    means = {policy: one.mean_completion_seconds for policy, one in found.items()}
    assert means["mmq"] < means["shortest"] < means["fcfs"]
    assert means["mmq"] < means["declared"] < means["fcfs"]
    assert found["mmq"].over_commits == found["mmq"].out_of_memory == 0
    assert found["mmq"].preemptions <= 0.1 * 120
