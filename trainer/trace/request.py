"""What the tracer is asked and what it answers: JSON on both sides.

Owns the shapes of both. Must not compute anything.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from trainer.config import Checkpointing, Config, Sharding, parse_config
from trainer.errors import BadConfiguration
from trainer.trace.footprint import Candidate
from trainer.trace.rehearsal import Target

Count = Annotated[int, Meta(ge=1)]


class TargetAsked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Literal["cuda", "cpu", "virtual"]
    capability: Annotated[str, Meta(pattern=r"^\d+\.\d+$")] | None = None
    processes: Count = 1  # that train one model together; the footprint is of one


class ModeAsked(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    activation_checkpointing: bool | Checkpointing
    optimizer_offload: bool
    chunked_loss: bool
    sharding: Sharding = "none"
    tensor_parallel: Count = 1


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`config` is the trainer's CONFIG; its plan and device, if any, are put aside."""

    config: dict[str, Any]
    target: TargetAsked
    modes: Annotated[list[ModeAsked], Meta(min_length=1)]
    micro_batches: Annotated[list[Count], Meta(min_length=1)]
    course: bool = False  # tell the course of a step of each candidate too
    workers: Count = 1  # processes that share the modes

    def target_of(self) -> Target:
        asked = self.target
        return Target(kind=asked.kind, capability=asked.capability, processes=asked.processes)

    def configs(self) -> list[Config]:
        """Give the trainer's configuration of each mode."""
        bare = {key: value for key, value in self.config.items() if key not in ("plan", "device")}
        for mode in self.modes:
            if self.target.processes % mode.tensor_parallel:
                raise BadConfiguration(
                    f"modes.tensor_parallel: {mode.tensor_parallel} divides no {self.target.processes} processes"
                )
        return [parse_config(bare | {"plan": msgspec.to_builtins(mode)}) for mode in self.modes]


def read_request(text: bytes) -> Request:
    """Decode a request; BadConfiguration names the wrong field."""
    try:
        return msgspec.json.decode(text, type=Request)
    except msgspec.DecodeError as error:
        raise BadConfiguration(f"the request: {error}") from None


def as_json(candidate: Candidate) -> dict[str, Any]:
    plan, outcome = candidate.plan, candidate.outcome
    return {
        "micro_batch": plan.micro_batch,
        "activation_checkpointing": plan.checkpointing,
        "optimizer_offload": plan.optimizer_offload,
        "chunked_loss": plan.chunked_loss,
        "sharding": plan.sharding,
        "tensor_parallel": plan.tensor_parallel,
        "allocated_bytes": outcome.allocated_bytes,
        "reserved_bytes": outcome.reserved_bytes,
        "process_bytes": candidate.process_bytes,
        "parts": dict(candidate.parts),
    }
