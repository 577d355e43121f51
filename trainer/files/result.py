"""A trained model read back: from the result of a run, or, where there is none yet, from its newest checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from trainer.config import Config, ModelConfig, TrainConfig, parse_config
from trainer.data.tokenizer import Tokenizer, read_tokenizer
from trainer.errors import BadConfiguration
from trainer.files import checkpoint
from trainer.files.export import FINAL
from trainer.files.storage import read_record
from trainer.files.weights import load_weights, read_weights
from trainer.memory.cpu import CpuDevice
from trainer.memory.device import Device
from trainer.model.lora import merged
from trainer.model.minimind import MiniMind

_MODEL_FIELDS = frozenset(ModelConfig.__struct_fields__)


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What a run has to show: `kind` and the model's keys as CONFIG has them, and where its weights are."""

    kind: str
    model: dict[str, Any]
    train: TrainConfig  # of the adapters, which a checkpoint holds apart
    place: Path
    tokenizer: Path

    def config(self, **sections: Any) -> Config:
        """Give a CONFIG for this model, in float32 since that is what is kept."""
        bare = {"kind": self.kind, "model": self.model, "train": {"dtype": "float32"}, "data": {"path": ""}}
        return parse_config(bare | sections)


def find(run_dir: Path) -> TrainedModel:
    """Look for the result in a run directory (or a `final/` itself), else for the newest complete checkpoint."""
    for place in (run_dir, run_dir / FINAL):
        if (place / "model.safetensors").exists() and (place / "config.json").exists():
            shape = _shape_of(place / "config.json")
            return _trained_model(shape["kind"], shape, TrainConfig(), place, place / "tokenizer.json")
    newest = checkpoint.newest_state(run_dir / "checkpoints")
    if newest is None:
        raise BadConfiguration(f"{run_dir} has no result, and no checkpoint yet")
    place, state = newest
    identity = state.identity
    lora = {name: value for name, value in identity.items() if name.startswith("lora_")}
    try:
        train, model, kind = msgspec.convert(lora, TrainConfig), dict(identity["model"]), str(identity["kind"])
    except (KeyError, TypeError, ValueError):
        raise BadConfiguration(f"{place} does not say of which model it is") from None
    return _trained_model(kind, model, train, place, run_dir / "tokenizer.json")


def _shape_of(file: Path) -> dict[str, Any]:
    """Read what a result says of its model."""
    try:
        shape: dict[str, Any] = msgspec.json.decode(read_record(file), type=dict[str, Any])
        if shape["kind"] in ("pretrain", "sft"):
            return shape
    except (OSError, KeyError, ValueError, RecursionError):
        pass
    raise BadConfiguration(f"{file} does not say of which model it is")


def open_tokenizer_of(trained: TrainedModel) -> Tokenizer:
    return read_tokenizer(trained.tokenizer, trained.model["vocab_size"])


def open_model(trained: TrainedModel, config: Config) -> tuple[MiniMind, Device]:
    """Build the model on the CPU, with its weights."""
    device = CpuDevice(None)
    model = MiniMind(config, torch.device("cpu"))
    weights = merged(read_weights(trained.place / "model.safetensors"), trained.train)
    load_weights(model, weights, str(trained.place))
    return model, device


def _trained_model(kind: str, shape: dict[str, Any], train: TrainConfig, place: Path, tokenizer: Path) -> TrainedModel:
    model = {name: value for name, value in shape.items() if name in _MODEL_FIELDS}
    return TrainedModel(kind=kind, model=model, train=train, place=place, tokenizer=tokenizer)
