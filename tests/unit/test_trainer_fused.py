"""Each fused step gives the value and the gradients of the small operators that it stands for."""

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from trainer.model.fused import linear, repeat, rms_norm, rotate, rotations, swiglu

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE)


def drawn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape).to(dtype).requires_grad_()


def assert_same(fused, plain, inputs) -> None:
    """Compare the results, and the gradients of a loss that weighs every element differently."""
    dtype = inputs[0].dtype
    found, expected = fused(*inputs), plain(*(x.float() for x in inputs))
    weights = torch.linspace(-1, 1, expected.numel()).view(expected.shape)
    gradients = [torch.autograd.grad((out.float() * weights).sum(), inputs) for out in (found, expected)]
    for ours, theirs in zip((found, *gradients[0]), (expected, *gradients[1]), strict=True):
        scale = theirs.float().abs().max().item()
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


@DTYPES
def test_norm(dtype) -> None:
    x, weight = drawn(2, 5, 3, 16, dtype=dtype), drawn(16, dtype=torch.float32)

    def plain(x, weight):
        return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)

    assert_same(lambda x, w: rms_norm(x, w, 1e-5, dtype), plain, (x, weight))


@DTYPES
def test_rotation(dtype) -> None:
    cos, sin = (table[:, None] for table in rotations(5, 8, 1e4, torch.device("cpu")))

    def plain(x):
        first, second = x.chunk(2, dim=-1)
        cosines, sines = cos[..., :4], sin[..., 4:]
        return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)

    assert_same(lambda x: rotate(x, cos, sin, dtype), plain, (drawn(2, 5, 3, 8, dtype=dtype),))


@DTYPES
@pytest.mark.parametrize("times", [2, 3])
def test_repeated_heads(times, dtype) -> None:
    assert_same(lambda x: repeat(x, times), lambda x: x.repeat_interleave(times, 2), (drawn(2, 5, 2, 8, dtype=dtype),))


@DTYPES
def test_swiglu(dtype) -> None:
    pair = drawn(2, 5, 16, dtype=dtype), drawn(2, 5, 16, dtype=dtype)
    assert_same(swiglu, lambda gate, up: F.silu(gate) * up, pair)


@DTYPES
def test_product_with_a_weight_in_fp32(dtype) -> None:
    assert_same(linear, F.linear, (drawn(2, 5, 16, dtype=dtype), drawn(8, 16, dtype=torch.float32)))


def test_a_frozen_weight_or_input_gets_no_gradient() -> None:
    x, weight = torch.randn(4, 16).bfloat16(), drawn(8, 16, dtype=torch.float32)
    linear(x, weight).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
    x, weight = x.requires_grad_(), torch.randn(8, 16)
    linear(x, weight).sum().backward()
    assert x.grad is not None
    assert weight.grad is None


def test_a_second_micro_batch_adds_to_the_gradient() -> None:
    x, weight = torch.randn(4, 16).bfloat16(), drawn(8, 16, dtype=torch.float32)
    linear(x, weight).sum().backward()
    once = weight.grad.clone()
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, 2 * once)


def test_only_inputs_are_kept() -> None:
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.untyped_storage().data_ptr()) or t, lambda t: t
    ):
        gate, up = drawn(2, 8, dtype=torch.float32), drawn(2, 8, dtype=torch.float32)
        swiglu(gate, up)
    assert set(kept) == {gate.untyped_storage().data_ptr(), up.untyped_storage().data_ptr()}
