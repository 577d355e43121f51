"""Checkpoints: `checkpoints/step-N/`, complete or absent, with a manifest by which damage is found.

Owns their format: model.safetensors (fp32), training.safetensors (optimizer, scaler, random state), state.json,
manifest.json (size and SHA-256 of each). No pickle, and no word of how many processes wrote it. The newest two are
kept, and the best by validation loss. Those of later steps than the one just saved are of a run that was set back,
since they were damaged or did not fit the model: they make way.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainer.errors import BadConfiguration
from trainer.files.storage import is_file, new_directory, read_record, remove, remove_leftovers
from trainer.files.tensors import attend, save_tensors
from trainer.processes.parts import Part
from trainer.stopping import Validation

KEPT = 2
_FILES = frozenset({"model.safetensors", "training.safetensors", "state.json"})


class RunState(msgspec.Struct, kw_only=True):
    """What a resumed run must know besides tensors. `identity`: all of CONFIG that shapes the result."""

    step: int  # optimizer steps done
    identity: dict[str, Any]
    target_tokens: int = 0
    first_loss: float | None = None
    loss: float | None = None
    validation_loss: float | None = None  # at this very step; None: not evaluated here
    validation: Validation = msgspec.field(default_factory=Validation)


class FileFacts(msgspec.Struct, kw_only=True):
    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, kw_only=True):
    step: int
    validation_loss: float | None
    files: dict[str, FileFacts]


class DamagedCheckpoint(Exception):
    """A file is missing, short or altered."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    path: Path
    state: RunState
    model: dict[str, Tensor]
    training: dict[str, Tensor]


Misfit = Callable[[Checkpoint], str | None]  # says how its weights differ from what is wanted


def save(root: Path, state: RunState, model: Mapping[str, Part], training: Mapping[str, Part]) -> Path:
    """Write a checkpoint, then remove those no longer kept; where parts are spread, the others `lend` theirs."""
    path = root / f"step-{state.step}"
    with new_directory(path) as directory:
        save_tensors(model, directory / "model.safetensors")
        save_tensors(training, directory / "training.safetensors")
        (directory / "state.json").write_bytes(msgspec.json.encode(state))
        facts = {file.name: _facts(file) for file in sorted(directory.iterdir())}
        manifest = Manifest(step=state.step, validation_loss=state.validation_loss, files=facts)
        (directory / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    _prune(root, state.step)
    return path


def lend(model: Mapping[str, Part], training: Mapping[str, Part]) -> None:
    """Take part in the checkpoint that another process writes."""
    attend(model)
    attend(training)


def load_newest(root: Path, misfit: Misfit = lambda loaded: None) -> tuple[Checkpoint | None, list[str]]:
    """Read the newest complete checkpoint that fits the model, and say what was wrong with any newer one.

    BadConfiguration where there are whole ones and none fits: to begin anew would be to lose them.
    """
    if root.exists():
        remove_leftovers(root)
    damage: list[str] = []
    unfit: list[str] = []
    for path in _newest_first(root):
        try:
            loaded = _load(path)
        except DamagedCheckpoint as error:
            damage.append(f"{path}: {error}")
            continue
        why = misfit(loaded)
        if why is None:
            return loaded, damage + unfit
        unfit.append(f"checkpoint {path} does not fit the model:\n  {why}")
    if unfit:
        raise BadConfiguration(f"{unfit[0]}\nhint: mv {root} {root}.unfit  # then the run begins anew")
    return None, damage


def newest_state(root: Path) -> tuple[Path, RunState] | None:
    """Name the newest complete checkpoint, for who only reads: nothing is removed, and the run may go on meanwhile."""
    for path in _newest_first(root):
        try:
            return path, msgspec.json.decode(read_record(path / "state.json"), type=RunState)
        except (OSError, ValueError, RecursionError):
            continue
    return None


def load_weights_of(root: Path, step: int) -> dict[str, Tensor]:
    """Read the weights of one step's checkpoint; DamagedCheckpoint if it is not whole."""
    return _load(root / f"step-{step}").model


def _load(path: Path) -> Checkpoint:
    try:
        manifest = msgspec.json.decode(read_record(path / "manifest.json"), type=Manifest)
        for name in manifest.files.keys() | _FILES:
            if name not in _FILES or not is_file(path / name) or _facts(path / name) != manifest.files.get(name):
                raise DamagedCheckpoint(f"{name[:80]!r} is not as it was written")
        state = msgspec.json.decode(read_record(path / "state.json"), type=RunState)
        if path.name != f"step-{state.step}":
            raise DamagedCheckpoint(f"it is of step {state.step}")
        return Checkpoint(
            path=path,
            state=state,
            model=load_file(path / "model.safetensors"),
            training=load_file(path / "training.safetensors"),
        )
    except (OSError, ValueError, RecursionError, SafetensorError) as error:  # msgspec's errors are ValueErrors
        raise DamagedCheckpoint(str(error) or type(error).__name__) from None


def _facts(file: Path) -> FileFacts:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return FileFacts(size_bytes=file.stat().st_size, sha256=digest)


def _newest_first(root: Path) -> list[Path]:
    numbered = [(int(path.name[5:]), path) for path in root.glob("step-*") if path.name[5:].isdecimal()]
    return [path for _, path in sorted(numbered, reverse=True)]


def _prune(root: Path, newest: int) -> None:
    paths = _newest_first(root)
    current = paths[paths.index(root / f"step-{newest}") :]
    best = min(_scores(current), default=(0.0, 0, None))[2]
    for path in paths:
        if path not in current[:KEPT] and path != best:
            remove(path)


def _scores(paths: list[Path]) -> Iterator[tuple[float, int, Path]]:
    for path in paths:
        try:
            manifest = msgspec.json.decode(read_record(path / "manifest.json"), type=Manifest)
        except (OSError, ValueError, RecursionError):
            continue  # damaged: never the best
        if manifest.validation_loss is not None:
            yield manifest.validation_loss, manifest.step, path
