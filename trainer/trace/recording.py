"""Turns what the accounting sees into a log of sections.

Owns the labels. Must not know what a section means: the rehearsal says where each begins.
"""

from collections import Counter
from typing import Any, NamedTuple

import torch

from trainer.memory.accounting import Accounting, Temporaries
from trainer.trace.log import GiveBack, Label, Log, Loop, Place, Section, Take, Workspace
from trainer.trace.shapes import ShapeMemory

TRACED_PIECES = 3  # the first, one between and the last: what is needed to know a loop of any length


class _Held(NamedTuple):
    section: Section
    ordinal: int
    label: Label


class Recorder:
    """An allocator that grants everything and writes it down; also the listener at loops."""

    allocated_bytes = reserved_bytes = allocated_peak_bytes = reserved_peak_bytes = 0

    def __init__(self, *, whole_loops: bool = False) -> None:
        self.log = Log()
        self._whole_loops = whole_loops
        self._pieces = 0
        self._outer = Place("weights")
        self._outer_rows = 0
        self.begin(self._outer, 0)

    def begin(self, place: Place, rows: int) -> None:
        """Start a section outside any inner loop."""
        self._outer, self._outer_rows = place, rows
        self._open(place, rows)

    def take(self, size_bytes: int, operator: str, *, logits: bool) -> _Held:
        section = self.section
        self._numbers[operator] += 1
        label = Label(section.place.name, section.place.part, operator, self._numbers[operator])
        section.events.append(Take(label, size_bytes, logits))
        self._ordinal += 1
        return _Held(section, self._ordinal - 1, label)

    def take_workspace(self) -> None:
        self.log.workspaces.append(Workspace(self.section.place, self._ordinal))

    def free(self, block: _Held) -> None:
        ordinal = block.ordinal if block.section is self.section else None
        self.section.events.append(GiveBack(block.label, ordinal))

    def malloc(self, size_bytes: int) -> _Held:
        return self.take(size_bytes, "", logits=False)

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def reset_peaks(self) -> None:
        """There are none."""

    def loop_begins(self, count: int, size: int) -> int:
        self.log.loops.append(Loop(self._outer.name, self._outer_rows, self._outer.part, count, size))
        self._pieces = 0
        return size if self._whole_loops else -(-count // TRACED_PIECES)

    def piece_begins(self, rows: int) -> None:
        self._open(Place(f"{self._outer.name}.piece", min(self._pieces, 1), self._outer.part), rows)
        self._pieces += 1

    def loop_ends(self) -> None:
        self.begin(self._outer._replace(part=self._outer.part + 1), self._outer_rows)

    def _open(self, place: Place, rows: int) -> None:
        self.section = Section(place, rows)
        self.log.sections.append(self.section)
        self._numbers: Counter[str] = Counter()
        self._ordinal = 0


class Recording(Accounting):
    """The accounting, with the name of the operator beside each size, and in a hurry."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        workspace_bytes: int,
        temporaries: Temporaries | None,
        vocabulary: int,
        shapes: ShapeMemory,
    ) -> None:
        super().__init__(recorder, workspace_bytes=workspace_bytes, temporaries=temporaries)
        self.recorder = recorder
        self.vocabulary = vocabulary
        self._shapes = shapes

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        return self._shapes.call(func, args, kwargs)

    def take(self, size_bytes: int, func: Any, tensor: torch.Tensor | None) -> Any:
        logits = tensor is not None and tensor.dim() == 2 and tensor.shape[-1] == self.vocabulary
        return self.recorder.take(size_bytes, func.name(), logits=logits)

    def hold_workspace(self) -> Any:
        return self.recorder.take_workspace()
