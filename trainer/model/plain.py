"""The functions of `fused` as chains of small operators, for torch's compiler: it fuses them itself, both ways.

What it keeps for the backward pass is its own choice: little, since all of this is cheap to make again.
"""

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own habit)


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    wide, half = x.float(), x.shape[-1] // 2
    swapped = torch.cat((wide[..., half:], wide[..., :half]), dim=-1)
    return (wide * cos + swapped * sin).to(dtype)


def repeat(x: Tensor, times: int) -> Tensor:
    return x.unsqueeze(3).expand(-1, -1, -1, times, -1).flatten(2, 3)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return F.silu(gate) * up


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Flat, since torch's compiler would take rows and lengths that may be any for a batch of products."""
    return F.linear(x.flatten(0, -2), weight.to(x.dtype)).unflatten(0, x.shape[:-1])
