"""Weights in bfloat16 and moments in 8 bits: what of the promises holds to the bit, and what within which bound."""

import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import assert_resumes_bit_for_bit
from trainer.errors import BadConfiguration
from trainer.files.result import find, open_model
from trainer.generate import main as generate
from trainer.steps.split import join

HALF = {"weights": "bfloat16", "dtype": "bfloat16"}
NARROW = [HALF, {"optimizer": "adamw8bit"}, HALF | {"optimizer": "adamw8bit"}]
WIDE = {"hidden_size": 64, "intermediate_size": 128}  # products of more than 4,096 values, so that 8 bits apply


@pytest.fixture(params=NARROW, ids=lambda train: " and ".join(train.values()))
def train(request: pytest.FixtureRequest) -> dict[str, Any]:
    return request.param


def test_resumed_it_is_the_undisturbed_run_bit_for_bit(workshop, train) -> None:
    config = workshop.config(train=train, model=WIDE)
    assert_resumes_bit_for_bit(workshop, config)


def test_offloaded_it_is_the_same_bit_for_bit_and_a_checkpoint_fits_either(workshop, train) -> None:
    config = workshop.config(train=train, model=WIDE)
    losses = workshop.train("here", config).losses()
    offloaded = workshop.train("there", config | {"plan": {"optimizer_offload": True}})
    assert offloaded.losses() == losses
    shutil.rmtree(offloaded.run_dir / "final")
    shutil.rmtree(offloaded.run_dir / "checkpoints/step-8")
    assert workshop.train("there", config).losses() == losses


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_a_split_moves_the_curve_by_less_than_this(workshop, train, micro_batch) -> None:
    config = workshop.config(train=train | {"learning_rate": 1e-3}, model=WIDE)
    whole = workshop.train("whole", config).losses()
    split = workshop.train("split", config | {"plan": {"micro_batch": micro_batch}}).losses()
    assert split == pytest.approx(whole, rel=2e-3 if "weights" in train else 1e-5)


def test_the_result_is_read_like_any_other(workshop, capsys) -> None:
    run = workshop.train("run", workshop.config(train=HALF))
    checkpoint = load_file(run.run_dir / "checkpoints/step-8/model.safetensors")
    assert {tensor.dtype for tensor in checkpoint.values()} == {torch.bfloat16}
    result = load_file(run.run_dir / "final/model.safetensors")
    for name, tensor in result.items():
        assert tensor.dtype == torch.float32
        assert tensor.equal(checkpoint[name].float()), name
    generate([str(run.run_dir), "--prompt", "the model", "--max-new-tokens", "2"])
    assert "2 tokens in" in capsys.readouterr().err
    shutil.rmtree(run.run_dir / "final")
    found = find(run.run_dir)
    for name, parameter in open_model(found, found.config())[0].named_parameters():
        assert parameter.equal(result[name]), name


def test_what_a_start_lacks_in_bfloat16_is_not_lost(workshop) -> None:
    """At a rate that moves nothing, weights and rests together are what was given, and the weights alone are not."""
    base = workshop.train("base", workshop.config()).run_dir
    train = HALF | {"learning_rate": 1e-12, "weight_decay": 0.0, "max_steps": 1}
    run = workshop.train("run", workshop.config(train=train, init_from=str(base)))
    saved = run.run_dir / "checkpoints/step-1"
    weights, state = load_file(saved / "model.safetensors"), load_file(saved / "training.safetensors")
    for name, given in load_file(base / "final/model.safetensors").items():
        together = join(weights[name], state[f"optimizer.rest.{name}"])
        assert torch.allclose(together, given, rtol=1e-6, atol=1e-11), name
        assert not torch.allclose(weights[name].float(), given, rtol=1e-6, atol=1e-11) or given.dim() == 1, name


def test_adapters_beside_bfloat16_weights_are_float32(workshop) -> None:
    base = workshop.train("base", workshop.config()).run_dir
    train = HALF | {"method": "lora", "learning_rate": 1e-2}
    run = workshop.train("run", workshop.config("sft", train=train, init_from=str(base)))
    checkpoint = load_file(run.run_dir / "checkpoints/step-8/model.safetensors")
    assert {tensor.dtype for name, tensor in checkpoint.items() if ".lora." in name} == {torch.float32}
    before, after = (load_file(place / "final/model.safetensors") for place in (base, run.run_dir))
    adapted = ("q_proj.weight", "o_proj.weight")
    for name, tensor in after.items():
        assert tensor.equal(before[name].bfloat16().float()) != name.endswith(adapted), name


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"weights": "bfloat16", "dtype": "float32"}, "goes with dtype: bfloat16 alone"),
        ({"optimizer": "adamw8bit", "dtype": "float16"}, "can't pass over a step"),
    ],
)
def test_what_cannot_be_is_refused(workshop, train, told) -> None:
    with pytest.raises(BadConfiguration, match=told):
        workshop.train("run", workshop.config(train=train))
