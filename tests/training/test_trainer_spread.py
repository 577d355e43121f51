"""A model spread over two processes (gloo, on the CPU) by ZeRO-2, ZeRO-3, tensor parallelism: the curve is that of one.

All runs of two processes are made by one pair of them, since what they import takes seconds.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.conftest import PATIENCE_SECONDS, Outcome, Workshop
from tests.training.several import Pair, set_back
from trainer.config import parse_config
from trainer.errors import BadConfiguration, ExitCode
from trainer.model.minimind import MiniMind, initialise

# 32 rows to train on by nine, in pieces of two: with two processes one has a piece more than the other, at times.
TRAIN = {"batch_size": 9, "max_steps": 20, "grad_clip": 0.5, "save_interval": 16, "eval_interval": 10}
EXPERTS = {"use_moe": True, "num_experts": 3, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.05}
PLANS = {
    "zero2": {"sharding": "zero2", "activation_checkpointing": "selective"},
    "zero3": {
        "sharding": "zero3",
        "activation_checkpointing": "full",
        "optimizer_offload": True,
        "chunked_loss": False,
    },
    "tensor": {"micro_batch": 5, "tensor_parallel": 2, "activation_checkpointing": "full"},
}
REFUSED = {  # by rank, at every so many allocations more in each step
    "whole": ({"micro_batch": 3}, {"1": 23}),
    "zero2": ({"sharding": "zero2", "micro_batch": 3}, {"0": 29, "1": 1}),  # the second before its first forward pass
    "both": ({"sharding": "zero3", "micro_batch": 5, "activation_checkpointing": "full"}, {"0": 31, "1": 43}),
}
RELATIVE = 1e-6
pytestmark = pytest.mark.timeout(12 * PATIENCE_SECONDS)  # the pair makes all its runs before the first test


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    torch.set_num_threads(1)
    return Workshop(tmp_path_factory.mktemp("spread"))


@pytest.fixture(scope="module")
def configs(workshop: Workshop) -> dict[str, dict[str, Any]]:
    dense = workshop.config(train=TRAIN, data={"validation": 0.2}, plan={"micro_batch": 2})
    experts = workshop.config(train=TRAIN, data={"validation": 0.2}, plan={"micro_batch": 2}, model=EXPERTS)
    adapters = workshop.config(
        "sft",
        train=TRAIN | {"method": "lora", "lora_rank": 4, "max_steps": 12},
        data={"tokenizer": str(workshop.root / "dense")},
        init_from=str(workshop.root / "base.safetensors"),
        plan={"micro_batch": 2},
    )
    halves = workshop.config(
        train=TRAIN | {"weights": "bfloat16", "dtype": "bfloat16", "max_steps": 12, "save_interval": 8},
        init_from=str(workshop.root / "base.safetensors"),
        data={"tokenizer": str(workshop.root / "dense")},
        plan={"micro_batch": 2},
    )
    return {"dense": dense, "experts": experts, "adapters": adapters, "halves": halves}


@pytest.fixture(scope="module")
def alone(workshop: Workshop, configs: dict[str, dict[str, Any]]) -> dict[str, Outcome]:
    base = MiniMind(parse_config(configs["dense"]), torch.device("cpu"))
    initialise(base, seed=3)
    save_file(dict(base.named_parameters()), workshop.root / "base.safetensors")
    return {name: workshop.train(name, config) for name, config in configs.items()}


@pytest.fixture(scope="module")
def codes(workshop: Workshop, configs: dict[str, dict[str, Any]], alone: dict[str, Outcome]) -> dict[str, int]:
    """Run all there is to run, each under its name."""
    pair = Pair(workshop.root)
    for name, plan in PLANS.items():
        pair.run(name, planned(configs["dense"], plan))
        pair.run(name, planned(configs["dense"], plan), set_back=True)
        shutil.copytree(
            alone["dense"].run_dir / "checkpoints/step-16", workshop.root / f"{name}-goes-on/checkpoints/step-16"
        )
        shutil.copy(alone["dense"].run_dir / "tokenizer.json", workshop.root / f"{name}-goes-on")
        pair.run(f"{name}-goes-on", planned(configs["dense"], plan))
    for name in ("experts", "adapters"):
        for sharding in ("none", "zero3"):
            pair.run(f"{name}-{sharding}", planned(configs[name], {"sharding": sharding}))
    for name, (plan, refused) in REFUSED.items():
        pair.run(f"refused-{name}", planned(configs["dense"], plan), refused=refused)
    packed = configs["dense"]["train"] | {"packing": True}
    pair.run("packed-zero3", planned(configs["dense"], {"sharding": "zero3"}) | {"train": packed})
    for again in (False, True):
        pair.run("halves-zero3", planned(configs["halves"], {"sharding": "zero3"}), set_back=again)
    names = [Path(job["run_dir"]).name for job in pair.jobs]
    return dict(zip(names, pair.wait(), strict=True))


def planned(config: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    return config | {"plan": {"micro_batch": 2} | plan}


@pytest.mark.parametrize("name", PLANS)
def test_the_curve_is_that_of_one(
    name: str, workshop: Workshop, alone: dict[str, Outcome], codes: dict[str, int]
) -> None:
    assert codes[name] == ExitCode.DONE
    assert_alike(workshop.outcome(name), alone["dense"])


@pytest.mark.parametrize("name", REFUSED)
def test_out_of_memory_anywhere_in_a_pass_of_any_process_halves_for_all(
    name: str, workshop: Workshop, alone: dict[str, Outcome], codes: dict[str, int]
) -> None:
    assert codes[f"refused-{name}"] == ExitCode.DONE
    run = workshop.outcome(f"refused-{name}")
    (plan, refused), refusals = REFUSED[name], run.events("out_of_memory")
    trained = [event for event in refusals if event["phase"] != "evaluation"]
    assert {event["phase"] for event in trained} >= {"forward", "backward"}
    assert len(trained) > 10
    assert trained[0]["micro_batch"] == plan["micro_batch"]
    assert all(event["new_micro_batch"] == -(-event["micro_batch"] // 2) for event in trained)
    assert {event.get("rank", 0) for event in trained} <= {int(rank) for rank in refused}
    assert any(event["phase"] == "evaluation" for event in refusals)
    assert all(event["requested_bytes"] and event["needed_bytes"] for event in refusals)
    assert_alike(run, alone["dense"])


@pytest.mark.parametrize("name", PLANS)
def test_a_resumed_run_is_the_same_to_the_bit(name: str, workshop: Workshop, codes: dict[str, int]) -> None:
    steps = workshop.outcome(name).events("step")
    first, again = steps[:20], steps[20:]
    assert [event["step"] for event in again] == list(range(17, 21))
    for told in ("loss", "grad_norm"):
        assert [event[told] for event in again] == [event[told] for event in first[16:]]


@pytest.mark.parametrize("name", PLANS)
def test_a_checkpoint_of_one_process_is_good_for_two(
    name: str, workshop: Workshop, alone: dict[str, Outcome], codes: dict[str, int]
) -> None:
    run = workshop.outcome(f"{name}-goes-on")
    assert run.events("started")[0]["step"] == 16
    assert run.losses() == pytest.approx({s: x for s, x in alone["dense"].losses().items() if s > 16}, rel=RELATIVE)


def test_a_checkpoint_of_two_processes_is_good_for_one(
    workshop: Workshop, configs: dict[str, dict[str, Any]], alone: dict[str, Outcome], codes: dict[str, int]
) -> None:
    for name in PLANS:
        set_back(workshop.root / name)
        run = workshop.train(name, configs["dense"])
        assert run.events("started")[-1]["step"] == 16
        assert run.losses() == pytest.approx(alone["dense"].losses(), rel=RELATIVE)


@pytest.mark.parametrize("name", ["experts", "adapters"])
@pytest.mark.parametrize("sharding", ["none", "zero3"])
def test_experts_and_adapters_are_as_exact(
    name: str, sharding: str, workshop: Workshop, alone: dict[str, Outcome], codes: dict[str, int]
) -> None:
    assert_alike(workshop.outcome(f"{name}-{sharding}"), alone[name])


def test_packed_rows_are_as_exact(workshop: Workshop, alone: dict[str, Outcome], codes: dict[str, int]) -> None:
    """Against rows apart in one process; two processes rarely need as many sequences for their rows."""
    assert codes["packed-zero3"] == ExitCode.DONE
    assert_alike(workshop.outcome("packed-zero3"), alone["dense"])


def test_bfloat16_weights_are_spread_with_what_they_lack(
    workshop: Workshop, alone: dict[str, Outcome], codes: dict[str, int]
) -> None:
    """Gradients are added up in bfloat16, so the curve is near that of one; resumed, it is the same to the bit."""
    run = workshop.outcome("halves-zero3")
    assert run.losses() == pytest.approx(alone["halves"].losses(), rel=2e-3)
    losses = [event["loss"] for event in run.events("step")]
    assert losses[12:] == losses[8:12]


def assert_alike(run: Outcome, alone: Outcome) -> None:
    assert run.losses() == pytest.approx(alone.losses(), rel=RELATIVE)
    norms = [[event["grad_norm"] for event in one.events("step")][:12] for one in (run, alone)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    ours, theirs = ([event["loss"] for event in one.events("evaluation")][:2] for one in (run, alone))
    assert ours == pytest.approx(theirs, rel=RELATIVE)
    weights = [load_file(one.run_dir / "final/model.safetensors") for one in (run, alone)]
    assert all(np.allclose(weights[0][name], weights[1][name], rtol=0, atol=1e-5) for name in weights[1])
    (sample,) = [event["text"] for event in run.events("sample")][:1]
    assert sample == alone.events("sample")[0]["text"]


@pytest.mark.parametrize(
    ("sections", "word"),
    [
        ({"model": {"use_moe": True}}, "experts are not split"),
        ({"train": {"method": "lora"}}, "adapters are not split"),
        ({"train": {"optimizer": "adamw8bit"}}, "scales of blocks that cannot be divided"),
        ({"model": {"num_key_value_heads": 1}}, "1 key-value heads cannot be split 2 ways"),
    ],
)
def test_what_cannot_be_split_is_refused(sections: dict[str, Any], word: str, workshop: Workshop) -> None:
    with pytest.raises(BadConfiguration, match=word):
        parse_config(workshop.config("sft", plan={"tensor_parallel": 2}, **sections))
