"""Norm, rotation, SwiGLU and the mixed-precision product as single steps of autograd: each keeps only its inputs.

Written out as chains of small operators they would keep every intermediate result for the backward pass, several
times the memory, and pass over it as often. Internally fp32 where the small operators would be. Pure functions. Within
what torch's compiler compiles they are those chains (`plain`): fusing is its own work there.
"""

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from trainer.model import plain


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Give `weight * x / rms(x)` over the last dimension, computed in fp32, as `dtype`."""
    return (plain.rms_norm if is_compiling() else _RMSNorm.apply)(x, weight, eps, dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn x [batch, length, heads, width] by its positions (half-split form, in fp32), as `dtype`.

    cos and sin, [length, 1, width] or [batch, length, 1, width], are the tables of `rotations`.
    """
    return (plain.rotate if is_compiling() else _Rotate.apply)(x, cos, sin, dtype)


def rotations(length: int, width: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Give the cosines and sines [length, width] of the rotary positions; those sines are negative that turn back."""
    frequencies = theta ** (-torch.arange(0, width, 2, device=device).float() / width)
    angles = torch.outer(torch.arange(length, device=device).float(), frequencies)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)


def repeat(x: Tensor, times: int) -> Tensor:
    """Give each head of x [batch, length, heads, width] so many times."""
    return (plain.repeat if is_compiling() else _Repeat.apply)(x, times)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Give `silu(gate) * up`."""
    return (plain.swiglu if is_compiling() else _SwiGLU.apply)(gate, up)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply in the dtype of x; a weight of another dtype is cast for the moment, and its copy not kept."""
    if is_compiling():
        return plain.linear(x, weight)
    return F.linear(x, weight) if x.dtype == weight.dtype else _CastLinear.apply(x, weight)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x.float() * scale
        wide = gradient.float()
        product = wide * normed
        weight_gradient = product.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        share = (product @ weight.float()).unsqueeze(-1).div_(-x.shape[-1])
        del product
        x_gradient = (wide * weight).addcmul_(normed, share).mul_(scale)
        return x_gradient.to(x.dtype), weight_gradient, None, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _turned(x, cos, sin, 1).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(gradient, cos, sin, -1).to(ctx.dtype), None, None, None


class _Repeat(torch.autograd.Function):
    """Torch's own takes its gradient by a sum over a short dimension, which costs the CPU six times the addition."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, times: int) -> Tensor:
        ctx.times = times
        return x.repeat_interleave(times, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        first, *others = gradient.unflatten(2, (-1, ctx.times)).unbind(3)
        return sum(others, first), None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)


class _CastLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)  # a frozen weight asks for no input
        return F.linear(x, weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad
        x_gradient = gradient @ weight.to(gradient.dtype) if wants_x else None
        if not wants_weight:
            return x_gradient, None
        weight_gradient = gradient.flatten(0, -2).T @ x.flatten(0, -2)
        if weight.grad is None:
            return x_gradient, weight_gradient.to(weight.dtype)
        weight.grad.add_(weight_gradient)  # of an earlier micro-batch: no copy in fp32 in between
        return x_gradient, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    """Turn by the angles, or back with direction -1: always a new fp32 tensor."""
    wide = x.float()
    return (wide * cos).addcmul_(wide.roll(x.shape[-1] // 2, -1), sin, value=direction)
