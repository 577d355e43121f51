"""Who has had more than their share lately: GPU-memory-hours with a half-life, over an equal share. Pure."""

from collections import defaultdict
from collections.abc import Iterable

from scheduler.store.history import Use

HALF_LIFE_SECONDS = 86400.0
REMEMBERED_SECONDS = 7 * HALF_LIFE_SECONDS  # less than a hundredth is left of what is older
LATEST = 2000  # attempts looked at


def overuse(uses: Iterable[Use], waiting: Iterable[str], *, now: float) -> dict[str, float]:
    """Return each user's decayed use over the mean of all who wait or have used anything; 1 while nothing was used."""
    used: dict[str, float] = defaultdict(float, dict.fromkeys(waiting, 0.0))
    for use in uses:
        end = now if use.ended_at is None else min(use.ended_at, now)
        used[use.user_name] += use.reserved_bytes * _decayed_seconds(max(0.0, end - use.began_at), now - end)
    mean = sum(used.values()) / len(used) if used else 0.0
    return {user: amount / mean if mean else 1.0 for user, amount in used.items()}


def _decayed_seconds(length: float, age: float) -> float:
    """Return a stretch of time as it counts, so long after its end: as a whole, by its middle."""
    return float(length * 0.5 ** ((age + length / 2) / HALF_LIFE_SECONDS))
