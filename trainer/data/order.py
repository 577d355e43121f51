"""Which rows each optimizer step learns from: a function of the seed and the step number alone. Pure.

Step k takes rows [k*E, (k+1)*E) of an endless stream of shuffled epochs, so resuming needs no sampler state and
the split into micro-batches has no say.
"""

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
_VALIDATION, _EPOCH = 0, 1  # keeps the two kinds of draws apart


def hold_out(rows: int, share: float, seed: int) -> tuple[Indices, Indices]:
    """Split row numbers into training and validation, at least one row on each side when a share is asked for."""
    if share == 0 or rows < 2:
        return np.arange(rows), np.arange(0)
    held = min(max(1, round(rows * share)), rows - 1)
    shuffled = np.random.default_rng([seed, _VALIDATION]).permutation(rows)
    return np.sort(shuffled[held:]), np.sort(shuffled[:held])


class RowOrder:
    def __init__(
        self, rows: Indices, *, seed: int, effective_batch: int, epochs: int | None, max_steps: int | None
    ) -> None:
        self._rows = rows
        self._seed = seed
        self._effective_batch = effective_batch
        self._end = None if epochs is None else epochs * len(rows)
        steps = [] if self._end is None else [-(-self._end // effective_batch)]
        self.total_steps = min(steps + ([] if max_steps is None else [max_steps]))
        self._epoch = -1
        self._shuffled = rows[:0]

    def step(self, number: int) -> list[int]:
        """Give the row numbers of an optimizer step, counted from 0; the last of an epoch count may have fewer."""
        start = number * self._effective_batch
        end = start + self._effective_batch if self._end is None else min(start + self._effective_batch, self._end)
        return [self._at(place) for place in range(start, end)]

    def _at(self, place: int) -> int:
        epoch, index = divmod(place, len(self._rows))
        if epoch != self._epoch:
            self._epoch = epoch
            self._shuffled = np.random.default_rng([self._seed, _EPOCH, epoch]).permutation(self._rows)
        return int(self._shuffled[index])
