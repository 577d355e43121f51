"""Weights from elsewhere: a run, a MiniMind .pth or a safetensors file. Strict: every name and shape must agree."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from trainer.errors import BadConfiguration

NAMED_AT_MOST = 5
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def read_weights(source: Path) -> dict[str, Tensor]:
    """Read tensors by name from a run directory, its final/, a .pth or a .safetensors file."""
    file = _file_of(source)
    try:
        tensors: Any = (
            load_file(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except FileNotFoundError:
        place = f"{source} is a run without a result: it has no" if source.is_dir() else "there is no"
        raise BadConfiguration(f"init_from: {place} {file}") from None
    except Exception as error:  # noqa: BLE001 (unpickling a foreign file can raise anything)
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise BadConfiguration(f"init_from: {file} is not a weights file: {first_line}") from None
    if not isinstance(tensors, dict) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise BadConfiguration(f"init_from: {file} is not a weights file: not a dict of tensors")
    return tensors


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights into the model; the error names the first parameters that differ, with their shapes."""
    expected = model.state_dict()
    tied = _HEAD in expected and expected[_HEAD].data_ptr() == expected[_EMBEDDING].data_ptr()
    tensors = dict(weights)
    if tied and _EMBEDDING in tensors:
        tensors.setdefault(_HEAD, tensors[_EMBEDDING])
    wrong = _differences(expected, tensors)
    if not wrong and tied and not torch.equal(tensors[_HEAD], tensors[_EMBEDDING]):
        wrong = [f"{_HEAD} differs from {_EMBEDDING}, and model.tie_word_embeddings is true"]
    if wrong:
        raise BadConfiguration(f"{source} does not fit the model:\n  {_listed(wrong)}")
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])


def misfit(model: nn.Module, saved: Mapping[str, Tensor]) -> str | None:
    """Say how weights that were saved by name differ from the model, which may be on meta; None if they fit."""
    wrong = _differences(dict(model.named_parameters()), saved)
    return _listed(wrong) if wrong else None


def _listed(wrong: list[str]) -> str:
    more = f"\n  and {len(wrong) - NAMED_AT_MOST} more" if len(wrong) > NAMED_AT_MOST else ""
    return "\n  ".join(wrong[:NAMED_AT_MOST]) + more


def _differences(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    shapes = [
        f"{name}: the model has {list(tensor.shape)}, the file {list(tensors[name].shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    missing = [f"{name} {list(t.shape)} is missing in the file" for name, t in expected.items() if name not in tensors]
    extra = [f"{name} {list(t.shape)} is not in the model" for name, t in tensors.items() if name not in expected]
    whole = [f"{name} is {t.dtype}, and not floating point" for name, t in tensors.items() if not t.is_floating_point()]
    return shapes + missing + extra + whole


def _file_of(source: Path) -> Path:
    if not source.is_dir():
        return source
    final = source / "final" if (source / "final").is_dir() else source
    return final / "model.safetensors"
