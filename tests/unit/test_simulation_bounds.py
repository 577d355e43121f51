"""What no policy can beat, and how fair it was: by hand, and for every policy on any queue."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.simulation.bounds import bounds
from scheduler.simulation.comparison import compare
from scheduler.simulation.fairness import fairness, ideal_completions, jain
from scheduler.simulation.hardware import parse
from scheduler.simulation.policies import POLICIES
from scheduler.simulation.workload import Job
from tests.unit import simulated
from tests.unit.simulated import GIB, ONE, job

TWO = parse("2x24GiB")


def test_the_longest_job_bounds_the_makespan() -> None:
    assert bounds([job(1), job(2, submit_seconds=500)], TWO).makespan_seconds == 500 + 15 + 1000


def test_computing_bounds_the_makespan() -> None:
    many = [job(number, utilisation=0.8, fixed_bytes=0, bytes_per_sample=1) for number in range(1, 11)]
    assert bounds(many, TWO).makespan_seconds == pytest.approx(10 * 800 / 2)


def test_memory_bounds_the_makespan() -> None:
    many = [job(number, utilisation=0.01, fixed_bytes=4 * GIB) for number in range(1, 41)]
    assert bounds(many, TWO).makespan_seconds == pytest.approx(40 * 1000 * 5 / 47)


def test_jobs_over_half_a_device_bound_the_makespan() -> None:
    many = [job(number, utilisation=0.01, fixed_bytes=11 * GIB) for number in range(1, 6)]
    assert bounds(many, TWO).makespan_seconds == pytest.approx(5 * 1000 / 2)


def test_only_what_arrives_later_counts_from_a_later_moment() -> None:
    early = job(1, alone_seconds=10, utilisation=1.0)
    late = [job(number, submit_seconds=5000, utilisation=1.0) for number in (2, 3, 4)]
    assert bounds([early, *late], ONE).makespan_seconds == pytest.approx(5000 + 3000)


def test_mean_completion_is_bounded_by_each_alone_or_by_one_fast_device() -> None:
    assert bounds([job(1)], ONE).mean_completion_seconds == 1015
    three = [job(number, utilisation=1.0, alone_seconds=length) for number, length in ((1, 3000), (2, 1000), (3, 2000))]
    assert bounds(three, ONE).mean_completion_seconds == pytest.approx((1000 + 3000 + 6000) / 3)
    interrupted = [job(1, utilisation=1.0, alone_seconds=3000), job(2, utilisation=1.0, submit_seconds=1000)]
    assert bounds(interrupted, ONE).mean_completion_seconds == pytest.approx((4000 + 1000) / 2)


def test_jobs_that_fit_nowhere_bound_nothing() -> None:
    huge = job(2, fixed_bytes=30 * GIB, alone_seconds=10**6)
    assert bounds([job(1), huge], ONE) == bounds([job(1)], ONE)
    assert bounds([huge], ONE).makespan_seconds == 0


def test_jains_index() -> None:
    assert jain([0.5, 0.5]) == 1
    assert jain([1.0, 0.0]) == 0.5
    assert jain([]) == 1


def test_the_fluid_shares_devices_between_users_not_jobs() -> None:
    jobs = [job(1, user="ada"), *(job(number, user="bob") for number in (2, 3, 4))]
    assert ideal_completions(jobs, 2) == pytest.approx({"ada": 1000, "bob": 3 * 2000})
    assert ideal_completions(jobs[:2], 2) == pytest.approx({"ada": 1000, "bob": 1000})
    assert ideal_completions([job(1), job(2, submit_seconds=500)], 1) == pytest.approx({"ada": 1500 + 1500})


def test_who_is_served_better_than_by_the_fluid_has_a_ratio_of_one() -> None:
    found = fairness({"ada": 100.0, "bob": 100.0}, {"ada": 50.0, "bob": 200.0})
    assert found.ratios == {"ada": 1.0, "bob": 0.5}
    assert (found.worst, found.jain) == (0.5, pytest.approx(2.25 / 2.5))


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=25, deadline=None)
@given(jobs=simulated.jobs(), hardware=st.sampled_from([ONE, TWO, parse("1x24GiB,1x12GiB")]))
def test_no_policy_beats_the_bounds_or_commits_too_much(policy: str, jobs: list[Job], hardware) -> None:
    (result,) = compare(jobs, [hardware], [policy])
    found = result.measures
    assert found.makespan_seconds >= found.makespan_bound_seconds - 1e-6
    assert found.mean_completion_seconds >= found.mean_completion_bound_seconds - 1e-6
    assert found.over_commits == found.out_of_memory == 0
    assert found.utilisation <= 1
    assert found.refused == sum(one.bytes_at(1) > max(hardware.usable_bytes) for one in jobs)
