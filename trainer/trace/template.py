"""From the log of two batch sizes to a template of any: each size a constant plus so much a row.

Owns the check that the logs agree where they must. A run that is no such template raises Unaligned.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from trainer.trace.log import GiveBack, Label, Log, Loop, Place, Section, Take, Workspace


class Unaligned(Exception):
    """Two turns of the same place take different memory, or not in proportion to their rows."""


class Line(NamedTuple):
    """A size as a function of the rows."""

    constant: int
    a_row: int

    def at(self, rows: int) -> int:
        return self.constant + self.a_row * rows


class Grant(NamedTuple):
    """Take a block; one with a label outlives its section."""

    size_bytes: Line
    part: str  # which part of the footprint it is
    label: Label | None


@dataclass(frozen=True)
class Template:
    """What each place does, for any number of rows."""

    places: dict[Place, list[Grant | GiveBack]]
    loops: dict[tuple[str, int], tuple[Line, int]]  # (name, part) of the place before: its count, its piece size
    workspaces: frozenset[Workspace]


def build_template(log: Log) -> Template:
    """Fit every place of a log that met each with two numbers of rows."""
    met: dict[Place, list[Section]] = defaultdict(list)
    for section in log.sections:
        met[section.place].append(section)
    gradients = gradients_of(log)
    return Template(
        places={place: fit(sections, gradients) for place, sections in met.items()},
        loops=_fit_loops(log.loops),
        workspaces=frozenset(log.workspaces),
    )


def gradients_of(log: Log) -> frozenset[Label]:
    """Name what lives from a micro-batch to the update."""
    return frozenset(
        event.label
        for section in log.sections
        if section.place.name == "update"
        for event in section.events
        if isinstance(event, GiveBack) and event.ordinal is None
    )


def fit(sections: list[Section], gradients: frozenset[Label]) -> list[Grant | GiveBack]:
    """Take the order of events from the last time the place was met: earlier ones had less to give back."""
    last = sections[-1]
    lines = _fit_sizes(sections)
    gone = {event.ordinal for event in last.events if isinstance(event, GiveBack)}
    fitted: list[Grant | GiveBack] = []
    ordinal = 0
    for event in last.events:
        if isinstance(event, GiveBack):
            fitted.append(event)
            continue
        label = None if ordinal in gone else event.label
        fitted.append(Grant(lines[ordinal], _part(event, lines[ordinal], gradients), label))
        ordinal += 1
    return fitted


def _fit_sizes(sections: list[Section]) -> list[Line]:
    taken = [[event for event in section.events if isinstance(event, Take)] for section in sections]
    if any([take.label for take in takes] != [take.label for take in taken[-1]] for takes in taken):
        raise Unaligned(f"the turns of {sections[-1].place} take different blocks")
    rows = [section.rows for section in sections]
    return [_line(rows, [take.size_bytes for take in takes]) for takes in zip(*taken, strict=True)]


def _line(rows: list[int], sizes: list[int]) -> Line:
    """Draw the line through the first and a different number of rows; every other point must lie on it."""
    other = next((index for index, count in enumerate(rows) if count != rows[0]), None)
    if other is None:
        line = Line(sizes[0], 0)
    else:
        a_row = (sizes[other] - sizes[0]) // (rows[other] - rows[0])
        line = Line(sizes[0] - a_row * rows[0], a_row)
    if any(line.at(count) != size for count, size in zip(rows, sizes, strict=True)):
        raise Unaligned(f"sizes {sizes} are not in proportion to the rows {rows}")
    return line


def _fit_loops(loops: list[Loop]) -> dict[tuple[str, int], tuple[Line, int]]:
    met: dict[tuple[str, int], list[Loop]] = defaultdict(list)
    for loop in loops:
        met[loop.name, loop.part].append(loop)
    if any(len({loop.size for loop in same}) > 1 for same in met.values()):
        raise Unaligned("the piece size of a loop depends on the batch")
    return {
        key: (_line([loop.rows for loop in same], [loop.count for loop in same]), same[0].size)
        for key, same in met.items()
    }


def _part(take: Take, size_bytes: Line, gradients: frozenset[Label]) -> str:
    if take.label.name in ("weights", "optimizer"):
        return take.label.name
    if take.label in gradients and size_bytes.a_row == 0:
        return "gradients"
    return "logits" if take.logits else "activations"
