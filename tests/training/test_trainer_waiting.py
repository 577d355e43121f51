"""A step never waits for the device: values are read from it only where a line, a checkpoint or a result is due."""

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from trainer.config import parse_config
from trainer.loop import Training
from trainer.model.minimind import MiniMind
from trainer.steps.optimizer import build_optimizer
from trainer.steps.scaling import LossScaler
from trainer.steps.step import MicroBatch, train_step

READS = {"item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__"}
META = torch.device("meta")


class Reads(TorchFunctionMode):
    """Notes at which step of a run, counted from 1, a tensor's value is asked for; 0 before the first."""

    def __init__(self) -> None:
        super().__init__()
        self.step = 0
        self.at: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in READS:
            self.at.append(self.step)
        return func(*args, **(kwargs or {}))


def ids(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.int64, device=META)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("checkpointing", ["off", "selective", "full"])
def test_a_step_runs_on_tensors_that_have_no_value(workshop, checkpointing: str, packing: bool, dtype: str) -> None:
    """On the meta device to ask for a value is an error."""
    plan = {"activation_checkpointing": checkpointing}
    config = parse_config(workshop.config(train={"dtype": dtype}, plan=plan))
    model = MiniMind(config, META)
    optimizer = build_optimizer(model, config)
    batch = MicroBatch(ids=ids(3, 32), positions=ids(50), labels=ids(50), starts=ids(3, 32) if packing else None)
    scaler = LossScaler(META) if dtype == "float16" else None
    result = train_step(
        model, optimizer, [batch, batch], target_tokens=100, grad_clip=1.0, chunked_loss=True, scaler=scaler
    )
    with pytest.raises(RuntimeError, match="meta"):
        result.loss.item()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_values_are_read_only_where_something_is_told_or_kept(workshop, monkeypatch, dtype: str) -> None:
    reads = Reads()
    take = Training._take

    def noting(self: Training, number: int) -> None:
        reads.step = number
        take(self, number)

    monkeypatch.setattr(Training, "_take", noting)
    train = {"dtype": dtype, "max_steps": 20, "log_interval": 7, "save_interval": 12}
    config = workshop.config(train=train, plan={"micro_batch": 3})
    with reads:
        workshop.train("run", config)
    logged, saved, first_and_last = {7, 14}, {12}, {1, 20}
    assert set(reads.at) - {0} == logged | saved | first_and_last
