"""The log of a rehearsal: sections of a run, and in each the memory it allocates and frees.

Values only. A section is a stretch of the run whose sizes depend on one number of rows: a micro-batch's or a chunk's.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Stage(StrEnum):
    """What a run does, in this order."""

    WEIGHTS = "weights"
    OPTIMIZER = "optimizer"  # it is built
    RESULTS = "results"  # room for the numbers of a step, and for what processes exchange
    MICRO_BATCH = "micro-batch"  # forward and backward
    UPDATE = "update"  # clipping and the optimizer's step
    EVALUATION = "evaluation"
    REST = "rest"  # weights that were gathered for an evaluation are let go
    END = "end"


class Phase(NamedTuple):
    """A part of a stage that does the same each time it is met."""

    stage: Stage
    iteration: int = 0  # 0 the first time round its loop, 1 any later
    loops_before: int = 0  # inner loops of the stage that lie before it
    in_loop: bool = False  # a chunk of the inner loop that comes next


class Label(NamedTuple):
    """The name of a block that outlives its section: equal in all iterations of a loop."""

    stage: Stage
    loops_before: int
    in_loop: bool
    operator: str
    number: int  # of this operator's in the section


class Alloc(NamedTuple):
    label: Label
    size_bytes: int
    is_logits: bool


class Free(NamedTuple):
    label: Label
    ordinal: int | None  # which `Alloc` of the same section; None: the oldest of that label from an earlier one


@dataclass
class Section:
    phase: Phase
    rows: int
    events: list[Alloc | Free] = field(default_factory=list)


@dataclass(frozen=True)
class InnerLoop:
    """A loop over chunks, met in a phase of so many rows: what it cuts, and the chunks of a real run."""

    stage: Stage
    loops_before: int
    rows: int
    total: int
    chunk_size: int


@dataclass(frozen=True)
class Workspace:
    """A block that is never freed, allocated after so many others of its section."""

    phase: Phase
    after: int


@dataclass
class Log:
    sections: list[Section] = field(default_factory=list)
    loops: list[InnerLoop] = field(default_factory=list)
    workspaces: list[Workspace] = field(default_factory=list)
    parameters: int = 0
