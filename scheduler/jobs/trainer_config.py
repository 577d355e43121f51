"""The trainer's CONFIG from a resolved job: our side of the contract with `python -m trainer`. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec

from scheduler.config import RUN_LOG_BYTES
from scheduler.jobs.spec import JobSpec

_PLAN_KEYS = ("micro_batch", "activation_checkpointing", "optimizer_offload", "chunked_loss")
_LATER_KEYS = {"sharding": "none", "tensor_parallel": 1}  # with defaults: plans of earlier versions lack them


def trainer_config(
    spec: JobSpec,
    *,
    init_from_path: str | None,
    plan: Mapping[str, Any],
    device: Mapping[str, Any],
    attempt: int,
    events_bytes: int = RUN_LOG_BYTES,
) -> dict[str, Any]:
    """Build what becomes `config.json`; `init_from_path` is what `spec.init_from` was resolved to."""
    return training_part(spec) | {
        "init_from": init_from_path,
        "plan": {key: plan[key] for key in _PLAN_KEYS}
        | {key: plan.get(key, default) for key, default in _LATER_KEYS.items()},
        "device": dict(device),
        "on_out_of_memory": "halve",
        "report": list(spec.report or ()),
        "time_limit_seconds": spec.resources.time_limit_seconds,
        "attempt": attempt,
        "events_bytes": events_bytes,
    }


def training_part(spec: JobSpec) -> dict[str, Any]:
    """What is trained, apart from where and how: all that a footprint depends on, and the weights' start."""
    whole = msgspec.to_builtins(spec)
    model = {key: value for key, value in whole["model"].items() if key != "preset"}
    return {
        "kind": spec.kind,
        "model": model,
        "init_from": None,
        "data": whole["data"],
        "train": whole["train"],
    }
