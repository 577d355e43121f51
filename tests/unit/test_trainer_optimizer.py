"""AdamW and loss scaling against torch's own, and the clipping."""

import pytest
import torch
from torch import nn

from trainer.steps.adamw import build_optimizer
from trainer.steps.scaling import LossScaler
from trainer.steps.step import clip


def modules() -> tuple[nn.Module, nn.Module]:
    torch.set_num_threads(1)
    torch.manual_seed(1)
    ours, theirs = nn.Linear(7, 5), nn.Linear(7, 5)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("offload", [False, True])
def test_adamw_is_torch_s(offload: bool) -> None:
    ours, theirs = modules()
    optimizer = build_optimizer(ours, weight_decay=0.01, offload=offload)
    reference = torch.optim.AdamW(theirs.parameters(), fused=True)
    for step in range(5):
        x = torch.randn(3, 7)
        optimizer.learning_rate = reference.param_groups[0]["lr"] = 1e-2 / (step + 1)
        for module in (ours, theirs):
            module(x).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        reference.step()
        reference.zero_grad()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_an_overflow_skips_the_update_and_halves_the_scale() -> None:
    ours, _ = modules()
    before = [p.detach().clone() for p in ours.parameters()]
    optimizer, scaler = (
        build_optimizer(ours, weight_decay=0.01, offload=False),
        LossScaler(torch.device("cpu")),
    )
    optimizer.learning_rate = 1e-2
    (ours(torch.ones(1, 7)).sum() * float("inf")).backward()
    scaler.unscale(optimizer.gradients())
    optimizer.step(scaler.found_infinite)
    scaler.update()
    assert all(torch.equal(p, old) for p, old in zip(ours.parameters(), before, strict=True))
    assert scaler.scale.item() == 32768.0
    assert optimizer.steps.item() == 0


def test_clipping_is_torch_s() -> None:
    ours, theirs = modules()
    for module in (ours, theirs):
        (module(torch.ones(1, 7)).sum() * 100).backward()
    norm = clip([p.grad for p in ours.parameters() if p.grad is not None], 1.0)
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), 1.0, foreach=True)
    assert torch.equal(norm, expected)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)
