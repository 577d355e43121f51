"""Tensors written to a safetensors file one by one, so that no more than one of them is whole on the host at a time.

Owns the format's bytes: a length, a header of JSON, then the data, widest types first so that all lie aligned. Reading
is the library's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from trainer.processes.parts import Part

_NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8


def save_tensors(tensors: Mapping[str, Tensor | Part], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name; of those that are spread over processes, the others `attend` to their parts."""
    ordered = _ordered(tensors)
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    place = 0
    for name, part in ordered.items():
        end = place + part.shape.numel() * part.held.itemsize
        header[name] = {"dtype": _NAMES[part.held.dtype], "shape": list(part.shape), "data_offsets": [place, end]}
        place = end
    written = msgspec.json.encode(header)
    written += b" " * (-len(written) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(written).to_bytes(8, "little"))
        file.write(written)
        for part in ordered.values():
            file.write(_bytes(part.whole()))


def attend(tensors: Mapping[str, Part]) -> None:
    """Give away one's parts of what another process writes with `save_tensors`."""
    for part in _ordered(tensors).values():
        part.whole()


def _ordered(tensors: Mapping[str, Tensor | Part]) -> dict[str, Part]:
    parts = {name: tensor if isinstance(tensor, Part) else Part(tensor, tensor) for name, tensor in tensors.items()}
    return dict(sorted(parts.items(), key=lambda item: (-item[1].held.itemsize, item[0])))


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy())
