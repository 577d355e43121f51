"""The tracer's request and its answer: JSON both.

Owns the form of both. Must not compute anything.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from trainer.config import Checkpointing, Config, Sharding, parse_config
from trainer.errors import BadConfiguration
from trainer.trace.footprint import Candidate
from trainer.trace.rehearsal import Target

Count = Annotated[int, Meta(ge=1)]


class TargetRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Literal["cuda", "cpu", "virtual"]
    capability: Annotated[str, Meta(pattern=r"^\d+\.\d+$")] | None = None
    processes: Count = 1  # that train one model together; the footprint is of one


class ModeRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A combination of memory means."""

    activation_checkpointing: bool | Checkpointing
    optimizer_offload: bool
    chunked_loss: bool
    sharding: Sharding = "none"
    tensor_parallel: Count = 1


class Request(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`config` is the trainer's CONFIG; its plan and device, if any, are put aside."""

    config: dict[str, Any]
    target: TargetRequest
    modes: Annotated[list[ModeRequest], Meta(min_length=1)]
    micro_batches: Annotated[list[Count], Meta(min_length=1)]
    course: bool = False  # give the course of a step of each candidate too
    workers: Count = 1  # processes that share the modes

    def device(self) -> Target:
        target = self.target
        return Target(kind=target.kind, capability=target.capability, processes=target.processes)

    def configs(self) -> list[Config]:
        """Give the trainer's configuration of each mode."""
        shared = {key: value for key, value in self.config.items() if key not in ("plan", "device")}
        for mode in self.modes:
            if self.target.processes % mode.tensor_parallel:
                raise BadConfiguration(
                    f"modes.tensor_parallel: {mode.tensor_parallel} divides no {self.target.processes} processes"
                )
        return [parse_config(shared | {"plan": msgspec.to_builtins(mode)}) for mode in self.modes]


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
