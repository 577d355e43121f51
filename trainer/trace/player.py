"""Plays sections through an allocator, keeping the books of what is allocated for what.

Owns the blocks of one replay. Must not know which section comes next, nor torch's tensors.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from trainer.memory.allocation import Allocator
from trainer.trace.log import GiveBack, Label, Place, Workspace
from trainer.trace.template import Grant

PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "workspace")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Peaks in bytes, and what was allocated at the peak."""

    allocated_bytes: int
    reserved_bytes: int
    parts: Mapping[str, int]


class Moment(NamedTuple):
    """What is held after a block was taken; `parts` goes on changing."""

    place: Place
    allocated_bytes: int
    reserved_bytes: int
    parts: Mapping[str, int]


class _Held(NamedTuple):
    block: Any
    part: str
    size_bytes: int


class Player:
    """One replay; OutOfMemory where the allocator refuses."""

    def __init__(
        self,
        allocator: Allocator,
        workspaces: Iterable[Workspace],
        workspace_bytes: int,
        notice: Callable[["Moment"], None] | None = None,
    ) -> None:
        """Tell `notice`, where there is one, of each block taken."""
        self._notice = notice
        self._place = Place("weights")
        self._allocator = allocator
        self._workspaces = set(workspaces)
        self._workspace_bytes = workspace_bytes
        self._outliving: dict[Label, deque[_Held]] = defaultdict(deque)
        self._parts = Counter(dict.fromkeys(PARTS, 0))
        self._at_peak = dict(self._parts)

    @property
    def peaks(self) -> tuple[int, int]:
        return self._allocator.allocated_peak_bytes, self._allocator.reserved_peak_bytes

    def outcome(self) -> Outcome:
        allocated_bytes, reserved_bytes = self.peaks
        return Outcome(allocated_bytes=allocated_bytes, reserved_bytes=reserved_bytes, parts=self._at_peak)

    def play(self, place: Place, events: Sequence[Grant | GiveBack], rows: int) -> None:
        """Play one section whose sizes are for so many rows."""
        self._place = place
        held: list[_Held] = []
        workspaces = [one for one in self._workspaces if one.place == place]
        for event in events:
            if isinstance(event, GiveBack):
                self._give_back(event, held)
                continue
            if workspaces:
                self._take_workspaces(workspaces, len(held))
            held.append(self._take(event.size_bytes.at(rows), event.part))
            if event.label is not None:
                self._outliving[event.label].append(held[-1])
        self._take_workspaces(workspaces, len(held))

    def _take(self, size_bytes: int, part: str) -> _Held:
        allocator = self._allocator
        before, peak_before = allocator.allocated_bytes, allocator.allocated_peak_bytes
        block = allocator.malloc(size_bytes)
        taken = allocator.allocated_bytes - before
        self._parts[part] += taken
        if allocator.allocated_bytes > peak_before:
            self._at_peak = dict(self._parts)
        if self._notice is not None:
            self._notice(Moment(self._place, allocator.allocated_bytes, allocator.reserved_bytes, self._parts))
        return _Held(block, part, taken)

    def _give_back(self, event: GiveBack, held: list[_Held]) -> None:
        """Give back a block of this section, or the oldest of that label; the first time round there is none yet."""
        if event.ordinal is not None:
            gone = held[event.ordinal]
        elif self._outliving[event.label]:
            gone = self._outliving[event.label].popleft()
        else:
            return
        self._parts[gone.part] -= gone.size_bytes
        self._allocator.free(gone.block)

    def _take_workspaces(self, workspaces: list[Workspace], taken: int) -> None:
        for one in [one for one in workspaces if one.after <= taken]:
            workspaces.remove(one)
            self._workspaces.remove(one)
            self._take(self._workspace_bytes, "workspace")
