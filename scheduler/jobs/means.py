"""The memory means of a plan by the names that people read. Pure; the command line loads it."""

from collections.abc import Mapping
from typing import Any, Literal

Checkpointing = Literal["off", "selective", "full"]


def checkpointing_of(value: object) -> Checkpointing:
    """Read what a plan says: attempts of the first version said true or false, and a job file's `on` is full."""
    if value == "selective":
        return "selective"
    return "full" if value in (True, "on", "full") else "off"


def in_words(plan: Mapping[str, Any]) -> list[str]:
    """Name the means that a plan (as JSON) uses."""
    checkpointing = checkpointing_of(plan.get("activation_checkpointing"))
    named = {
        "selective activation checkpointing": checkpointing == "selective",
        "activation checkpointing": checkpointing == "full",
        "optimizer offload": plan.get("optimizer_offload"),
        "chunked loss": plan.get("chunked_loss"),
    }
    return [name for name, used in named.items() if used]
