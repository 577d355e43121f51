"""From a request to its answer: the loop traced, replayed, and told as JSON."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # before anything of torch is replaced: its import looks at all of it

from trainer.entry.load import built
from trainer.entry.replay import course, replay, smallest_cap
from trainer.entry.trace import trace
from trainer.memory.expandable import ExpandableAllocator


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Trace `file`'s `function` with `settings`, for a GPU of `capability` and `total_bytes`; all without context."""
    torch.set_num_threads(1)
    log = trace(
        partial(built, Path(request["file"]), request["function"], request["settings"]),
        capability=request.get("capability"),
        total_bytes=request["total_bytes"],
        uneven=bool(request.get("uneven")),
    )
    outcome = replay(log)
    cached = outcome.reserved_bytes - outcome.allocated_bytes
    return {
        "torch": torch.__version__.partition("+")[0],
        "parameters": log.parameters,
        "steps": len(log.steps),
        "processes": log.processes,
        "routed": log.routed,
        "asks": log.asks,
        "allocated_bytes": outcome.allocated_bytes,
        "reserved_bytes": outcome.reserved_bytes,
        "process_bytes": outcome.reserved_bytes,
        "least_bytes": smallest_cap(log, outcome),
        "expandable_bytes": replay(log, ExpandableAllocator()).reserved_bytes,
        "parts": {**outcome.parts, "context": 0, "cached": cached},
        "course": course(log),
    }
