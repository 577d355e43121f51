"""Runs the trainer's own step on the meta device, and tells the recorder where each section begins.

Owns the order of a run's phases, which is the training loop's. No tensor here has a value, and no GPU is needed.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import torch

from trainer.config import Config
from trainer.data.batches import input_length
from trainer.data.packing import room
from trainer.memory.kernels import cuda_kernels, temporaries_bytes, workspace_bytes
from trainer.memory.loops import listening
from trainer.model.lora import adapt
from trainer.model.minimind import MiniMind
from trainer.processes.group import Group
from trainer.reporting.results import Results
from trainer.steps.optimizer import Optimizer, build_optimizer
from trainer.steps.scaling import LossScaler
from trainer.steps.step import Exchange, MicroBatch, StepResult, evaluation_loss, train_step
from trainer.trace.log import Log, Phase, Stage
from trainer.trace.ranks import fake_group
from trainer.trace.recording import Recorder, RecordingAccounting
from trainer.trace.shapes import META, ShapeCache


@dataclass(frozen=True, kw_only=True)
class Target:
    """The device that a footprint is for."""

    kind: str  # cuda | virtual | cpu
    capability: str | None = None  # of a CUDA device, as `8.9`
    processes: int = 1  # that train one model together, as its plan says; the footprint is of one


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What to rehearse: the rows of each micro-batch of each optimizer step, then of each batch of each evaluation.

    Then as many steps again, where the steps after an evaluation may find memory otherwise than those before.
    """

    steps: Sequence[Sequence[int]]
    evaluations: Sequence[Sequence[int]] = ()
    steps_again: bool = False


def rehearse(
    config: Config, target: Target, workload: Workload, shapes: ShapeCache, *, whole_loops: bool = False
) -> Log:
    """Run the workload and return its log; with `whole_loops` in the chunks of a real run, however many."""
    recorder = Recorder(whole_loops=whole_loops)
    accounting = RecordingAccounting(
        recorder,
        workspace_bytes=0 if target.kind == "cpu" else workspace_bytes(target.capability),
        temporaries=None if target.kind == "cpu" else temporaries_bytes,
        vocabulary=config.model.vocab_size,
        shapes=shapes,
    )
    MiniMind(config, META)  # torch's first use of a function on meta leaves garbage that would be counted
    with ExitStack() as scope:
        group = scope.enter_context(fake_group(target.processes, config.plan))
        scope.callback(gc.enable if gc.isenabled() else gc.disable)
        gc.disable()  # a collection in the middle would free at a moment of its own choice
        if target.kind == "cuda":
            scope.enter_context(cuda_kernels(target.capability))
        scope.enter_context(listening(recorder))
        scope.enter_context(accounting)
        _Rehearsal(config, recorder, accounting, group).run(workload)
    return recorder.log


class _Rehearsal:
    def __init__(self, config: Config, recorder: Recorder, accounting: RecordingAccounting, group: Group) -> None:
        self.config = config
        self.recorder = recorder
        self.accounting = accounting
        self.group = group
        self.exchange: Exchange | None = None

    def run(self, workload: Workload) -> None:
        model = self._model()
        self.recorder.log.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.recorder.begin(Phase(Stage.OPTIMIZER), 0)
        optimizer = build_optimizer(model, self.config, self.accounting.host)
        scaler = LossScaler(META) if self.config.train.dtype == "float16" else None
        model.balance.scale = None if scaler is None else scaler.scale
        self.recorder.begin(Phase(Stage.RESULTS), 0)
        self.exchange = self.group.exchange(model)
        results = Results(META, scaled=scaler is not None)
        self._steps(workload.steps, model, optimizer, scaler, results)
        for batches in workload.evaluations:
            self._evaluate(model, batches)
        if workload.steps_again:
            self._steps(workload.steps, model, optimizer, scaler, results)
        self.recorder.begin(Phase(Stage.END), 0)  # what is torn down from here on is no part of the evaluation

    def _model(self) -> MiniMind:
        """Lay it out as a run does: one that is spread is whole on the host first."""
        with self.accounting.host() if self.group.spreads else nullcontext():
            model = MiniMind(self.config, META)
            if self.config.adapts:
                adapt(model, self.config.train)
        self.group.spread(model)
        return model

    def _evaluate(self, model: MiniMind, batches: Sequence[int]) -> None:
        for number, count in enumerate(batches):
            self.recorder.begin(Phase(Stage.EVALUATION, min(number, 1)), count)
            evaluation_loss(model, self._batch(count), chunked_loss=self.config.plan.chunked_loss)
        self.recorder.begin(Phase(Stage.REST), 0)
        self.group.rest(model)

    def _steps(
        self,
        steps: Sequence[Sequence[int]],
        model: MiniMind,
        optimizer: Optimizer,
        scaler: LossScaler | None,
        results: Results,
    ) -> None:
        for number, rows in enumerate(steps):
            results.add(number, self._step(model, optimizer, scaler, rows))

    def _step(
        self, model: MiniMind, optimizer: Optimizer, scaler: LossScaler | None, rows: Sequence[int]
    ) -> StepResult:
        return train_step(
            model,
            optimizer,
            self._batches(rows),
            target_tokens=1,
            grad_clip=self.config.train.grad_clip,
            chunked_loss=self.config.plan.chunked_loss,
            scaler=scaler,
            exchange=self.exchange,
        )

    def _batches(self, rows: Sequence[int]) -> Iterator[MicroBatch]:
        for number, count in enumerate(rows):
            self.recorder.begin(Phase(Stage.MICRO_BATCH, min(number, 1)), count)
            yield self._packed_batch(count) if self.config.train.packing else self._batch(count)
        self.recorder.begin(Phase(Stage.UPDATE), 0)

    def _batch(self, rows: int) -> MicroBatch:
        """Make the largest micro-batch of so many rows: each as long as it may be, and every token a target."""
        length = input_length(self.config.max_seq_len, self.config.max_seq_len)
        targets = rows * (self.config.max_seq_len - 1)
        return MicroBatch(ids=_indices(rows, length), positions=_indices(targets), labels=_indices(targets))

    def _packed_batch(self, sequences: int) -> MicroBatch:
        """Make the largest micro-batch of so many sequences that rows share: no token is padding, all have targets."""
        length = room(self.config.max_seq_len)
        targets = sequences * length
        return MicroBatch(
            ids=_indices(sequences, length),
            positions=_indices(targets),
            labels=_indices(targets),
            starts=_indices(sequences, length),
        )


def _indices(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.int64, device=META)
