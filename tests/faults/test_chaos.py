"""200 random faults over a queue of small jobs; `make chaos` is for more. A failure names its seed."""

import os

import pytest

from tests.faults.chaos import stage

FAULTS = 200


@pytest.mark.timeout(1500)
def test_200_random_faults_lose_nothing_double_nothing_and_change_no_curve() -> None:
    seed = int(os.environ.get("CHAOS_SEED") or 11)
    with stage(seed, real=2) as chaos:
        report = chaos.run(FAULTS)
    print(report)
    assert report.wrong == [], str(report)
    assert report.done.total() == FAULTS
    assert report.curves >= 20
