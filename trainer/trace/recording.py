"""Turns what the accounting sees into a log of sections.

Owns the labels. Must not know what a section means: the rehearsal says where each begins.
"""

from collections import Counter
from typing import Any, NamedTuple

import torch

from trainer.memory.accounting import Accounting, Temporaries
from trainer.trace.log import Alloc, Free, InnerLoop, Label, Log, Phase, Section, Stage, Workspace
from trainer.trace.shapes import ShapeCache

TRACED_CHUNKS = 3  # the first, one between and the last: what is needed to know a loop of any length


class _Block(NamedTuple):
    section: Section
    ordinal: int
    label: Label


class Recorder:
    """An allocator that grants everything and writes it down; also the listener at loops."""

    allocated_bytes = reserved_bytes = allocated_peak_bytes = reserved_peak_bytes = 0

    def __init__(self, *, whole_loops: bool = False) -> None:
        self.log = Log()
        self._whole_loops = whole_loops
        self._chunks = 0
        self._outer = Phase(Stage.WEIGHTS)
        self._outer_rows = 0
        self.begin(self._outer, 0)

    def begin(self, phase: Phase, rows: int) -> None:
        """Start a section outside any inner loop."""
        self._outer, self._outer_rows = phase, rows
        self._open(phase, rows)

    def allocate(self, size_bytes: int, operator: str, *, is_logits: bool) -> _Block:
        section, phase = self.section, self.section.phase
        self._numbers[operator] += 1
        label = Label(phase.stage, phase.loops_before, phase.in_loop, operator, self._numbers[operator])
        section.events.append(Alloc(label, size_bytes, is_logits))
        self._ordinal += 1
        return _Block(section, self._ordinal - 1, label)

    def allocate_workspace(self) -> None:
        self.log.workspaces.append(Workspace(self.section.phase, self._ordinal))

    def malloc(self, size_bytes: int) -> _Block:
        return self.allocate(size_bytes, "", is_logits=False)

    def free(self, block: _Block) -> None:
        ordinal = block.ordinal if block.section is self.section else None
        self.section.events.append(Free(block.label, ordinal))

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def reset_peaks(self) -> None:
        """There are none."""

    def loop_begins(self, total: int, size: int) -> int:
        outer = self._outer
        self.log.loops.append(InnerLoop(outer.stage, outer.loops_before, self._outer_rows, total, size))
        self._chunks = 0
        return size if self._whole_loops else -(-total // TRACED_CHUNKS)

    def chunk_begins(self, rows: int) -> None:
        self._open(self._outer._replace(iteration=min(self._chunks, 1), in_loop=True), rows)
        self._chunks += 1

    def loop_ends(self) -> None:
        self.begin(self._outer._replace(loops_before=self._outer.loops_before + 1), self._outer_rows)

    def _open(self, phase: Phase, rows: int) -> None:
        self.section = Section(phase, rows)
        self.log.sections.append(self.section)
        self._numbers: Counter[str] = Counter()
        self._ordinal = 0


class RecordingAccounting(Accounting):
    """The accounting, which also tells the recorder each operator's name, and remembers shapes to be fast."""

    def __init__(
        self,
        recorder: Recorder,
        *,
        workspace_bytes: int,
        temporaries: Temporaries | None,
        vocabulary: int,
        shapes: ShapeCache,
    ) -> None:
        super().__init__(recorder, workspace_bytes=workspace_bytes, temporaries=temporaries)
        self.recorder = recorder
        self.vocabulary = vocabulary
        self._shapes = shapes

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        return self._shapes.call(func, args, kwargs)

    def take(self, size_bytes: int, func: Any, tensor: torch.Tensor | None) -> Any:
        is_logits = tensor is not None and tensor.dim() == 2 and tensor.shape[-1] == self.vocabulary
        return self.recorder.allocate(size_bytes, func.name(), is_logits=is_logits)

    def hold_workspace(self) -> Any:
        return self.recorder.allocate_workspace()
