"""200 random faults over a queue of small jobs, and 100 kills of each process; `make chaos` is for more.

A failure names its seed.
"""

import os

import pytest

from tests.faults.chaos import KILLS, random_walk, rounds_of_kills, stage

FAULTS = 200
KILLS_OF_EACH = 100
WALKS = 4  # so that they go side by side


@pytest.mark.timeout(1500)
def test_200_random_faults_lose_nothing_double_nothing_and_change_no_curve() -> None:
    seed = int(os.environ.get("CHAOS_SEED") or 11)
    with stage(seed, real=2, gangs=4) as chaos:
        report = chaos.run(random_walk(chaos.harm.dice, FAULTS))
    print(report)
    assert report.wrong == [], str(report)
    assert report.done.total() == FAULTS
    assert report.curves >= 20


@pytest.mark.timeout(1500)
@pytest.mark.parametrize("seed", range(WALKS))
def test_100_kills_of_each_process_at_work_lose_no_submit_and_double_no_attempt(seed: int) -> None:
    with stage(seed, pause_seconds=0.2, at_work=True) as chaos:  # what takes long are the processes' starts: few jobs
        report = chaos.run(rounds_of_kills(chaos.harm.dice, KILLS_OF_EACH // WALKS))
    print(report)
    assert report.wrong == [], str(report)
    assert report.done == {f"kill {process}": KILLS_OF_EACH // WALKS for process in KILLS}
    assert report.curves >= KILLS_OF_EACH // WALKS
