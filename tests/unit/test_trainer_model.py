"""The model's size, names and arithmetic."""

import pytest
import torch

from trainer.config import Config, parse_config
from trainer.model.loss import cross_entropy_sum
from trainer.model.minimind import MiniMind, initialise

MINIMIND_2 = {"num_key_value_heads": 2, "qk_norm": False, "rms_norm_eps": 1e-5}


def config(plan: dict[str, bool] | None = None, dtype: str = "float32", **model: object) -> Config:
    return parse_config(
        {
            "kind": "pretrain",
            "data": {"path": "unread", "max_seq_len": 32},
            "model": model,
            "train": {"dtype": dtype},
            "plan": plan or {},
        }
    )


TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ({}, 63_912_192),
        (MINIMIND_2 | {"hidden_size": 512, "intermediate_size": 1408}, 25_829_888),
        (MINIMIND_2 | {"num_hidden_layers": 16, "intermediate_size": 2048}, 104_030_976),
    ],
)
def test_parameter_counts_are_minimind_s(model: dict[str, object], parameters: int) -> None:
    built = MiniMind(config(**model), torch.device("meta"))
    assert sum(p.numel() for p in built.parameters()) == parameters


def test_state_dict_has_minimind_s_names() -> None:
    names = MiniMind(config(), torch.device("meta")).state_dict().keys()
    block = {
        *(f"self_attn.{x}.weight" for x in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")),
        *(f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")),
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
    }
    outside = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    assert set(names) == outside | {f"model.layers.{i}.{name}" for i in range(8) for name in block}
    assert len(names) == 91


def test_padding_changes_nothing() -> None:
    torch.set_num_threads(1)
    model = MiniMind(config(**TINY), torch.device("cpu"))
    initialise(model, seed=1)
    row = torch.randint(3, 512, (1, 9), generator=torch.Generator().manual_seed(1))
    padded = torch.cat((row, torch.zeros(1, 12, dtype=torch.int64)), dim=1)
    torch.testing.assert_close(model(padded)[:, :9], model(row), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_recomputing_activations_changes_no_gradient(dtype: str) -> None:
    torch.set_num_threads(1)
    gradients = []
    for checkpointing in (False, True):
        model = MiniMind(config({"activation_checkpointing": checkpointing}, dtype, **TINY), torch.device("cpu"))
        initialise(model, seed=1)
        model(torch.arange(24).view(2, 12)).float().square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        assert torch.equal(gradient, gradients[1][name]), name


def test_chunked_loss_is_the_whole_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.model.loss.CHUNK_ELEMENTS", 512 * 5)  # 5 rows a chunk, which does not divide 23
    torch.manual_seed(1)
    results = []
    for chunked in (True, False):
        generator = torch.Generator().manual_seed(2)
        hidden = torch.randn(3, 10, 32, generator=generator, requires_grad=True)
        weight = torch.randn(512, 32, generator=generator, requires_grad=True)
        positions = torch.randperm(30, generator=generator)[:23]
        labels = torch.randint(0, 512, (23,), generator=generator)
        loss = cross_entropy_sum(hidden, weight, positions, labels, chunked=chunked)
        (loss * 0.25).backward()
        results.append((loss.detach(), hidden.grad, weight.grad))
    for chunked_value, whole_value in zip(*results, strict=True):
        torch.testing.assert_close(chunked_value, whole_value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1.0, 1e4, 1e30])
def test_chunked_loss_of_logits_of_any_size(size: float) -> None:
    """Subtracting the greatest keeps the exponentials finite: the loss of a wrong, certain answer is its distance."""
    rows = torch.tensor([[size, 0.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    positions, labels = torch.tensor([0]), torch.tensor([2])
    loss = cross_entropy_sum(rows[None], weight, positions, labels, chunked=True)
    expected = torch.nn.functional.cross_entropy(rows.detach() @ weight.T, labels)
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected)
    assert rows.grad is not None
    assert rows.grad.isfinite().all()
