"""Plays sections through an allocator, keeping the books of what is allocated for what.

Owns the blocks of one replay. Must not know which section comes next, nor torch's tensors.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from trainer.memory.allocation import Allocator
from trainer.trace.log import Free, Label, Phase, Stage, Workspace
from trainer.trace.template import FittedAlloc

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "workspace")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Peaks in bytes, and what was allocated at the peak."""

    allocated_bytes: int
    reserved_bytes: int
    parts: Mapping[str, int]


class Sample(NamedTuple):
    """What is held right after an allocation; `parts` goes on changing."""

    phase: Phase
    allocated_bytes: int
    reserved_bytes: int
    parts: Mapping[str, int]


Observer = Callable[[Sample], None]


class _Block(NamedTuple):
    handle: Any  # the allocator's
    part: str
    size_bytes: int


class Player:
    """One replay; OutOfMemory where the allocator refuses."""

    def __init__(
        self,
        allocator: Allocator,
        workspaces: Iterable[Workspace],
        workspace_bytes: int,
        observer: Observer | None = None,
    ) -> None:
        """Give the observer, where there is one, a sample after each allocation."""
        self._observer = observer
        self._phase = Phase(Stage.WEIGHTS)
        self._allocator = allocator
        self._workspaces = set(workspaces)
        self._workspace_bytes = workspace_bytes
        self._outliving: dict[Label, deque[_Block]] = defaultdict(deque)
        self._parts = Counter(dict.fromkeys(PARTS, 0))
        self._parts_at_peak = dict(self._parts)

    @property
    def peaks(self) -> tuple[int, int]:
        return self._allocator.allocated_peak_bytes, self._allocator.reserved_peak_bytes

    def outcome(self) -> Outcome:
        allocated_bytes, reserved_bytes = self.peaks
        return Outcome(allocated_bytes=allocated_bytes, reserved_bytes=reserved_bytes, parts=self._parts_at_peak)

    def play(self, phase: Phase, events: Sequence[FittedAlloc | Free], rows: int) -> None:
        """Play one section whose sizes are for so many rows."""
        self._phase = phase
        blocks: list[_Block] = []
        workspaces = [workspace for workspace in self._workspaces if workspace.phase == phase]
        for event in events:
            if isinstance(event, Free):
                self._free(event, blocks)
                continue
            if workspaces:
                self._allocate_workspaces(workspaces, len(blocks))
            blocks.append(self._allocate(event.size_bytes.at(rows), event.part))
            if event.label is not None:
                self._outliving[event.label].append(blocks[-1])
        self._allocate_workspaces(workspaces, len(blocks))

    def _allocate(self, size_bytes: int, part: str) -> _Block:
        allocator = self._allocator
        before, peak_before = allocator.allocated_bytes, allocator.allocated_peak_bytes
        handle = allocator.malloc(size_bytes)
        rounded_bytes = allocator.allocated_bytes - before
        self._parts[part] += rounded_bytes
        if allocator.allocated_bytes > peak_before:
            self._parts_at_peak = dict(self._parts)
        if self._observer is not None:
            self._observer(Sample(self._phase, allocator.allocated_bytes, allocator.reserved_bytes, self._parts))
        return _Block(handle, part, rounded_bytes)

    def _free(self, event: Free, blocks: list[_Block]) -> None:
        """Free a block of this section, or the oldest of that label; in the first iteration there is none yet."""
        if event.ordinal is not None:
            block = blocks[event.ordinal]
        elif self._outliving[event.label]:
            block = self._outliving[event.label].popleft()
        else:
            return
        self._parts[block.part] -= block.size_bytes
        self._allocator.free(block.handle)

    def _allocate_workspaces(self, workspaces: list[Workspace], allocated: int) -> None:
        for workspace in [workspace for workspace in workspaces if workspace.after <= allocated]:
            workspaces.remove(workspace)
            self._workspaces.remove(workspace)
            self._allocate(self._workspace_bytes, "workspace")
