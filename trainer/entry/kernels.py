"""The kernels that CUDA would choose, called by name on meta tensors: attention, dropout, softmax, RMS norm.

Owns the choice, each rule with its source in torch. What a kernel takes inside is `temporaries_bytes`.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from trainer.memory import kernels as known

_aten = torch.ops.aten
_HALVES = (torch.float16, torch.bfloat16)
_SORTED_FROM = 3072  # fewer tokens are summed without a sort (aten/src/ATen/native/cuda/Embedding.cu)
_ROWS_A_PART = 10  # NROWS_PER_THREAD (aten/src/ATen/native/cuda/EmbeddingBackwardKernel.cu)


@contextmanager
def chosen_as_on_cuda(capability: str | None) -> Iterator[None]:
    """Within it, composite operators on meta tensors split up as on a GPU of this compute capability."""
    library = torch.library.Library("aten", "IMPL", "AutogradMeta")
    chosen = {
        "scaled_dot_product_attention": partial(attention, has_flash=known.has_flash(capability)),
        "dropout": _dropout,
        "softmax.int": partial(_softmax, _aten._softmax),
        "log_softmax.int": partial(_softmax, _aten._log_softmax),
        "_fused_rms_norm": _rms_norm,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, kernel in chosen.items():
            library.impl(name, kernel)
    try:
        yield
    finally:
        library._destroy()


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    has_flash: bool = True,
) -> Tensor:
    """Attend with the kernel that torch would select (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp)."""
    plain = query.dim() == key.dim() == value.dim() == 4
    width = query.shape[-1]
    same_width = width == key.shape[-1] == value.shape[-1]
    flash = has_flash and torch.backends.cuda.flash_sdp_enabled() and query.dtype in _HALVES
    if plain and flash and attn_mask is None and same_width and width <= 256:
        return _flash(query, key, value, dropout_p, is_causal, scale)
    unfit = {torch.float64} if has_flash else {torch.float64, torch.bfloat16}
    efficient = torch.backends.cuda.mem_efficient_sdp_enabled() and query.dtype not in unfit
    if plain and efficient and query.shape[1] == key.shape[1] == value.shape[1]:
        return _efficient(query, key, value, attn_mask, dropout_p, is_causal, scale)
    return _aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
    )[0]


def _flash(query: Tensor, key: Tensor, value: Tensor, dropout_p: float, is_causal: bool, scale: float | None) -> Tensor:
    width = query.shape[-1]
    if width % 8:
        scale = width**-0.5 if scale is None else scale
        query, key, value = (torch.nn.functional.pad(t, (0, -width % 8)) for t in (query, key, value))
    out = _aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    return out[..., :width]


def _efficient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    if mask is not None:
        mask = _bias(mask, query, key)
    kept = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
    return _aten._scaled_dot_product_efficient_attention(
        query, key, value, mask, kept, dropout_p, is_causal, scale=scale
    )[0]


def _bias(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Make an additive mask whose rows begin at multiples of 16, seen by every head."""
    if mask.dtype is torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask.logical_not(), float("-inf"))
    length = mask.shape[-1]
    if length % 16:
        mask = torch.nn.functional.pad(mask, (0, -length % 16))[..., :length]
    return mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])


def _dropout(x: Tensor, p: float, train: bool) -> Tensor:
    """Fused, with a mask of one byte (aten/src/ATen/native/Dropout.cpp)."""
    if not train or p == 0 or not x.numel():
        return x
    if p == 1:
        return x * torch.zeros((), dtype=x.dtype, device=x.device)
    return _aten.native_dropout(x, p, True)[0]


def _softmax(operator: Any, x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Half-precision input is read as it is for an fp32 result; bfloat16 is converted first (SoftMax.cpp)."""
    if x.dtype is torch.float16 and dtype is torch.float32:
        return operator(x, dim, True)
    return operator(x if dtype is None else x.to(dtype), dim, False)


def _rms_norm(
    x: Tensor, normalized_shape: list[int], weight: Tensor | None, eps: float | None
) -> tuple[Tensor, Tensor]:
    return _RMSNorm.apply(x, len(normalized_shape), weight)


class _RMSNorm(torch.autograd.Function):
    """One kernel, which keeps its input and an fp32 number a row (aten/src/ATen/native/cuda/layer_norm_kernel.cu)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, over: int, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        row = x.new_empty((*x.shape[: x.dim() - over], *[1] * over), dtype=torch.float32)
        ctx.save_for_backward(x, weight, row)
        ctx.mark_non_differentiable(row)
        return out, row

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None, Tensor | None]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), None, None if weight is None else torch.empty_like(weight)


def temporaries_bytes(func: Any, args: tuple[Any, ...]) -> tuple[int, ...]:
    """List what the CUDA kernel of this operator takes inside, and gives back before it returns."""
    if func is _aten.embedding_dense_backward.default:
        return _embedding_backward(*args[:3])
    return known.temporaries_bytes(func, args)


def _embedding_backward(gradient: Tensor, ids: Tensor, entries: int) -> tuple[int, ...]:
    """Tokens sorted (copies of keys and values, and the sort's own), and an fp32 sum for each part of a segment."""
    tokens, width = ids.numel(), gradient.shape[-1]
    if tokens <= _SORTED_FROM:
        return ()
    segments = min(tokens, entries)
    parts = tokens // _ROWS_A_PART + segments
    return (8 * tokens, 8 * tokens, 8 * tokens, 8 * segments, 8 * segments, 8 * parts, 4 * parts * width)
