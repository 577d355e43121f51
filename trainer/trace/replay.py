"""Plays a template's run for one micro-batch through an allocator, and says how the peak divides.

Owns the order of sections, as the rehearsal does. Must not know torch.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.memory.allocation import Allocator
from trainer.trace.log import GiveBack, Label, Place, Workspace
from trainer.trace.template import Template

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "workspace")
_MOST_STEPS = 4
_MOST_PIECES = 4  # of a longer loop: more change nothing, each gives back what the one before took


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Peaks in bytes, and what was allocated at the peak."""

    allocated_bytes: int
    reserved_bytes: int
    parts: Mapping[str, int]


class Replay:
    """One run; OutOfMemory where the allocator refuses."""

    def __init__(self, template: Template, allocator: Allocator, *, workspace_bytes: int) -> None:
        self._template = template
        self._allocator = allocator
        self._workspace_bytes = workspace_bytes
        self._missing = set(template.workspaces)
        self._outliving: dict[Label, deque[tuple[Any, str, int]]] = defaultdict(deque)
        self._parts = Counter(dict.fromkeys(PARTS, 0))
        self._at_peak = dict(self._parts)

    def run(self, step: Sequence[int], *, evaluation: int | None) -> Outcome:
        """Play optimizer steps over micro-batches of these rows until no peak rises, an evaluation, and on."""
        self._play("weights", 0, 0)
        self._play("optimizer", 0, 0)
        self._steps(step)
        if evaluation is not None:
            for turn in range(2):
                self._play("evaluation", turn, evaluation)
            self._steps(step)
        return Outcome(
            allocated_bytes=self._allocator.allocated_peak_bytes,
            reserved_bytes=self._allocator.reserved_peak_bytes,
            parts=self._at_peak,
        )

    def _steps(self, rows: Sequence[int]) -> None:
        peaks = None
        for _ in range(_MOST_STEPS):
            for turn, count in enumerate(rows):
                self._play("micro", min(turn, 1), count)
            self._play("update", 0, 0)
            before, peaks = peaks, (self._allocator.allocated_peak_bytes, self._allocator.reserved_peak_bytes)
            if before == peaks:
                return

    def _play(self, name: str, turn: int, rows: int) -> None:
        """Play all the parts of a stretch, and the loops between them."""
        part = 0
        while True:
            self._section(Place(name, turn, part), rows)
            loop = self._template.loops.get((name, part))
            if loop is None:
                return
            count, size = loop
            for index, piece in enumerate(_pieces(count.at(rows), size)):
                self._section(Place(f"{name}.piece", min(index, 1), part), piece)
            part += 1

    def _section(self, place: Place, rows: int) -> None:
        blocks: list[tuple[Any, str, int]] = []
        workspaces = [one for one in self._missing if one.place == place]
        for event in self._template.places[place]:
            if isinstance(event, GiveBack):
                self._give_back(event, blocks)
                continue
            if workspaces:
                self._take_workspaces(workspaces, len(blocks))
            block = self._take(event.size_bytes.at(rows), event.part)
            blocks.append(block)
            if event.label is not None:
                self._outliving[event.label].append(block)
        self._take_workspaces(workspaces, len(blocks))

    def _take(self, size_bytes: int, part: str) -> tuple[Any, str, int]:
        allocator = self._allocator
        before, peak = allocator.allocated_bytes, allocator.allocated_peak_bytes
        block = allocator.malloc(size_bytes)
        counted = allocator.allocated_bytes - before
        self._parts[part] += counted
        if allocator.allocated_bytes > peak:
            self._at_peak = dict(self._parts)
        return block, part, counted

    def _give_back(self, event: GiveBack, blocks: list[tuple[Any, str, int]]) -> None:
        """Give back a block of this section, or the oldest so named; the first time round there may be none yet."""
        if event.ordinal is not None:
            block, part, counted = blocks[event.ordinal]
        elif self._outliving[event.label]:
            block, part, counted = self._outliving[event.label].popleft()
        else:
            return
        self._parts[part] -= counted
        self._allocator.free(block)

    def _take_workspaces(self, workspaces: list[Workspace], taken: int) -> None:
        for one in [one for one in workspaces if one.after <= taken]:
            workspaces.remove(one)
            self._missing.remove(one)
            self._take(self._workspace_bytes, "workspace")


def _pieces(count: int, size: int) -> list[int]:
    """List the rows of each piece; of a long loop only as many as change anything."""
    whole, rest = divmod(count, size)
    return [size] * min(whole, _MOST_PIECES) + ([rest] if rest else [])
