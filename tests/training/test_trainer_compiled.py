"""`train.compile`: only rounding differs from the run without, and resuming is exact. A minute of compiling."""

import pytest
import torch
from safetensors import safe_open

from tests.training.conftest import assert_resumes_bit_for_bit, assert_same_curve
from trainer.memory.virtual import VirtualDevice
from trainer.model.minimind import Block

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),  # of torch's compiler, about torch
]

COMPILED = {"compile": True}


@pytest.fixture(autouse=True)
def kept_code(tmp_path_factory, monkeypatch) -> None:
    """Keep what is compiled from one test to the next, and apart from what lies on this machine."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "inductor"))


@pytest.mark.parametrize(
    ("model", "plan", "train"),
    [
        ({}, {"micro_batch": 3}, {}),
        ({}, {"micro_batch": 1, "activation_checkpointing": "full"}, {}),
        ({}, {"activation_checkpointing": "selective"}, {"packing": True}),
        ({"use_moe": True}, {"micro_batch": 3}, {}),
    ],
    ids=["micro-batches", "full checkpointing", "selective and packing", "experts"],
)
def test_the_curve_is_that_of_the_run_without(workshop, monkeypatch, model, plan, train) -> None:
    sections = {"model": model, "plan": plan, "data": {"validation": 0.1}}
    plain = workshop.train("plain", workshop.config(**sections, train=train))
    blocks = compiled_blocks(monkeypatch)
    compiled = workshop.train("compiled", workshop.config(**sections, train=train | COMPILED))
    assert blocks
    assert_same_curve(compiled.losses(), plain.losses())
    files = [outcome.run_dir / "final/model.safetensors" for outcome in (plain, compiled)]
    names = [set(safe_open(file, "pt").keys()) for file in files]
    assert names[0] == names[1]


def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(workshop, monkeypatch) -> None:
    blocks = compiled_blocks(monkeypatch)
    config = workshop.config(train=COMPILED)
    config["plan"] = {"micro_batch": 3}
    train = workshop.train

    def train_anew(*arguments):
        torch._dynamo.reset()  # another process would know nothing either
        return train(*arguments)

    monkeypatch.setattr(workshop, "train", train_anew)
    assert_resumes_bit_for_bit(workshop, config)
    assert blocks


def test_a_virtual_device_compiles_nothing_and_says_so(workshop, capsys, monkeypatch) -> None:
    blocks = compiled_blocks(monkeypatch)
    device = VirtualDevice(workshop.root / "ledger", total_bytes=1 << 30)
    workshop.train("virtual", workshop.config(train=COMPILED | {"max_steps": 1}), device)
    assert "nothing is compiled" in "".join(capsys.readouterr())
    assert not blocks


def compiled_blocks(monkeypatch) -> list[Block]:
    """Collect the blocks that compute in compiled stretches from now on."""
    found: list[Block] = []
    compute = Block.compute_all

    def watched(block, *arguments):
        if block.compiled is not None:
            found.append(block)
        return compute(block, *arguments)

    monkeypatch.setattr(Block, "compute_all", watched)
    return found
