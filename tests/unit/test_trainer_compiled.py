"""What `train.compile` rests on: plain functions that compute what the fused ones do, and a compiler."""

import pytest
import torch

from trainer.config import parse_config
from trainer.errors import BadConfiguration
from trainer.model import compiled, fused, plain
from trainer.model.minimind import MiniMind

COS, SIN = fused.rotations(5, 8, 1e4, torch.device("cpu"))
CASES = {
    "rms_norm": ((2, 5, 4, 8), (8,), 1e-6, "dtype"),
    "rotate": ((2, 5, 4, 8), COS[:, None], SIN[:, None], "dtype"),
    "repeat": ((2, 5, 2, 8), 2),
    "swiglu": ((2, 5, 8), (2, 5, 8)),
    "linear": ((2, 5, 8), (6, 8)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CASES)
def test_plain_functions_and_their_gradients_are_those_of_the_fused_ones(name, dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    shapes = [one for one in CASES[name] if isinstance(one, tuple)]
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]

    def run(module) -> list[torch.Tensor]:
        given = [
            one.to(torch.float32 if one.dim() == 1 or (name, index) == ("linear", 1) else dtype)
            for index, one in enumerate(drawn)
        ]
        leaves = [one.detach().requires_grad_() for one in given]
        left = iter(leaves)
        arguments = [
            next(left) if isinstance(one, tuple) else dtype if isinstance(one, str) else one for one in CASES[name]
        ]
        out = getattr(module, name)(*arguments)
        out.backward(torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype))
        return [out, *(leaf.grad for leaf in leaves)]

    digits = 1e-5 if dtype is torch.float32 else 2e-2
    for ours, theirs in zip(run(plain), run(fused), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=digits, atol=digits)


def test_without_a_c_compiler_it_is_refused_at_the_start(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BadConfiguration, match=r"train\.compile: .* no no-such-compiler\nhint: apt install g\+\+, or"):
        compiled.check_compiler(torch.device("cpu"))


def test_it_is_refused_for_a_model_that_is_divided() -> None:
    with pytest.raises(BadConfiguration, match=r"train\.compile: .*divided.*\nhint: train\.compile: false"):
        parse_config(
            {"kind": "pretrain", "data": {"path": "x"}, "train": {"compile": True}, "plan": {"sharding": "zero3"}}
        )


@pytest.mark.parametrize(("asked", "built"), [("selective", "off"), ("full", "full"), ("off", "off")])
def test_what_is_kept_between_the_passes_is_left_to_the_compiler_where_it_would_select(asked, built) -> None:
    config = parse_config(
        {
            "kind": "pretrain",
            "data": {"path": "x"},
            "model": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1},
            "train": {"compile": True},
            "plan": {"activation_checkpointing": asked},
        }
    )
    assert MiniMind(config, torch.device("meta")).model.layers[0].checkpointing == built
