"""What CUDA's kernels do to memory that a CPU or a meta tensor would not show by itself.

Owns the choice of the attention kernel, the scratch memory inside kernels and cuBLAS's workspace. Each figure names
its source. Must not count anything: the accounting does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch.nn import functional

WORKSPACE_BYTES = 8_519_680  # cuBLAS's default, `:4096:2:16:8` (aten/src/ATen/cuda/CublasHandlePool.cpp)
HOPPER_WORKSPACE_BYTES = 32 * 1024**2  # on compute capability 9, 10 and 12
_HOPPER_AND_LATER = {"9", "10", "12"}

_aten = torch.ops.aten
_flash: ContextVar[bool | None] = ContextVar("flash", default=None)  # of the GPU that is traced; None: there is none


def workspace_bytes(capability: str | None) -> int:
    """Say how much cuBLAS takes for each thread that multiplies, on a GPU of this compute capability (`8.9`)."""
    major = (capability or "").partition(".")[0]
    return HOPPER_WORKSPACE_BYTES if major in _HOPPER_AND_LATER else WORKSPACE_BYTES


def has_flash(capability: str | None) -> bool:
    """Say whether a GPU has flash attention, and efficient attention in bfloat16 (sdp_utils.cpp: from 8.0 on)."""
    return capability is None or int(capability.partition(".")[0]) >= 8


@contextmanager
def cuda_kernels(capability: str | None) -> Iterator[None]:
    """Within it, attention on meta tensors is what such a GPU would run; outside, what the CPU would."""
    token = _flash.set(has_flash(capability))
    try:
        yield
    finally:
        _flash.reset(token)


def causal_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Attend causally; all three of shape (batch, heads, length, head size), with as many heads each.

    Before compute capability 8.0 there is no flash kernel, and for bfloat16 none that keeps no scores.

    A mask (batch, 1, length, length), added to the scores, says all of who sees whom; no flash kernel of CUDA takes
    one, so the memory-efficient one does. On meta tensors torch would choose the path that keeps all scores, so the
    kernel of the target is called by name.
    """
    if mask is not None:
        return _masked_attention(query, key, value, mask)
    if not query.is_meta:
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    flash = _flash.get()
    if flash is None:
        return _aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True)[0]
    if flash and query.dtype is not torch.float32:
        return _aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True)[0]
    if flash or query.dtype is not torch.bfloat16:
        return _aten._scaled_dot_product_efficient_attention(query, key, value, None, True, 0.0, True)[0]
    return _aten._scaled_dot_product_attention_math(query, key, value, None, 0.0, True)[0]


def _masked_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if not query.is_meta:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    flash = _flash.get()
    if flash is None:
        return _aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, False, attn_mask=mask)[0]
    if not flash and query.dtype is torch.bfloat16:
        return _aten._scaled_dot_product_attention_math(query, key, value, mask)[0]
    bias = mask.expand(-1, query.shape[1], -1, -1)
    return _aten._scaled_dot_product_efficient_attention(query, key, value, bias, True)[0]


def temporaries_bytes(func: Any, args: tuple[Any, ...]) -> tuple[int, ...]:
    """List what the CUDA kernel of this operator takes inside, and gives back before it returns."""
    rule = _TEMPORARIES.get(func)
    return () if rule is None else rule(args)


def _flash_backward(args: tuple[Any, ...]) -> tuple[int, ...]:
    """The fp32 accumulator of the query's gradient, and the row sums, padded to whole tiles."""
    batch, heads, length, size = args[1].shape
    padded = _up(length, 128)
    return (4 * batch * padded * heads * _up(size, 32), 4 * batch * heads * padded)


def _efficient_backward(args: tuple[Any, ...]) -> tuple[int, ...]:
    """The row sums, and in 16 bits an fp32 accumulator like flash's (kernel_backward.h; not measured)."""
    batch, heads, length, size = args[1].shape
    sums = 4 * batch * heads * length
    if args[1].dtype is torch.float32:
        return (sums,)
    return (4 * batch * heads * _up(length, 128) * _up(size, 32), sums)


def _attention_backward_on_cpu(args: tuple[Any, ...]) -> tuple[int, ...]:
    """A virtual device runs the CPU's kernel in place of the one that CUDA has for this type, or for a mask."""
    is_causal = args[7]
    return _flash_backward(args) if is_causal and args[1].dtype is not torch.float32 else _efficient_backward(args)


def _embedding_backward(args: tuple[Any, ...]) -> tuple[int, ...]:
    """Three arrays of int64 to sort the tokens by."""
    return (8 * args[1].numel(),) * 3


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


_TEMPORARIES: dict[Any, Callable[[tuple[Any, ...]], tuple[int, ...]]] = {
    _aten._scaled_dot_product_flash_attention_backward.default: _flash_backward,
    _aten._scaled_dot_product_efficient_attention_backward.default: _efficient_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward.default: _attention_backward_on_cpu,
    _aten.embedding_dense_backward.default: _embedding_backward,
}
