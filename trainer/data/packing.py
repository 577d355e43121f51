"""Several rows in one sequence, so that short ones fill the room that padding would take. Pure.

Which rows share a sequence never changes the result: the model keeps them apart by `starts`.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from trainer.data.batches import LENGTH_STEP, Row
from trainer.steps.step import MicroBatch


def room(max_seq_len: int) -> int:
    """Give the tokens that a sequence holds: a whole row of the greatest length, rounded up for the mask's sake."""
    return -(-(max_seq_len - 1) // LENGTH_STEP) * LENGTH_STEP


def pack(rows: Sequence[Row], max_seq_len: int) -> list[list[Row]]:
    """Put each row, longest first, into the first sequence with room for it; the fullest sequences come first."""
    sequences: list[list[Row]] = []
    free_tokens: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        inputs = len(row.tokens) - 1
        slot = next((index for index, free in enumerate(free_tokens) if inputs <= free), len(free_tokens))
        if slot == len(free_tokens):
            sequences.append([])
            free_tokens.append(room(max_seq_len))
        sequences[slot].append(row)
        free_tokens[slot] -= inputs
    return [sequence for _, sequence in sorted(zip(free_tokens, sequences, strict=True), key=lambda pair: pair[0])]


def split_packed(rows: Sequence[Row], micro_batch: int, max_seq_len: int) -> Iterator[list[list[Row]]]:
    """Cut an effective batch into micro-batches of so many sequences."""
    sequences = pack(rows, max_seq_len)
    for start in range(0, len(sequences), micro_batch):
        yield sequences[start : start + micro_batch]


def collate_packed(sequences: Sequence[Sequence[Row]], max_seq_len: int) -> MicroBatch:
    """Lay some sequences out on the host, trimmed to the fullest. A token of padding is a row of its own."""
    fullest = max(sum(len(row.tokens) - 1 for row in rows) for rows in sequences)
    length = -(-fullest // LENGTH_STEP) * LENGTH_STEP
    ids = np.zeros((len(sequences), length), dtype=np.int64)
    starts = np.tile(np.arange(length), (len(sequences), 1))
    positions, labels = [], []
    for index, rows in enumerate(sequences):
        start = 0
        for row in rows:
            end = start + len(row.tokens) - 1
            ids[index, start:end] = row.tokens[:-1]
            starts[index, start:end] = start
            targets = np.flatnonzero(row.is_target)
            positions.append(index * length + start + targets - 1)
            labels.append(row.tokens[targets])
            start = end
    return MicroBatch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(np.concatenate(positions)),
        labels=torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        starts=torch.from_numpy(starts),
    )
