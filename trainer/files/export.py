"""`final/`: the result of a run, written complete or absent.

model.safetensors (fp32), config.json, MiniMind's own fp16 .pth under its names, tokenizer.json, generated.txt.
Adapters are merged, and in a .pth of their own besides.
"""

import io
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from trainer.config import Config
from trainer.data.tokenizer import Tokenizer
from trainer.files.storage import new_directory
from trainer.files.tensors import save_tensors
from trainer.model.lora import adapters, merged
from trainer.model.minimind import MiniMind

FINAL = "final"
_PTH_NAMES = {"pretrain": "pretrain", "sft": "full_sft"}


def write_final(run_dir: Path, config: Config, model: MiniMind, tokenizer: Tokenizer, sample: str) -> Path:
    """Write the result; the caller is within `device.host()`, since copies are made."""
    with new_directory(run_dir / FINAL) as directory:
        save_tensors(merged(dict(model.named_parameters()), config.train), directory / "model.safetensors")
        write_pth(merged(model.state_dict(), config.train), directory / pth_name(config))
        if config.adapts:
            write_pth(adapters(model.state_dict(), config.train), directory / f"lora_{config.model.hidden_size}.pth")
        (directory / "config.json").write_bytes(msgspec.json.format(_config_json(config)))
        (directory / "tokenizer.json").write_text(tokenizer.json, encoding="utf-8")
        (directory / "generated.txt").write_text(sample, encoding="utf-8")
    return run_dir / FINAL


def pth_name(config: Config) -> str:
    """Give the file name that MiniMind's programs look for."""
    experts = "_moe" if config.model.use_moe else ""
    return f"{_PTH_NAMES[config.kind]}_{config.model.hidden_size}{experts}.pth"


def write_pth(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as MiniMind's programs load them: a pickled dict, in float16."""
    buffer = io.BytesIO()  # torch hides a full disk behind its own error; writing the bytes ourselves does not
    torch.save({name: tensor.detach().half().cpu() for name, tensor in state.items()}, buffer)
    path.write_bytes(buffer.getvalue())


def _config_json(config: Config) -> bytes:
    model = msgspec.to_builtins(config.model)
    explicit = {"head_dim": config.model.head_width, "intermediate_size": config.model.inner_width}
    return msgspec.json.encode({"model_type": "minimind", "kind": config.kind} | model | explicit)
