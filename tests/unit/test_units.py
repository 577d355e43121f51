"""Durations as people read them, and back."""

import pytest

from scheduler.units import format_duration, parse_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.001, "0.001s"), (0.25, "0.2s"), (0.96, "1s"), (42.4, "42s"), (185, "3m 05s"), (90000, "1d 01h")],
)
def test_a_duration_is_never_shown_as_none_at_all(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert (parse_duration(text) > 0) == (seconds > 0)
