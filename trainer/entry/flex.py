"""Flex attention as torch compiles it for CUDA: one kernel that keeps no scores, whatever the mask and the score.

Owns the stand-ins for `flex_attention`, whose kernel only torch's compiler makes, and for the making of a mask, which
asks for values. What a score's own tensors are multiplied by is not run.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor


@contextmanager
def fused() -> Iterator[None]:
    """Within it, flex attention on tensors without values is what it is when compiled."""
    try:
        from torch.nn.attention import flex_attention as flex
    except ImportError:  # an older torch has none
        yield
        return
    with ExitStack() as scope:
        scope.enter_context(patch.object(flex, "flex_attention", attention))
        scope.enter_context(patch.object(flex, "create_mask", _whole_mask))
        yield


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    score_mod: Any = None,
    block_mask: Any = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Any = None,
    *,
    return_aux: Any = None,
) -> Any:
    """Attend; each of shape (batch, heads, length, width), keys and values perhaps with fewer heads."""
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (t.to(torch.get_autocast_dtype("cuda")) for t in (query, key, value))
    out, sums = _Fused.apply(query, key, value)
    if return_aux is not None:
        from torch.nn.attention.flex_attention import AuxOutput

        return out, AuxOutput(
            lse=sums if return_aux.lse else None, max_scores=torch.empty_like(sums) if return_aux.max_scores else None
        )
    return (out, sums) if return_lse else out


def _whole_mask(_: Any, batch: int | None, heads: int | None, queries: int, keys: int, device: Any = "cuda") -> Tensor:
    """Make a mask that hides nothing, as large as the real one: which blocks are hidden changes no size."""
    return torch.ones(batch or 1, heads or 1, queries, keys, dtype=torch.bool, device=device)


class _Fused(torch.autograd.Function):
    """Keeps inputs, output and the log of each row's sum; backward takes a number a row (_inductor/kernel/flex)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out, sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_sums: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, sums = ctx.saved_tensors
        delta = torch.empty_like(sums)
        gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        del delta
        return gradients
