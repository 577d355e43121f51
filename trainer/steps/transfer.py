"""Micro-batches from the host to the device, one at a time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from trainer.data.batches import Row, blank, collate, split
from trainer.data.packing import collate_packed, split_packed
from trainer.memory.device import Device
from trainer.steps.step import MicroBatch


def on_device(batch: MicroBatch, device: Device) -> MicroBatch:
    return MicroBatch(
        ids=device.to_device(batch.ids),
        positions=device.to_device(batch.positions),
        labels=device.to_device(batch.labels),
        starts=None if batch.starts is None else device.to_device(batch.starts),
    )


def stream(
    rows: Sequence[Row],
    micro_batch: int,
    max_seq_len: int,
    device: Device,
    fetching: Callable[[], AbstractContextManager[None]] = nullcontext,
    turns: int = 0,
    *,
    packs: bool = False,
) -> Iterator[MicroBatch]:
    """Yield an effective batch in micro-batches on the device, each made (within `fetching`) when it is asked for.

    `packs`: several rows may share one of its sequences. Where there are fewer than `turns`, blank ones follow.
    """
    pieces: list[Any] = list(split_packed(rows, micro_batch, max_seq_len) if packs else split(rows, micro_batch))
    make: Callable[..., MicroBatch] = collate_packed if packs else collate
    for number in range(max(turns, len(pieces))):
        with fetching(), device.host():
            batch = make(pieces[number], max_seq_len) if number < len(pieces) else blank(max_seq_len)
        yield on_device(batch, device)
