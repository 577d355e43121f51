"""What a run tells at each point: an event for programs and a line for people. Decides nothing."""

import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import torch

from trainer.config import Config
from trainer.control import Control
from trainer.data.batches import Row
from trainer.data.run_data import RunData
from trainer.data.tokens import Counts
from trainer.memory.device import Device, Peaks
from trainer.processes.group import Group
from trainer.reporting.events import EventLog
from trainer.reporting.flops import peak_flops, training_flops
from trainer.reporting.log import say
from trainer.reporting.loggers import Loggers
from trainer.reporting.pace import Pace, Spent
from trainer.reporting.results import Results
from trainer.run import Run
from trainer.schedule import Schedule
from trainer.steps.shrinking import ShrinkingStep
from trainer.stopping import TimeLimit

_CHARTED = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "model_flops_utilisation", "target_tokens")


class Reports:
    def __init__(
        self,
        config: Config,
        device: Device,
        events: EventLog,
        *,
        run: Run,
        step: ShrinkingStep,
        schedule: Schedule,
        limit: TimeLimit,
        loggers: Loggers,
        group: Group,
    ) -> None:
        self._config = config
        self._device = device
        self._events = events
        self._run = run
        self._step = step
        self._schedule = schedule
        self._limit = limit
        self._loggers = loggers
        self._pace = Pace()
        self._group = group
        self._peak_flops = _peak_flops(device, config.train.dtype, group.size)

    def started(self, data: RunData) -> None:
        resumed_from = self._run.resumed_from
        for path, counts in data.counts.items():
            self._data(path, counts)
        self._events.write(
            "started",
            pid=os.getpid(),
            effective_batch=self._config.effective_batch,
            parameters=self._run.parameters,
            device=str(self._device.torch_device) if self._device.kind == "cuda" else self._device.kind,
            torch=str(torch.__version__),
            validation_rows=len(data.validation_rows),
            processes=self._group.size,
            init_from=self._config.init_from,
            resumed_from=str(resumed_from) if resumed_from else None,
            **self._place(),
        )
        first_weights = self._config.init_from or "fresh weights"
        start = f"resumed from {resumed_from}" if resumed_from else f"from the beginning, with {first_weights}"
        steps = self._schedule.total_steps
        say(f"{self._run.parameters:,} parameters on {self._device.kind}, {steps:,} steps, {start}")
        self.memory("weights and optimizer")

    def step_done(self, rows: Sequence[Row]) -> None:
        flops = (
            0.0 if self._peak_flops is None else training_flops(self._config.model, rows, frozen=self._config.adapts)
        )
        self._pace.step_done(sum(row.targets for row in rows), flops)

    def fetching(self) -> AbstractContextManager[None]:
        return self._pace.fetching()

    def aside(self, name: str) -> AbstractContextManager[Spent]:
        return self._pace.aside(name)

    def step(self, results: Results) -> None:
        """Tell of the step just read from the device."""
        done, schedule, speed = self._run.state.step, self._schedule, self._pace.report()
        fields: dict[str, Any] = {
            **self._place(),
            "loss": results.loss,
            "learning_rate": self._run.optimizer.learning_rate,
            "grad_norm": results.grad_norm,
            "target_tokens": self._run.state.target_tokens,
            "tokens_per_second": speed.tokens_per_second,
            "model_flops_utilisation": speed.flops_per_second / self._peak_flops if self._peak_flops else None,
            "busy_share": speed.busy_share,
            "eta_seconds": self._pace.left_seconds(schedule.total_steps - done, schedule.left(done)),
            **_peak_fields(self._largest_peaks()),
        }
        self._events.write("step", **fields)
        self._loggers.log(done, {f"train/{name}": fields[name] for name in _CHARTED})
        say(_step_line(fields))

    def resized(self, asked: Control, step: int) -> None:
        """Acknowledge a request, and name the first step that is as it asks."""
        micro_batch, accumulation_steps = self._step.micro_batch, self._step.accumulation_steps
        self._events.write(
            "resized",
            number=asked.number,
            micro_batch=micro_batch,
            accumulation_steps=accumulation_steps,
            limit_bytes=asked.limit_bytes,
            step=step,
        )
        say(f"asked for another micro-batch: {micro_batch} x {accumulation_steps} from step {step} on")

    def memory(self, phase: str) -> None:
        self._events.write("memory", phase=phase, **_peak_fields(self._largest_peaks()))

    def evaluated(self, loss: float) -> None:
        step, validation, perplexity = self._run.state.step, self._run.state.validation, math.exp(min(loss, 700.0))
        self._events.write("evaluation", step=step, loss=loss, perplexity=perplexity, best_step=validation.best_step)
        self._loggers.log(step, {"validation/loss": loss, "validation/perplexity": perplexity})
        best = "the best so far" if validation.best_step == step else f"step {validation.best_step} was better"
        say(f"validation at step {step}: loss {loss:.4f}, perplexity {perplexity:.2f}, {best}")

    def finished(self, *, stopped_early: bool) -> None:
        state = self._run.state
        validation = state.validation
        self._events.write(
            "finished",
            loss=state.loss,
            first_loss=state.first_loss,
            best_step=validation.best_step,
            best_validation_loss=validation.best_loss,
            stopped_early=stopped_early,
            **self._place(),
            **_peak_fields(self._device.peaks()),
        )
        say(f"finished after {state.step:,} steps: loss {state.first_loss:.4f} at first, {state.loss:.4f} at last")
        if stopped_early:
            reason = f"{validation.since_best} evaluations found nothing better than step {validation.best_step}"
            say(f"stopped early: {reason}, whose weights are the result (validation loss {validation.best_loss:.4f})")

    def _data(self, path: str, counts: Counts) -> None:
        fields = msgspec.to_builtins(counts)
        self._events.write("data", path=path, **fields.pop("passed"), **fields)
        say(f"{path}: {counts.rows:,} rows, {counts.targets:,} target tokens{_what_became(counts, self._config)}")
        for broken in counts.passed.first_broken:
            say(f"  passed over: {broken}")

    def _place(self) -> dict[str, int | float]:
        return {
            "elapsed_seconds": self._limit.elapsed_seconds,
            "step": self._run.state.step,
            "total_steps": self._schedule.total_steps,
            "micro_batch": self._step.micro_batch,
            "accumulation_steps": self._step.accumulation_steps,
        }

    def _largest_peaks(self) -> Peaks:
        """Give those of the process that takes most; all processes call it together."""
        own = self._device.peaks()
        most = (int(size) for size in self._group.most(own.allocated_bytes, own.reserved_bytes, own.process_bytes))
        allocated_bytes, reserved_bytes, process_bytes = most
        return Peaks(allocated_bytes=allocated_bytes, reserved_bytes=reserved_bytes, process_bytes=process_bytes)


