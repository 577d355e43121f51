"""What the tracer is asked about a job, and the key under which its answer is kept.

Pure but for the versions, which it reads from package metadata and from the trainer's source: an answer is only as
good as the torch and the trainer that gave it. Imports neither.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from scheduler.footprint.curve import Modes
from scheduler.jobs.spec import JobSpec
from scheduler.jobs.trainer_config import training_part

# What changes no byte: schedules, seeds, paths. The rest of the configuration is part of the key.
_INTERVALS = ("log_interval", "save_interval", "eval_interval", "sample_interval", "early_stop")
_FLASH_FROM, _LARGE_WORKSPACE = 8, (9, 10, 12)
_NO_MEMORY_IN_TRAIN = ("epochs", "max_steps", "learning_rate", "weight_decay", "seed", *_INTERVALS)


@dataclass(frozen=True, kw_only=True)
class Target:
    """The kind of device a footprint is for. Two devices of one target need the same memory.

    The tracer is told no more than what its choices hang on; the context, which it can't see, is added to its answer.
    So GPUs that differ in their context alone share a trace.
    """

    kind: str  # cuda | virtual | cpu
    capability: str | None = None

    @property
    def name(self) -> str:
        return self.kind if self.capability is None else f"{self.kind}-{self.capability}"

    def as_json(self, processes: int = 1) -> dict[str, Any]:
        capability = {"capability": traced_as(self.capability)} if self.kind == "cuda" else {}
        several = {} if processes == 1 else {"processes": processes}
        return {"kind": self.kind, **capability, **several}


def traced_as(capability: str | None) -> str:
    """Name the GPUs whose blocks are the same by one compute capability: their attention kernels, cuBLAS's workspace.

    The rules are the tracer's (`trainer/memory/kernels.py`); a test holds the two together.
    """
    major = 8 if capability is None else int(capability.partition(".")[0])
    if major < _FLASH_FROM:
        return "7.5"
    return "9.0" if major in _LARGE_WORKSPACE else "8.0"


def trace_request(
    spec: JobSpec, target: Target, *, modes: Sequence[Modes], micro_batches: Sequence[int]
) -> dict[str, Any]:
    """Build the JSON that `python -m trainer.trace` reads; of a job over several devices, about one process."""
    return {
        "config": training_part(spec),
        "target": target.as_json(spec.resources.gpus),
        "modes": [mode.as_json() for mode in modes],
        "micro_batches": list(micro_batches),
    }


def cache_key(request: Mapping[str, Any], *, torch: str, trainer: str) -> str:
    """Return a key that is equal for requests whose footprints are: sha256 of canonical JSON."""
    config = request["config"]
    train = {name: value for name, value in config["train"].items() if name not in _NO_MEMORY_IN_TRAIN}
    data = {"max_seq_len": config["data"]["max_seq_len"], "validates": bool(config["data"]["validation"])}
    relevant = {
        **request,
        "config": {"kind": config["kind"], "model": config["model"], "data": data, "train": train},
        "torch": torch,
        "trainer": trainer,
    }
    canonical = json.dumps(relevant, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


@lru_cache(maxsize=1)
def torch_version() -> str:
    return version("torch")


@lru_cache(maxsize=1)
def trainer_digest() -> str:
    """Return a digest of the trainer's source: stronger than a version number, in a checkout above all."""
    spec = find_spec("trainer")  # finds a package of the top level without importing it
    digest = hashlib.sha256()
    for place in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(place).rglob("*.py")):
            digest.update(path.relative_to(place).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
