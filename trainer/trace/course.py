"""The course of memory over one optimizer step, short enough for a picture.

Owns which samples are kept. A step begins with its first micro-batch; what follows it is the update.
"""

from typing import Any

from trainer.trace.log import Phase, Stage
from trainer.trace.player import Sample

MAX_POINTS = 160
_BEGINNING = Phase(Stage.MICRO_BATCH)


class Course:
    """Observes a replay; only the samples of the last step stay."""

    def __init__(self) -> None:
        self._samples: list[dict[str, Any]] = []
        self._is_beginning = False

    def observe(self, sample: Sample) -> None:
        begins = sample.phase == _BEGINNING
        if begins and not self._is_beginning:
            self._samples.clear()
        self._is_beginning = begins
        self._samples.append(
            {
                "phase": sample.phase.stage.value,
                "allocated_bytes": sample.allocated_bytes,
                "reserved_bytes": sample.reserved_bytes,
                "parts": dict(sample.parts),
            }
        )

    def points(self) -> list[dict[str, Any]]:
        """Thin the samples out to so many at most: of each stretch of the step, the one with most allocated."""
        count = len(self._samples)
        highest: dict[int, dict[str, Any]] = {}
        for number, sample in enumerate(self._samples):
            stretch = number * MAX_POINTS // count
            if stretch not in highest or sample["allocated_bytes"] > highest[stretch]["allocated_bytes"]:
                highest[stretch] = sample
        return [highest[stretch] for stretch in sorted(highest)]
