"""Selective checkpointing: the same gradients bit for bit, out of less memory, without a second product."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.config import parse_config
from trainer.model.minimind import MiniMind, initialise
from trainer.trace.footprint import PeakPredictor
from trainer.trace.rehearsal import Target


def configured(checkpointing: str, *, layers: int = 2, length: int = 16, moe=False, qk_norm=True, dtype="bfloat16"):
    model = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2}
    return parse_config(
        {
            "kind": "pretrain",
            "data": {"path": "x", "max_seq_len": length},
            "model": {**model, "vocab_size": 300, "qk_norm": qk_norm, "use_moe": moe},
            "train": {"dtype": dtype, "batch_size": 4, "accumulation_steps": 1},
            "plan": {"activation_checkpointing": checkpointing},
        }
    )


class Products(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[func.name()] += 1
        return func(*args, **(kwargs or {}))


def gradients(config) -> tuple[list[torch.Tensor], Counter[str]]:
    model = MiniMind(config, torch.device("cpu"))
    initialise(model, 1)
    ids = torch.arange(32).view(2, 16) + 3
    with Products() as products:
        model(ids).float().square().sum().backward()
    return [p.grad for p in model.parameters() if p.grad is not None], products.count


@pytest.mark.parametrize("model", [{}, {"moe": True}, {"qk_norm": False, "dtype": "float32"}])
def test_the_gradients_are_the_same_and_no_product_runs_twice(model) -> None:
    plain, once = gradients(configured("off", **model))
    again, counted = gradients(configured("selective", **model))
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
    for product in ("aten::mm", "aten::_scaled_dot_product_flash_attention_for_cpu"):
        assert counted[product] == once[product]


def test_it_lies_between_none_and_full() -> None:
    needed = [
        PeakPredictor(configured(how, layers=8, length=512), Target(kind="cuda")).candidate(4).outcome.allocated_bytes
        for how in ("full", "selective", "off")
    ]
    assert needed[0] < needed[1] < needed[2]


def test_on_is_full() -> None:
    assert configured("full").plan.checkpointing == "full"
    plan = {"activation_checkpointing": True}
    assert parse_config({"kind": "sft", "data": {"path": "x"}, "plan": plan}).plan.checkpointing == "full"
