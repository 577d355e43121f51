"""The optimizer against torch's own AdamW, the split of weights, 8-bit moments against the library, the clipping."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from trainer.config import Config, parse_config
from trainer.errors import BadConfiguration
from trainer.steps import adamw8bit
from trainer.steps.optimizer import build_optimizer
from trainer.steps.scaling import LossScaler
from trainer.steps.split import join, rest_of, split
from trainer.steps.step import clip


def modules(inputs: int = 7, outputs: int = 5) -> tuple[nn.Module, nn.Module]:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    ours, theirs = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def config(offload: bool = False, **train: Any) -> Config:
    plan = {"optimizer_offload": offload}
    return parse_config({"kind": "pretrain", "data": {"path": "x"}, "plan": plan, "train": train})


def take_steps(ours: nn.Module, theirs: nn.Module, optimizer: Any, reference: Any) -> None:
    """Take some steps with gradients that are the same for both."""
    for step in range(5):
        optimizer.learning_rate = reference.param_groups[0]["lr"] = 1e-2 / (step + 1)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
        reference.step()


@pytest.mark.parametrize("offload", [False, True])
def test_adamw_is_torch_s(offload: bool) -> None:
    ours, theirs = modules()
    reference = torch.optim.AdamW(theirs.parameters(), fused=True)
    take_steps(ours, theirs, build_optimizer(ours, config(offload)), reference)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("offload", [False, True])
def test_8_bit_moments_are_the_library_s(offload: bool) -> None:
    """The weight is above 4,096 values, and no multiple of a block; the bias keeps float32 moments."""
    import bitsandbytes  # takes two seconds

    ours, theirs = modules(65, 64)
    reference = bitsandbytes.optim.AdamW8bit(theirs.parameters())
    optimizer = build_optimizer(ours, config(offload, optimizer="adamw8bit"))
    take_steps(ours, theirs, optimizer, reference)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.allclose(ours.bias, theirs.bias, rtol=1e-5)
    state = optimizer.state()
    assert {name: tensor.dtype for name, tensor in state.items() if name.endswith("weight")} == {
        "first.weight": torch.uint8,
        "second.weight": torch.uint8,
        "first_scale.weight": torch.float32,
        "second_scale.weight": torch.float32,
    }
    assert state["first.bias"].dtype == torch.float32


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adamw8bit, "find_spec", lambda name: None)
    with pytest.raises(BadConfiguration, match=r"not installed\nhint: pip install 'mmq\[8bit\]'"):
        build_optimizer(modules()[0], config(optimizer="adamw8bit"))


@pytest.mark.parametrize("offload", [False, True])
def test_split_weights_are_float32_ones_rounded(offload: bool) -> None:
    """Given the same gradients: what is lost of a number half-way between two is its last bit."""
    ours, theirs = modules(64, 64)
    ours.bfloat16()
    optimizer, reference = build_optimizer(ours, config(offload)), build_optimizer(theirs, config())
    for name, weight in theirs.state_dict().items():
        optimizer.state()[f"rest.{name}"].copy_(rest_of(weight))
    for step in range(20):
        optimizer.learning_rate = reference.learning_rate = 1e-5 / (step + 1)  # lost, were the weights rounded
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.float()
        optimizer.step()
        reference.step()
    rest = optimizer.state()["rest.weight"]
    assert torch.allclose(join(ours.weight, rest), theirs.weight, rtol=1e-6, atol=0)
    assert torch.equal(ours.weight, theirs.weight.bfloat16())


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_a_number_and_its_two_parts(numbers: list[float]) -> None:
    whole = torch.tensor(numbers)
    half, rest = torch.empty_like(whole, dtype=torch.bfloat16), torch.empty_like(whole, dtype=torch.int16)
    split(whole, half, rest)
    assert torch.equal(half, whole.bfloat16())
    lost = (join(half, rest).view(torch.int32) - whole.view(torch.int32)).abs()
    is_half_way = (whole.view(torch.int32) & 0xFFFF) == 0x8000
    assert (lost <= is_half_way).all()


def test_an_overflow_skips_the_update_and_halves_the_scale() -> None:
    ours, _ = modules()
    before = [p.detach().clone() for p in ours.parameters()]
    optimizer, scaler = build_optimizer(ours, config()), LossScaler(torch.device("cpu"))
    optimizer.learning_rate = 1e-2
    (ours(torch.ones(1, 7)).sum() * float("inf")).backward()
    scaler.unscale(optimizer.gradients())
    optimizer.step(scaler.found_infinite)
    scaler.update()
    assert all(torch.equal(p, old) for p, old in zip(ours.parameters(), before, strict=True))
    assert scaler.scale.item() == 32768.0
    assert optimizer.state()["steps"].item() == 0


def test_clipping_is_torch_s() -> None:
    ours, theirs = modules()
    for module in (ours, theirs):
        (module(torch.ones(1, 7)).sum() * 100).backward()
    norm = clip([p.grad for p in ours.parameters() if p.grad is not None], 1.0)
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), 1.0, foreach=True)
    assert torch.equal(norm, expected)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)
