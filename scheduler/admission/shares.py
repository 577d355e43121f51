"""How much of the devices each user had lately: memory x time, half of which is forgotten with each half-life. Pure."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

HALF_LIFE_SECONDS = 86400.0
_RATE = math.log(2) / HALF_LIFE_SECONDS


@dataclass(frozen=True, kw_only=True)
class Use:
    """So much memory was a user's, from so many seconds ago until so many."""

    user: str
    reserved_bytes: int
    began_ago_seconds: float
    ended_ago_seconds: float = 0.0  # 0: it goes on


def used(uses: Iterable[Use]) -> dict[str, float]:
    """Return by user the byte-seconds that count now."""
    total: dict[str, float] = {}
    for use in uses:
        counted = (_remembered(use.ended_ago_seconds) - _remembered(use.began_ago_seconds)) / _RATE
        total[use.user] = total.get(use.user, 0.0) + use.reserved_bytes * counted
    return total


def later(counted: Mapping[str, float], seconds: float, added: Mapping[str, float]) -> dict[str, float]:
    """Return what counts so many seconds later, when byte-seconds were added evenly meanwhile."""
    kept = _remembered(seconds)
    of_added = (1 - kept) / (_RATE * seconds) if seconds else 1.0
    return {
        user: counted.get(user, 0.0) * kept + added.get(user, 0.0) * of_added for user in sorted({*counted, *added})
    }


def overuse(byte_seconds: Mapping[str, float]) -> dict[str, float]:
    """Return by user what was used over an equal share of all; 1 where nobody used anything."""
    equal = sum(byte_seconds.values()) / len(byte_seconds) if byte_seconds else 0.0
    return {user: one / equal if equal else 1.0 for user, one in byte_seconds.items()}


def _remembered(seconds: float) -> float:
    """Return the share of a use so long ago that still counts."""
    return math.exp(-_RATE * seconds)
