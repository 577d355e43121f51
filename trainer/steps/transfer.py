"""Micro-batches from the host to the device, one at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from trainer.data.batches import Row, blank, collate, split
from trainer.memory.device import Device
from trainer.steps.step import MicroBatch


def on_device(batch: MicroBatch, device: Device) -> MicroBatch:
    return MicroBatch(
        ids=device.to_device(batch.ids),
        positions=device.to_device(batch.positions),
        labels=device.to_device(batch.labels),
    )


def stream(
    rows: Sequence[Row],
    micro_batch: int,
    max_seq_len: int,
    device: Device,
    fetching: Callable[[], AbstractContextManager[None]] = nullcontext,
    turns: int = 0,
) -> Iterator[MicroBatch]:
    """Yield an effective batch in micro-batches on the device, each made (within `fetching`) when it is asked for.

    Where there are fewer than `turns`, blank ones follow.
    """
    pieces = list(split(rows, micro_batch))
    for number in range(max(turns, len(pieces))):
        with fetching(), device.host():
            batch = collate(pieces[number], max_seq_len) if number < len(pieces) else blank(max_seq_len)
        yield on_device(batch, device)
