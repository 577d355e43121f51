"""The footprint of each candidate: one rehearsal for each combination of memory means, one replay a micro-batch.

Owns the choice between the template and a rehearsal of the candidate itself, which is taken where no template fits.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from trainer.config import Config, PlanConfig
from trainer.memory.allocation import Allocator, DirectAllocator
from trainer.memory.allocator import CachingAllocator
from trainer.memory.kernels import workspace_bytes
from trainer.trace.course import Course
from trainer.trace.log import Log, Workspace
from trainer.trace.player import Observer, Outcome, Player
from trainer.trace.rehearsal import Target, Workload, rehearse
from trainer.trace.replay import Replay, replay_log
from trainer.trace.shapes import ShapeCache
from trainer.trace.template import Template, Unaligned, build_template

_TWO_SIZES = ((2, 2), (3, 3))


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plan and what it costs. The parts divide what the process holds at its peak; `cached` is held but unused.

    All without the context, which a trace cannot see: whoever asks adds it.
    """

    plan: PlanConfig
    outcome: Outcome

    @property
    def parts(self) -> Mapping[str, int]:
        cached = self.outcome.reserved_bytes - self.outcome.allocated_bytes
        return {**self.outcome.parts, "context": 0, "cached": cached}

    @property
    def process_bytes(self) -> int:
        return self.outcome.reserved_bytes


class PeakPredictor:
    """Predicts the peaks of runs with one combination of memory means, for any micro-batch."""

    def __init__(
        self, config: Config, target: Target, shapes: ShapeCache | None = None, *, templates: bool = True
    ) -> None:
        """Rehearse; predictors of one model may share `shapes`. Without templates each candidate is rehearsed."""
        self._shapes = ShapeCache() if shapes is None else shapes
        self._config = config
        self._target = target
        workload = Workload(steps=_TWO_SIZES, evaluations=_TWO_SIZES if config.data.validation else ())
        log = rehearse(config, target, workload, self._shapes)
        self.parameters = log.parameters
        self._template = _template_or_none(log) if templates else None

    @property
    def has_template(self) -> bool:
        """Say whether one rehearsal serves every micro-batch."""
        return self._template is not None

    def candidate(self, micro_batch: int) -> Candidate:
        """Predict the peaks of a run with so many rows at once."""
        plan = msgspec.structs.replace(self._config.plan, micro_batch=micro_batch)
        return Candidate(plan=plan, outcome=self.outcome(micro_batch))

    def course(self, micro_batch: int) -> list[dict[str, Any]]:
        """Predict the course of memory over an optimizer step: a list of points."""
        course = Course()
        self.outcome(micro_batch, observer=course.observe)
        return course.points()

    def outcome(
        self, micro_batch: int, allocator: Allocator | None = None, observer: Observer | None = None
    ) -> Outcome:
        """Replay, through an allocator of the target unless another is given."""
        allocator = allocator or self._allocator()
        share = -(-self._config.effective_batch // self._shares)
        step = rows_of_step(share, micro_batch)
        evaluation = min(micro_batch, self._config.effective_batch) if self._config.data.validation else None
        if self._template is not None:
            player = self._player(allocator, self._template.workspaces, observer)
            Replay(self._template, player).run(step, evaluation=evaluation)
        else:
            evaluations = () if evaluation is None else ((evaluation,) * 2,)
            workload = Workload(steps=[step] * 3, evaluations=evaluations, steps_again=bool(evaluations))
            log = rehearse(self._config, self._target, workload, self._shapes, whole_loops=True)
            player = self._player(allocator, log.workspaces, observer)
            replay_log(log, player)
        return player.outcome()

    @property
    def _shares(self) -> int:
        """Say among how many the rows of a step are dealt out."""
        return self._target.processes // self._config.plan.tensor_parallel

    def _player(self, allocator: Allocator, workspaces: Iterable[Workspace], observer: Observer | None) -> Player:
        return Player(allocator, workspaces, workspace_bytes(self._target.capability), observer)

    def _allocator(self) -> Allocator:
        return DirectAllocator() if self._target.kind == "cpu" else CachingAllocator()


def rows_of_step(effective_batch: int, micro_batch: int) -> list[int]:
    """List the micro-batches of a step: of many alike two are enough, then the smaller last one."""
    whole, rest = divmod(effective_batch, micro_batch)
    return [micro_batch] * min(whole, 2) + ([rest] if rest else [])


def _template_or_none(log: Log) -> Template | None:
    try:
        return build_template(log)
    except Unaligned:
        return None
