"""Who has had more than their share lately, from what the store knows of attempts: the facts for `admission.shares`."""

from collections.abc import Iterable

from scheduler.admission import shares
from scheduler.store.history import Use

REMEMBERED_SECONDS = 7 * shares.HALF_LIFE_SECONDS  # less than a hundredth is left of what is older
LATEST = 2000  # attempts looked at


def overuse(uses: Iterable[Use], waiting: Iterable[str], *, now: float) -> dict[str, float]:
    """Return each user's use over an equal share, among all who wait or have used anything."""
    used = shares.used(
        shares.Use(
            user=use.user_name,
            reserved_bytes=use.reserved_bytes,
            began_ago_seconds=max(0.0, now - use.began_at),
            ended_ago_seconds=0.0 if use.ended_at is None else max(0.0, now - use.ended_at),
        )
        for use in uses
    )
    return shares.overuse(dict.fromkeys(waiting, 0.0) | used)
