"""From rows of tokens to micro-batches: sorted by length, trimmed, padded on the right, targets listed. Pure.

How an effective batch is split never changes the result, only the shapes: see `input_length` for the largest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from trainer.steps.step import MicroBatch

# Lengths are rounded up to this, so that the caching allocator meets few sizes and can reuse its blocks.
LENGTH_STEP = 32


@dataclass(frozen=True, kw_only=True)
class Row:
    """One sequence: its tokens, and which of them are targets (never the first)."""

    tokens: npt.NDArray[np.integer]
    is_target: npt.NDArray[np.bool_]

    @property
    def targets(self) -> int:
        return int(self.is_target.sum())


def input_length(tokens: int, max_seq_len: int) -> int:
    """Give the padded length of a micro-batch whose longest row has `tokens`: its last is never an input."""
    return min(-(-(tokens - 1) // LENGTH_STEP) * LENGTH_STEP, max_seq_len)


def split(rows: Sequence[Row], micro_batch: int) -> Iterator[list[Row]]:
    """Cut an effective batch into micro-batches, longest rows first: little padding, and the peak comes first."""
    ordered = sorted(rows, key=lambda row: -len(row.tokens))
    for start in range(0, len(ordered), micro_batch):
        yield ordered[start : start + micro_batch]


def collate(rows: Sequence[Row], max_seq_len: int) -> MicroBatch:
    """Pad some rows into one micro-batch on the host."""
    length = input_length(max(len(row.tokens) for row in rows), max_seq_len)
    ids = np.zeros((len(rows), length), dtype=np.int64)
    positions, labels = [], []
    for index, row in enumerate(rows):
        ids[index, : len(row.tokens) - 1] = row.tokens[:-1]
        targets = np.flatnonzero(row.is_target)
        positions.append(targets - 1 + index * length)
        labels.append(row.tokens[targets])
    return MicroBatch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(np.concatenate(positions)),
        labels=torch.from_numpy(np.concatenate(labels).astype(np.int64)),
    )


def blank(max_seq_len: int) -> MicroBatch:
    """Make a micro-batch of padding without a target, for a process that has no rows while others have."""
    none = torch.empty(0, dtype=torch.int64)
    return MicroBatch(ids=torch.zeros(1, input_length(2, max_seq_len), dtype=torch.int64), positions=none, labels=none)
