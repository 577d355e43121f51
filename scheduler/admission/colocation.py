"""Which jobs do worse side by side than one after the other, by how fast their kinds were seen to go. Pure.

Two jobs together reach `alone / together` of the speed of each, summed: at 2 they do not notice each other, at 1 it is
as if they took turns, and below that they are kept apart.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

ALONE = ""
AS_TURNS = 1.0


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """How fast a configuration went on a device: model, batch and means, and the device's name, in one word."""

    configuration: str
    seconds_per_step: float
    beside: str = ALONE  # the one other configuration on the device


Apart = Mapping[str, Mapping[str, float]]  # configuration, to those that it is kept from and what both reach together


def apart(seen: Iterable[StepTime]) -> Apart:
    """Return the pairs that reach less together than by turns, both ways round."""
    seconds = {(one.configuration, one.beside): one.seconds_per_step for one in seen}
    found: dict[str, dict[str, float]] = {}
    for one, other in seconds:
        if other == ALONE or one > other or not {(other, one), (one, ALONE), (other, ALONE)} <= seconds.keys():
            continue
        reached = sum(seconds[a, ALONE] / seconds[a, b] for a, b in ((one, other), (other, one)))
        if reached < AS_TURNS:
            found.setdefault(one, {})[other] = found.setdefault(other, {})[one] = reached
    return found


def in_words(job_id: int, reached: float) -> str:
    """Say it of a running job that another is kept from."""
    return f"side by side with job {job_id}, the two were measured at {reached:.2f} of the speed of one after the other"
