"""The accounting: each storage counted once, from its birth to its death."""

import pytest
import torch

from trainer.memory.accounting import Accounting
from trainer.memory.allocation import DirectAllocator, OutOfMemory
from trainer.memory.capacity import Limited

KIB = 1024


def counted(limit_bytes: int | None = None, **options: int) -> tuple[DirectAllocator, Accounting]:
    allocator = DirectAllocator(Limited(limit_bytes))
    return allocator, Accounting(allocator, **options)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_counts_a_storage_until_it_dies(device: str) -> None:
    allocator, accounting = counted()
    with accounting:
        tensor = torch.empty(KIB, device=device)
        assert allocator.allocated_bytes == 4 * KIB
        view = tensor[10:].view(-1)
        tensor.add_(1)
        assert allocator.allocated_bytes == 4 * KIB
        del tensor
        assert allocator.allocated_bytes == 4 * KIB  # the view keeps it
        del view
    assert allocator.allocated_bytes == 0
    assert allocator.allocated_peak_bytes == 4 * KIB


def test_a_death_outside_the_mode_is_seen_too() -> None:
    allocator, accounting = counted()
    with accounting:
        tensor = torch.ones(KIB)
    assert allocator.allocated_bytes == 4 * KIB
    del tensor
    assert allocator.allocated_bytes == 0


def test_host_memory_is_not_counted_nor_are_its_views() -> None:
    allocator, accounting = counted()
    with accounting:
        with accounting.host():
            batch = torch.ones(4, KIB)
        torch.ops.aten._unsafe_view(batch, [4 * KIB])  # a new alias, unmarked in its schema
        batch.view(-1).mul_(2)
        assert allocator.allocated_peak_bytes == 0
        copy = batch.clone()
        assert allocator.allocated_bytes == copy.nbytes


def test_a_refused_tensor_is_not_counted() -> None:
    allocator, accounting = counted(8 * KIB)
    with accounting:
        kept = torch.empty(KIB)
        with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 0\.01 MiB.*limit") as caught:
            torch.empty(2 * KIB)
        assert allocator.allocated_bytes == kept.nbytes
        assert isinstance(caught.value, OutOfMemory)
        assert caught.value.requested_bytes == 8 * KIB


def test_a_refusal_in_the_middle_of_backward_leaves_no_trace() -> None:
    allocator, accounting = counted(33 * KIB)  # 9 beside what the forward pass holds
    with accounting:
        weight = torch.ones(KIB, requires_grad=True)
        deep = weight
        for _ in range(5):
            deep = deep.exp()
        held = allocator.allocated_bytes
        with pytest.raises(torch.OutOfMemoryError):
            deep.backward(torch.ones_like(deep))
        assert allocator.allocated_bytes <= held
        del deep
        weight.grad = None
        assert allocator.allocated_bytes == weight.nbytes


def test_foreach_results_are_counted() -> None:
    allocator, accounting = counted()
    with accounting:
        many = torch._foreach_mul([torch.ones(KIB), torch.ones(KIB)], 2.0)
        assert allocator.allocated_bytes == sum(item.nbytes for item in many)


def test_each_thread_that_multiplies_holds_one_workspace() -> None:
    allocator, accounting = counted(workspace_bytes=1000)
    with accounting:
        left = torch.ones(4, 4, requires_grad=True)
        out = left @ left
        assert allocator.allocated_bytes == left.nbytes + out.nbytes + 1000
        out.sum().backward()
        (left @ left).sum().backward()
        assert left.grad is not None
        assert allocator.allocated_bytes == left.nbytes + out.nbytes + left.grad.nbytes + 2000


def test_a_meta_tensor_has_a_stand_in_value() -> None:
    _, accounting = counted()
    with accounting:
        assert torch.ones(3, device="meta").sum().item() == 1.0
