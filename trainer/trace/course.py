"""The course of memory over one optimizer step, short enough for a picture.

Owns which moments are kept. A step begins with its first micro-batch; what follows it is the update.
"""

from typing import Any

from trainer.trace.player import Moment

STRETCHES = 160
_BEGINNING = ("micro", 0, 0)


class Course:
    """Notices the moments of a replay; only those of the last step stay."""

    def __init__(self) -> None:
        self._moments: list[dict[str, Any]] = []
        self._beginning = False

    def notice(self, moment: Moment) -> None:
        begins = tuple(moment.place) == _BEGINNING
        if begins and not self._beginning:
            self._moments.clear()
        self._beginning = begins
        phase = moment.place.name.partition(".")[0]
        self._moments.append(
            {
                "phase": "micro-batch" if phase == "micro" else phase,
                "allocated_bytes": moment.allocated_bytes,
                "reserved_bytes": moment.reserved_bytes,
                "parts": dict(moment.parts),
            }
        )

    def stretches(self) -> list[dict[str, Any]]:
        count = len(self._moments)
        highest: dict[int, dict[str, Any]] = {}
        for number, moment in enumerate(self._moments):
            stretch = number * STRETCHES // count
            if stretch not in highest or moment["allocated_bytes"] > highest[stretch]["allocated_bytes"]:
                highest[stretch] = moment
        return [highest[stretch] for stretch in sorted(highest)]
