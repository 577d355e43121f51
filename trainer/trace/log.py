"""What a rehearsal leaves behind: sections of a run, and in each the memory it takes and gives back.

Values only. A section is a stretch of the run whose sizes depend on one number of rows: a micro-batch's or a piece's.
"""

from dataclasses import dataclass, field
from typing import NamedTuple


class Place(NamedTuple):
    """Which stretch of the run: the same place met again does the same."""

    name: str  # weights, optimizer, results, micro, micro.piece, update, evaluation, evaluation.piece, rest
    turn: int = 0  # 0 the first time round its loop, 1 any later
    part: int = 0  # how many inner loops lie before it


class Label(NamedTuple):
    """The name of a block that outlives its section: equal in all turns of a loop."""

    name: str
    part: int
    operator: str
    number: int  # of this operator's in the section


class Take(NamedTuple):
    label: Label
    size_bytes: int
    logits: bool


class GiveBack(NamedTuple):
    label: Label
    ordinal: int | None  # which `Take` of the same section; None: the oldest of that label from an earlier one


@dataclass
class Section:
    place: Place
    rows: int
    events: list[Take | GiveBack] = field(default_factory=list)


@dataclass(frozen=True)
class Loop:
    """An inner loop met in a section: how many rows it cut, and into pieces of what size it would in a real run."""

    name: str
    rows: int
    part: int
    count: int
    size: int


@dataclass(frozen=True)
class Workspace:
    """A block taken for good, after so many others of its section."""

    place: Place
    after: int


@dataclass
class Log:
    sections: list[Section] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)
    workspaces: list[Workspace] = field(default_factory=list)
    parameters: int = 0
