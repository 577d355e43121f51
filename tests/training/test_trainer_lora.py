"""LoRA: only adapters learn, the curve keeps every promise, and what comes out is a model like any other."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import assert_resumes_bit_for_bit
from trainer.config import Config, parse_config
from trainer.errors import BadConfiguration
from trainer.files.result import find, open_model
from trainer.model.lora import adapt, initialise_adapters, merged
from trainer.model.minimind import MiniMind, initialise

SHARP = {"method": "lora", "lora_rank": 4, "lora_alpha": 8.0, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def base(shared_workshop):
    """A pretrained run to start from."""
    return shared_workshop.train("base", shared_workshop.config()).run_dir


def lora(workshop, base, train: dict[str, object] | None = None, **sections: object):
    return workshop.config("sft", init_from=str(base), train=SHARP | (train or {}), **sections)


def adapted(config: Config) -> MiniMind:
    model = MiniMind(config, torch.device("cpu"))
    initialise(model, seed=1)
    adapt(model, config.train)
    initialise_adapters(model, seed=1)
    return model


def test_at_first_an_adapter_adds_nothing_and_merged_it_adds_the_same(workshop) -> None:
    config = parse_config(lora(workshop, "unread", {"lora_targets": ["q_proj", "o_proj", "down_proj"]}))
    plain = MiniMind(config, torch.device("cpu"))
    initialise(plain, seed=1)
    model = adapted(config)
    ids = torch.arange(24).view(2, 12)
    assert torch.equal(model(ids), plain(ids))

    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    products = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
    assert trained == {f"model.layers.{i}.{p}.lora.{x}.weight" for i in range(2) for p in products for x in "AB"}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    assert not torch.allclose(model(ids), plain(ids), atol=0.1)
    plain.load_state_dict(merged(model.state_dict(), config.train))
    torch.testing.assert_close(plain(ids), model(ids), rtol=1e-4, atol=1e-4)


def test_the_result_is_the_base_and_what_was_learned(workshop, base) -> None:
    learning = {"batch_size": 40, "max_steps": 12, "learning_rate": 3e-2, "lora_targets": ["q_proj", "down_proj"]}
    run = workshop.train("run", lora(workshop, base, learning))
    losses = run.losses()  # all the rows in each step
    assert losses[12] < losses[1] - 0.1
    products = ("self_attn.q_proj", "mlp.down_proj")
    before, after = (load_file(place / "final/model.safetensors") for place in (base, run.run_dir))
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {f"model.layers.{i}.{product}.weight" for i in range(2) for product in products}

    state = load_file(run.run_dir / "checkpoints/step-12/training.safetensors")
    assert {name.removeprefix("optimizer.first.") for name in state if ".first." in name} == {
        f"model.layers.{i}.{product}.lora.{x}.weight" for i in range(2) for product in products for x in "AB"
    }
    name = "model.layers.1.self_attn.q_proj"
    alone = torch.load(run.run_dir / "final/lora_32.pth", weights_only=True)
    learned = alone[f"{name}.lora.B.weight"].float() @ alone[f"{name}.lora.A.weight"].float()
    torch.testing.assert_close(learned, after[f"{name}.weight"] - before[f"{name}.weight"], rtol=1e-2, atol=1e-4)


def test_any_plan_gives_the_same_curve(shared_workshop, base) -> None:
    whole = shared_workshop.train("whole", lora(shared_workshop, base)).losses()
    for micro_batch, checkpointing, offload in ((1, False, True), (3, True, False)):
        plan = {"micro_batch": micro_batch, "activation_checkpointing": checkpointing, "optimizer_offload": offload}
        run = shared_workshop.train(f"split-{micro_batch}", lora(shared_workshop, base, plan=plan))
        assert run.losses() == pytest.approx(whole, rel=1e-6)


def test_resumed_it_is_the_undisturbed_run_bit_for_bit(workshop, base) -> None:
    assert_resumes_bit_for_bit(workshop, lora(workshop, base))
    run_dir = workshop.root / "run"
    result = load_file(run_dir / "final/model.safetensors")
    shutil.rmtree(run_dir / "final")
    found = find(run_dir)  # what is read of a checkpoint is merged as the result is
    for name, parameter in open_model(found, found.config())[0].named_parameters():
        assert parameter.equal(result[name]), name


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("pretrain", {}, "lora is for fine-tuning"),
        (
            "sft",
            {"model": {"use_moe": True}, "train": SHARP | {"lora_targets": ["up_proj"]}},
            "up_proj would sit on experts",
        ),
        ("sft", {}, "lora needs weights to adapt"),
    ],
)
def test_what_cannot_be_is_refused(workshop, kind, change, told) -> None:
    with pytest.raises(BadConfiguration, match=told):
        workshop.train("run", workshop.config(kind, **{"train": SHARP} | change))


def test_the_defaults_are_minimind_s() -> None:
    config = parse_config({"kind": "sft", "data": {"path": "x"}, "train": {"method": "lora"}})
    assert (config.effective_batch, config.learning_rate, config.max_seq_len, config.epochs) == (32, 1e-4, 340, 10)
    assert (config.train.lora_rank, config.train.lora_targets) == (16, ["q_proj", "o_proj"])
