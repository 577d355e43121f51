"""Mixtures of experts: names and sizes, the arithmetic against a plain loop, and the balancing loss."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from trainer.config import Config, parse_config
from trainer.model.experts import Experts, imbalance
from trainer.model.minimind import MiniMind, initialise

MINIMIND_3 = {"use_moe": True}
MINIMIND_2 = {
    "use_moe": True,
    "num_experts_per_tok": 2,
    "num_shared_experts": 1,
    "router_aux_loss_coef": 0.1,
    "num_key_value_heads": 2,
    "qk_norm": False,
    "rms_norm_eps": 1e-5,
}
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 512}
FAMILIES = pytest.mark.parametrize("family", [MINIMIND_3, MINIMIND_2], ids=["minimind-3", "minimind2"])


def config(model: dict[str, Any], dtype: str = "float32", checkpointing: bool = False) -> Config:
    return parse_config(
        {
            "kind": "pretrain",
            "data": {"path": "unread", "max_seq_len": 32},
            "model": model,
            "train": {"dtype": dtype, "batch_size": 2, "accumulation_steps": 1},
            "plan": {"activation_checkpointing": checkpointing},
        }
    )


def built(model: dict[str, Any], **more: Any) -> MiniMind:
    torch.set_num_threads(1)
    made = MiniMind(config(TINY | model, **more), torch.device("cpu"))
    initialise(made, seed=3)
    return made


def plainly(experts: Experts, x: Tensor) -> Tensor:
    """One token after another, as the formula has it."""
    rows = []
    for token in x.flatten(0, 1):
        weights, chosen = F.softmax(experts.gate(token), dim=0).topk(experts.choices)
        answer = sum(w * experts.experts[int(e)](token) for w, e in zip(weights / weights.sum(), chosen, strict=True))
        rows.append(answer + sum(shared(token) for shared in experts.shared_experts) if experts.shared else answer)
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        (MINIMIND_3, 198_416_640),
        (MINIMIND_2 | {"hidden_size": 640, "intermediate_size": 1728}, 145_029_760),
    ],
)
def test_parameter_counts_are_minimind_s(model: dict[str, Any], parameters: int) -> None:
    made = MiniMind(config(model), torch.device("meta"))
    assert sum(p.numel() for p in made.parameters()) == parameters


def test_names_are_minimind_s() -> None:
    names = {name for name in built(MINIMIND_2).state_dict() if ".1.mlp." in name}
    experts = {f"experts.{i}" for i in range(4)} | {"shared_experts.0"}
    assert names == {"model.layers.1.mlp.gate.weight"} | {
        f"model.layers.1.mlp.{expert}.{part}_proj.weight" for expert in experts for part in ("gate", "up", "down")
    }


@FAMILIES
@pytest.mark.parametrize("to_one", [False, True])
def test_the_arithmetic_is_that_of_a_plain_loop(family: dict[str, Any], to_one: bool) -> None:
    experts = built(family | {"router_aux_loss_coef": 0.0}).model.layers[0].mlp
    if to_one:  # all tokens to one expert, and none to the others
        with torch.no_grad():
            experts.gate.weight.zero_()
            experts.gate.weight[2] = 1.0
    generator = torch.Generator().manual_seed(1)
    values, gradients = [], []
    for function in (experts, lambda x: plainly(experts, x)):
        x = torch.rand(2, 7, 32, generator=generator.manual_seed(1)).requires_grad_()
        y = function(x)
        y.square().sum().backward()
        values.append(y.detach())
        gradients.append([x.grad, *(p.grad for p in experts.parameters())])
        experts.zero_grad()
    torch.testing.assert_close(*values)
    for ours, plain in zip(*gradients, strict=True):
        # Who was not asked has no gradient in the plain loop; a gate with one choice has none but by rounding.
        torch.testing.assert_close(
            ours if ours is not None else torch.zeros(4, 32), _or_zero(plain, ours), atol=1e-6, rtol=1e-4
        )


def _or_zero(gradient: Tensor | None, like: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros(4, 32) if like is None else torch.zeros_like(like)
    return gradient


def test_even_use_has_imbalance_one_and_padding_has_no_say() -> None:
    scores = torch.full((1, 8, 4), 0.25)
    chosen = torch.eye(4, dtype=torch.int64).repeat(2, 1)[None]
    real = torch.ones(1, 8, dtype=torch.bool)
    assert imbalance(scores, chosen, real).item() == pytest.approx(1.0)
    to_one = torch.eye(4)[[0] * 8][None]
    assert imbalance(to_one, to_one.long(), real).item() == pytest.approx(4.0)

    padded = torch.cat((scores, torch.rand(1, 5, 4)), dim=1)
    anywhere = torch.cat((chosen, torch.eye(4, dtype=torch.int64)[None, [1] * 5]), dim=1)
    mask = torch.cat((real, torch.zeros(1, 5, dtype=torch.bool)), dim=1)
    assert imbalance(padded, anywhere, mask).item() == pytest.approx(1.0)


def test_the_balancing_loss_joins_the_backward_pass_alone() -> None:
    coefficient, rows = 0.3, 2
    gradients = []
    for attached in (True, False):
        model = built(MINIMIND_3 | {"num_hidden_layers": 1, "router_aux_loss_coef": coefficient * attached})
        gate_inputs: list[Tensor] = []
        experts = model.model.layers[0].mlp
        experts.register_forward_pre_hook(lambda _, inputs, kept=gate_inputs: kept.append(inputs[0]))
        ids = torch.arange(3, 27).view(2, 12)
        loss = model(ids).square().sum()
        if not attached:
            scores = experts.gate(gate_inputs[0]).softmax(-1)
            chosen = F.one_hot(scores.argmax(-1), 4)
            loss = loss + coefficient / rows * imbalance(scores, chosen, torch.ones(2, 12, dtype=torch.bool))
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)
    assert gradients[0]["model.layers.0.mlp.gate.weight"].abs().max() > 1e-4


def test_a_scaled_loss_scales_the_balancing_loss_with_it() -> None:
    gradients = []
    for scale in (None, torch.full((1,), 1024.0)):
        model = built(MINIMIND_3)
        model.balance.scale = scale
        (model(torch.arange(3, 27).view(2, 12)).square().sum() * (1.0 if scale is None else scale)).backward()
        gradients.append(model.model.layers[0].mlp.gate.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0] * 1024)


@FAMILIES
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recomputing_activations_changes_no_gradient(family: dict[str, Any], dtype: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = built(family, dtype=dtype, checkpointing=checkpointing)
        model(torch.arange(3, 27).view(2, 12)).float().square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name
