"""What a policy sees of a simulation, and what it may do in it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from scheduler.simulation.knowledge import Known


@dataclass(frozen=True, slots=True)
class Start:
    job_id: int
    device: int
    micro_batch: int
    given_bytes: int


@dataclass(frozen=True, slots=True)
class Resize:
    job_id: int
    micro_batch: int
    given_bytes: int


@dataclass(frozen=True, slots=True)
class Preempt:
    job_id: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """It fits no device."""

    job_id: int


Move = Start | Resize | Preempt | Refuse


@dataclass(frozen=True, slots=True)
class Seat:
    """A device, and who is on it."""

    usable_bytes: int
    residents: Sequence[Known]

    @property
    def free_bytes(self) -> int:
        return self.usable_bytes - sum(known.given_bytes for known in self.residents)


@dataclass(frozen=True, slots=True)
class View:
    now: float
    queue: Sequence[Known]  # in the order of submission; a preempted job at its old place
    seats: Sequence[Seat]
    started: int  # jobs, so far
    preemptions: int  # so far
    byte_seconds: Mapping[str, float]  # by user: memory given x time, so far


class Policy(Protocol):
    def moves(self, view: View) -> Iterable[Move]:
        """Say what is to be done now, in that order, all in the same instant."""
        ...
