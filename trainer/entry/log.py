"""What a trace of a foreign loop leaves behind: blocks taken and given back, in order, with phases and kinds.

Values only. A block is numbered by the order of its taking.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

KINDS = ("weights", "gradients", "optimizer", "activations", "logits", "temporaries", "workspace")


class Mark(NamedTuple):
    """From this event on, the run is in this phase."""

    event: int
    phase: str


@dataclass
class Log:
    """An event is a block's number to take it, its complement (`~number`) to give it back, EMPTY to empty the cache."""

    sizes: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    events: list[int | None] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)  # the event with which each began
    parameters: int = 0
    processes: int = 1  # that the loop says it is one of
    routed: bool = False  # sizes depend on where a router sends each token
    asks: bool = False  # which GPU it is on

    @property
    def phase(self) -> str:
        return self.marks[-1].phase if self.marks else "build"

    def take(self, size_bytes: int, kind: str) -> int:
        number = len(self.sizes)
        self.sizes.append(size_bytes)
        self.kinds.append(kind)
        self.events.append(number)
        return number

    def give_back(self, number: int) -> None:
        self.events.append(~number)

    def empty_cache(self) -> None:
        self.events.append(None)

    def begin_step(self) -> None:
        self.steps.append(len(self.events))
        self.enter("forward")

    def enter(self, phase: str) -> None:
        if not self.marks or self.phase != phase:
            self.marks.append(Mark(len(self.events), phase))
