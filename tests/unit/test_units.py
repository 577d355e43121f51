"""Amounts and durations as people read them, and back."""

import pytest

from scheduler.units import format_bytes, format_duration, parse_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.001, "0.001s"), (0.25, "0.2s"), (0.96, "1s"), (42.4, "42s"), (185, "3m 05s"), (90000, "1d 01h")],
)
def test_a_duration_is_never_shown_as_none_at_all(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert (parse_duration(text) > 0) == (seconds > 0)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (3 << 29, "1.5 GiB"), (1000 << 40, "1000 TiB"), (12_345 << 40, "12,345 TiB")],
)
def test_an_amount_has_few_digits_and_thousands_apart(count: int, text: str) -> None:
    assert format_bytes(count) == text
