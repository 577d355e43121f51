"""A footprint: for each micro-batch and each choice of memory means, the peak a training process reaches.

Pure values, read from the tracer's answer. Owns no policy: which candidate a job gets is admission's decision.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scheduler.jobs.means import Checkpointing, Sharding, checkpointing_of, sharding_of


@dataclass(frozen=True, kw_only=True, order=True)
class Modes:
    """The memory means of a plan, besides the micro-batch."""

    activation_checkpointing: Checkpointing = "off"
    optimizer_offload: bool = False
    chunked_loss: bool = True
    sharding: Sharding = "none"  # what the processes of a job over several devices divide among them
    tensor_parallel: int = 1  # processes that compute each product together

    @classmethod
    def from_json(cls, plan: Mapping[str, Any]) -> "Modes":
        """Read the means of a plan or of a tracer's answer, whatever else is there."""
        return cls(
            activation_checkpointing=checkpointing_of(plan["activation_checkpointing"]),
            optimizer_offload=bool(plan["optimizer_offload"]),
            chunked_loss=bool(plan["chunked_loss"]),
            sharding=sharding_of(plan.get("sharding")),
            tensor_parallel=int(plan.get("tensor_parallel", 1)),
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "activation_checkpointing": self.activation_checkpointing,
            "optimizer_offload": self.optimizer_offload,
            "chunked_loss": self.chunked_loss,
            "sharding": self.sharding,
            "tensor_parallel": self.tensor_parallel,
        }


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run the job, and the peaks predicted for it."""

    micro_batch: int
    modes: Modes
    allocated_bytes: int  # rounded blocks in the allocator
    reserved_bytes: int  # its segments
    process_bytes: int  # what the device shows for the process: reserved + context
    parts: Mapping[str, int] = field(default_factory=dict, compare=False)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Candidate":
        return cls(
            micro_batch=int(row["micro_batch"]),
            modes=Modes.from_json(row),
            allocated_bytes=int(row["allocated_bytes"]),
            reserved_bytes=int(row["reserved_bytes"]),
            process_bytes=int(row["process_bytes"]),
            parts={name: int(size) for name, size in row["parts"].items()},
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "micro_batch": self.micro_batch,
            **self.modes.as_json(),
            "allocated_bytes": self.allocated_bytes,
            "reserved_bytes": self.reserved_bytes,
            "process_bytes": self.process_bytes,
            "parts": dict(self.parts),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class Footprint:
    """The candidates of one configuration on one kind of device. Compared by identity, so it hashes in no time."""

    candidates: tuple[Candidate, ...]
    parameters: int
    torch: str
    missing: tuple[Modes, ...] = ()  # means that the job allows, and that have not been traced yet

    @classmethod
    def from_json(cls, answer: Mapping[str, Any]) -> "Footprint":
        """Read a tracer's answer; KeyError, TypeError or ValueError if it is none."""
        candidates = tuple(Candidate.from_json(row) for row in answer["candidates"])
        if not candidates:
            raise ValueError("a footprint without candidates")
        return cls(candidates=candidates, parameters=int(answer["parameters"]), torch=str(answer["torch"]))

    def joined(self, other: "Footprint") -> "Footprint":
        """Return a footprint of both tables, with nothing missing."""
        return Footprint(candidates=self.candidates + other.candidates, parameters=self.parameters, torch=self.torch)

    def raised(self, correction_bytes: int) -> "Footprint":
        """Return this table with so much more outside the allocator."""
        if not correction_bytes:
            return self
        return replace(self, candidates=tuple(_raised(self.candidates, correction_bytes)))

    def without(self, missing: tuple[Modes, ...]) -> "Footprint":
        """Return this table, knowing what is missing from it."""
        return replace(self, missing=missing)


def _raised(candidates: Iterable[Candidate], correction_bytes: int) -> Iterator[Candidate]:
    for candidate in candidates:
        parts = {**candidate.parts, "context": candidate.parts.get("context", 0) + correction_bytes}
        yield replace(candidate, process_bytes=candidate.process_bytes + correction_bytes, parts=parts)
