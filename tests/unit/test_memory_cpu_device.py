"""The CPU as a device: counts against its budget and refuses beyond it."""

import pytest
import torch

from trainer.memory.choice import open_device
from trainer.memory.device import Peaks
from trainer.memory.refusal import refusal_numbers

MIB = 1024**2


def test_copies_are_new_memory_on_their_side() -> None:
    device = open_device({"kind": "cpu", "limit_bytes": None})
    with device.accounting():
        with device.host():
            batch = torch.ones(MIB, dtype=torch.uint8)
        assert device.peaks().process_bytes == 0
        there = device.to_device(batch)
        assert device.peaks().allocated_bytes == MIB
        back = device.to_host(there)
        assert device.peaks().reserved_bytes == MIB
        assert back.data_ptr() != there.data_ptr() != batch.data_ptr()


def test_refuses_beyond_its_limit_and_says_the_numbers() -> None:
    device = open_device({"kind": "cpu", "limit_bytes": 3 * MIB})
    with device.accounting():
        kept = torch.ones(2 * MIB, dtype=torch.uint8)
        with pytest.raises(torch.OutOfMemoryError) as caught:
            torch.ones(2 * MIB, dtype=torch.uint8)
        assert refusal_numbers(caught.value, device) == {
            "requested_bytes": 2 * MIB,
            "allocated_bytes": kept.nbytes,
            "reserved_bytes": kept.nbytes,
            "limit_bytes": 3 * MIB,
            "needed_bytes": 4 * MIB,
        }


def test_the_context_is_part_of_the_limit_and_of_what_the_process_shows() -> None:
    device = open_device({"kind": "cpu", "limit_bytes": 3 * MIB, "context_bytes": MIB})
    with device.accounting():
        kept = torch.ones(2 * MIB, dtype=torch.uint8)
        with pytest.raises(torch.OutOfMemoryError):
            torch.ones(1, dtype=torch.uint8)
        assert device.peaks() == Peaks(
            allocated_bytes=kept.nbytes, reserved_bytes=kept.nbytes, process_bytes=kept.nbytes + MIB
        )
    with pytest.raises(torch.OutOfMemoryError):
        open_device({"kind": "cpu", "limit_bytes": MIB - 1, "context_bytes": MIB})


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="'tpu'"):
        open_device({"kind": "tpu"})