def _peak_fields(peaks: Peaks) -> dict[str, int]:
    return {
        "allocated_peak_bytes": peaks.allocated_bytes,
        "reserved_peak_bytes": peaks.reserved_bytes,
        "process_peak_bytes": peaks.process_bytes,
    }


def _what_became(counts: Counts, config: Config) -> str:
    """Name what was not taken as it stands, with its number; nothing where there is nothing."""
    remarks = {
        f"rows cut at {config.max_seq_len} tokens": counts.truncated_rows,
        "dropped, being empty": counts.empty_rows,
        "dropped, without an answer to learn": counts.unanswered_rows,
        f"dropped, with no answer within {config.max_seq_len} tokens": counts.cut_off_rows,
        "broken rows passed over": counts.passed.broken_rows,
        "blank lines passed over": counts.passed.blank_lines,
        "byte order mark passed over": int(counts.passed.byte_order_mark),
    }
    return "".join(f"; {count:,} {what}" for what, count in remarks.items() if count)


def _peak_flops(device: Device, dtype: str, processes: int) -> float | None:
    """Give what all devices of the run could do together; they are taken to be of one kind."""
    if device.kind != "cuda":
        return None
    peak = peak_flops(torch.cuda.get_device_name(device.torch_device), dtype)
    return None if peak is None else peak * processes


def _step_line(fields: dict[str, Any]) -> str:
    used = fields["model_flops_utilisation"]
    return (
        f"step {fields['step']}/{fields['total_steps']}  loss {fields['loss']:.4f}  "
        f"lr {fields['learning_rate']:.3g}  norm {fields['grad_norm']:.3g}  "
        f"{fields['tokens_per_second']:,.0f} tokens/s  "
        f"{'' if used is None else f'{used:.1%} of peak FLOPs  '}"
        f"micro-batch {fields['micro_batch']} x {fields['accumulation_steps']}  "
        f"peak {fields['process_peak_bytes'] / 1024**2:,.0f} MiB  {fields['eta_seconds']:,.0f} s left"
    )
