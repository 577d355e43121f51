"""What is told to a trace about CUDA's kernels."""

import pytest
import torch

from trainer.memory.accounting import Accounting
from trainer.memory.allocation import DirectAllocator
from trainer.memory.kernels import causal_attention, cuda_kernels, temporaries_bytes, workspace_bytes


@pytest.mark.parametrize(
    ("capability", "expected"), [(None, 8_519_680), ("8.9", 8_519_680), ("9.0", 1 << 25), ("12.0", 1 << 25)]
)
def test_workspace_of_a_capability(capability: str | None, expected: int) -> None:
    assert workspace_bytes(capability) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_attention_on_meta_keeps_no_scores(dtype: torch.dtype, target: str) -> None:
    length = 256
    allocator = DirectAllocator()
    with Accounting(allocator):
        query = torch.empty(1, 2, length, 8, dtype=dtype, device="meta", requires_grad=True)
        if target == "cuda":
            with cuda_kernels("8.9"):
                out = causal_attention(query, query, query)
        else:
            out = causal_attention(query, query, query)
        out.sum().backward()
    assert out.shape == query.shape
    assert allocator.allocated_peak_bytes < 2 * length * length * dtype.itemsize


@pytest.mark.parametrize(
    ("dtype", "capability", "keeps_scores"),
    [(torch.float16, "7.5", False), (torch.float32, "7.0", False), (torch.bfloat16, "7.5", True)],
)
def test_before_compute_capability_8_there_is_no_flash(dtype: torch.dtype, capability: str, keeps_scores: bool) -> None:
    length = 256
    allocator = DirectAllocator()
    with Accounting(allocator), cuda_kernels(capability):
        query = torch.empty(1, 2, length, 8, dtype=dtype, device="meta", requires_grad=True)
        causal_attention(query, query, query).sum().backward()
    assert (allocator.allocated_peak_bytes > 2 * length * length * dtype.itemsize) is keeps_scores


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_on_meta_and_on_the_cpu_cost_the_same(dtype: torch.dtype) -> None:
    peaks = []
    for device in ("cpu", "meta"):
        allocator = DirectAllocator()
        with Accounting(allocator, temporaries=temporaries_bytes):
            query = torch.zeros(2, 2, 16, 8, dtype=dtype, device=device, requires_grad=True)
            causal_attention(query, query, query).sum().backward()
        peaks.append(allocator.allocated_peak_bytes)
    assert peaks[0] == peaks[1]


def test_the_scratch_memory_of_flash_attention() -> None:
    query = torch.empty(3, 8, 340, 96, dtype=torch.bfloat16, device="meta")
    backward = torch.ops.aten._scaled_dot_product_flash_attention_backward.default
    assert temporaries_bytes(backward, (query, query)) == (4 * 3 * 384 * 8 * 96, 4 * 3 * 8 * 384)
    assert temporaries_bytes(torch.ops.aten.mm.default, (query,)) == ()
