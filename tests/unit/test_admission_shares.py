"""Fair shares: what users had lately, and how much of it is forgotten."""

import pytest

from scheduler.admission.shares import HALF_LIFE_SECONDS, Use, later, overuse, used

LONG = 100 * HALF_LIFE_SECONDS


def test_half_is_forgotten_with_each_half_life() -> None:
    def one(ago: float) -> float:
        return used([Use(user="ada", reserved_bytes=8, began_ago_seconds=ago + 60, ended_ago_seconds=ago)])["ada"]

    assert one(HALF_LIFE_SECONDS) == pytest.approx(one(0) / 2)
    assert one(3 * HALF_LIFE_SECONDS) == pytest.approx(one(0) / 8)
    assert one(0) == pytest.approx(8 * 60, rel=1e-3)


def test_what_goes_on_for_ever_counts_a_half_life_and_a_half() -> None:
    total = used([Use(user="ada", reserved_bytes=1, began_ago_seconds=LONG)])["ada"]
    assert total == pytest.approx(HALF_LIFE_SECONDS / 0.6931, rel=1e-3)


def test_counting_on_comes_to_the_same_as_counting_anew() -> None:
    counted: dict[str, float] = {}
    for hour in range(1, 30):
        counted = later(counted, 3600, {"ada": 5 * 3600.0, "bob": 3600.0 if hour <= 10 else 0.0})
    anew = used(
        [
            Use(user="ada", reserved_bytes=5, began_ago_seconds=29 * 3600),
            Use(user="bob", reserved_bytes=1, began_ago_seconds=29 * 3600, ended_ago_seconds=19 * 3600),
        ]
    )
    assert counted == pytest.approx(anew)
    assert later(counted, 0.0, {"bob": 7.0}) == pytest.approx(counted | {"bob": counted["bob"] + 7})


def test_overuse_is_over_an_equal_share() -> None:
    assert overuse({"ada": 3.0, "bob": 1.0, "eve": 2.0}) == {"ada": 1.5, "bob": 0.5, "eve": 1.0}
    assert overuse({"ada": 0.0, "bob": 0.0}) == {"ada": 1.0, "bob": 1.0}
    assert overuse({}) == {}
