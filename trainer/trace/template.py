"""From the log of two batch sizes to a template of any: each size a constant plus so much a row.

Owns the check that the logs agree where they must. A run that is no such template raises Unaligned.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from trainer.trace.log import Alloc, Free, InnerLoop, Label, Log, Phase, Section, Stage, Workspace


class Unaligned(Exception):
    """Two iterations of the same phase allocate differently, or not in proportion to their rows."""


class Linear(NamedTuple):
    """A number as a function of the rows."""

    constant: int
    per_row: int

    def at(self, rows: int) -> int:
        return self.constant + self.per_row * rows


class FittedAlloc(NamedTuple):
    """An `Alloc` for any number of rows; a block with a label outlives its section."""

    size_bytes: Linear
    part: str  # of the footprint
    label: Label | None


class FittedLoop(NamedTuple):
    total: Linear
    chunk_size: int


@dataclass(frozen=True)
class Template:
    """What each phase does, for any number of rows."""

    phases: dict[Phase, list[FittedAlloc | Free]]
    loops: dict[tuple[Stage, int], FittedLoop]  # by stage, and loops before it
    workspaces: frozenset[Workspace]


def build_template(log: Log) -> Template:
    """Fit every phase of a log that met each with two numbers of rows."""
    sections_of: dict[Phase, list[Section]] = defaultdict(list)
    for section in log.sections:
        sections_of[section.phase].append(section)
    gradients = gradients_of(log)
    return Template(
        phases={phase: fit(sections, gradients) for phase, sections in sections_of.items()},
        loops=_fit_loops(log.loops),
        workspaces=frozenset(log.workspaces),
    )


def gradients_of(log: Log) -> frozenset[Label]:
    """Name what lives from a micro-batch to the update."""
    return frozenset(
        event.label
        for section in log.sections
        if section.phase.stage is Stage.UPDATE and not section.phase.in_loop
        for event in section.events
        if isinstance(event, Free) and event.ordinal is None
    )


def fit(sections: list[Section], gradients: frozenset[Label]) -> list[FittedAlloc | Free]:
    """Take the order of events from the last time the phase was met: earlier ones had less to free."""
    last = sections[-1]
    sizes = _fit_sizes(sections)
    freed_here = {event.ordinal for event in last.events if isinstance(event, Free)}
    fitted: list[FittedAlloc | Free] = []
    ordinal = 0
    for event in last.events:
        if isinstance(event, Free):
            fitted.append(event)
            continue
        label = None if ordinal in freed_here else event.label
        fitted.append(FittedAlloc(sizes[ordinal], _part(event, sizes[ordinal], gradients), label))
        ordinal += 1
    return fitted


def _fit_sizes(sections: list[Section]) -> list[Linear]:
    allocs_of = [[event for event in section.events if isinstance(event, Alloc)] for section in sections]
    labels = [alloc.label for alloc in allocs_of[-1]]
    if any([alloc.label for alloc in allocs] != labels for allocs in allocs_of):
        raise Unaligned(f"the iterations of {sections[-1].phase} allocate different blocks")
    rows = [section.rows for section in sections]
    return [_fit_linear(rows, [alloc.size_bytes for alloc in same]) for same in zip(*allocs_of, strict=True)]


def _fit_linear(rows: list[int], values: list[int]) -> Linear:
    """Draw the line through the first and a different number of rows; every other point must lie on it."""
    other = next((index for index, count in enumerate(rows) if count != rows[0]), None)
    if other is None:
        line = Linear(values[0], 0)
    else:
        per_row = (values[other] - values[0]) // (rows[other] - rows[0])
        line = Linear(values[0] - per_row * rows[0], per_row)
    if any(line.at(count) != value for count, value in zip(rows, values, strict=True)):
        raise Unaligned(f"sizes {values} are not in proportion to the rows {rows}")
    return line


def _fit_loops(loops: list[InnerLoop]) -> dict[tuple[Stage, int], FittedLoop]:
    same_loops: dict[tuple[Stage, int], list[InnerLoop]] = defaultdict(list)
    for loop in loops:
        same_loops[loop.stage, loop.loops_before].append(loop)
    if any(len({loop.chunk_size for loop in same}) > 1 for same in same_loops.values()):
        raise Unaligned("the chunk size of a loop depends on the batch")
    return {
        key: FittedLoop(_fit_linear([loop.rows for loop in same], [loop.total for loop in same]), same[0].chunk_size)
        for key, same in same_loops.items()
    }


def _part(alloc: Alloc, size_bytes: Linear, gradients: frozenset[Label]) -> str:
    label = alloc.label
    if label.stage in (Stage.WEIGHTS, Stage.OPTIMIZER) and not label.in_loop:
        return label.stage.value
    if label in gradients and size_bytes.per_row == 0:
        return "gradients"
    return "logits" if alloc.is_logits else "activations"
