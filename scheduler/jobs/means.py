"""The memory means of a plan: what a job's fields leave open, and the names that people read. Pure.

The command line loads it.
"""

from collections.abc import Mapping
from typing import Any, Literal

Checkpointing = Literal["off", "selective", "full"]
Sharding = Literal["none", "zero2", "zero3"]


def checkpointing_of(value: object) -> Checkpointing:
    """Read what a plan says: attempts of the first version said true or false, and a job file's `on` is full."""
    if value == "selective":
        return "selective"
    return "full" if value in (True, "on", "full") else "off"


def sharding_of(value: object) -> Sharding:
    """Read what a plan says: attempts of earlier versions say nothing."""
    if value == "zero2":
        return "zero2"
    return "zero3" if value == "zero3" else "none"


def shardings(
    asked: str, *, processes: int, tensor_parallel: int, optimizer: str, compiled: bool
) -> tuple[Sharding, ...]:
    """List what a job allows its processes to divide, the fastest first.

    There must be several that hold the same; scales of 8-bit moments are of blocks that can't be divided, and compiled
    code takes whole weights.
    """
    if asked != "auto":
        return (sharding_of(asked),)
    can_divide = processes > tensor_parallel and optimizer == "adamw" and not compiled
    return ("none", "zero2", "zero3") if can_divide else ("none",)


def in_words(plan: Mapping[str, Any]) -> list[str]:
    """Name the means that a plan (as JSON) uses."""
    checkpointing = checkpointing_of(plan.get("activation_checkpointing"))
    named = {
        "selective activation checkpointing": checkpointing == "selective",
        "activation checkpointing": checkpointing == "full",
        "optimizer offload": plan.get("optimizer_offload"),
        "chunked loss": plan.get("chunked_loss"),
        "sharding by ZeRO-2": sharding_of(plan.get("sharding")) == "zero2",
        "sharding by ZeRO-3": sharding_of(plan.get("sharding")) == "zero3",
        f"products split {plan.get('tensor_parallel')} ways": plan.get("tensor_parallel", 1) > 1,
    }
    return [name for name, used in named.items() if used]
