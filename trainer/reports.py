"""What a run tells at each point: an event for programs and a line for people. Decides nothing."""

import math
import os
from typing import Any

import msgspec
import torch

from trainer.config import Config
from trainer.data import RunData
from trainer.events import EventLog
from trainer.log import say
from trainer.memory.device import Device
from trainer.pace import Pace
from trainer.results import Results
from trainer.run import Run
from trainer.shrinking import ShrinkingStep


class Reports:
    def __init__(
        self,
        config: Config,
        device: Device,
        events: EventLog,
        *,
        run: Run,
        step: ShrinkingStep,
        total_steps: int,
    ) -> None:
        self._config = config
        self._device = device
        self._events = events
        self._run = run
        self._step = step
        self._total_steps = total_steps
        self._pace = Pace(run.state.step)

    def started(self, data: RunData) -> None:
        resumed_from = self._run.resumed_from
        self._events.write("data", **msgspec.to_builtins(data.counts), validation_rows=len(data.validation_rows))
        self._events.write(
            "started",
            pid=os.getpid(),
            effective_batch=self._config.effective_batch,
            parameters=self._run.parameters,
            device=str(self._device.torch_device) if self._device.kind == "cuda" else self._device.kind,
            torch=str(torch.__version__),
            resumed_from=str(resumed_from) if resumed_from else None,
            **self._place(),
        )
        counts = data.counts
        say(
            f"{counts.rows:,} rows, {counts.targets:,} target tokens; {counts.truncated_rows:,} rows cut at "
            f"{self._config.max_seq_len} tokens, {counts.dropped_rows:,} dropped with nothing to learn from"
        )
        start = f"resumed from {resumed_from}" if resumed_from else "from the beginning"
        say(f"{self._run.parameters:,} parameters on {self._device.kind}, {self._total_steps:,} steps, {start}")
        self.memory("weights and optimizer")

    def step_done(self, tokens: int) -> None:
        self._pace.step_done(tokens)

    def step(self, results: Results) -> None:
        """Tell of the step just read from the device."""
        fields: dict[str, Any] = {
            **self._place(),
            "loss": results.loss,
            "learning_rate": self._run.optimizer.learning_rate,
            "grad_norm": results.grad_norm,
            "target_tokens": self._run.state.target_tokens,
            **self._pace.report(self._run.state.step, self._total_steps),
            **self._peaks(),
        }
        self._events.write("step", **fields)
        say(_step_line(fields))

    def memory(self, phase: str) -> None:
        self._events.write("memory", phase=phase, **self._peaks())

    def evaluated(self, loss: float) -> None:
        step, perplexity = self._run.state.step, math.exp(min(loss, 700.0))
        self._events.write("evaluation", step=step, loss=loss, perplexity=perplexity)
        say(f"validation at step {step}: loss {loss:.4f}, perplexity {perplexity:.2f}")

    def finished(self) -> None:
        state = self._run.state
        self._events.write("finished", loss=state.loss, first_loss=state.first_loss, **self._place(), **self._peaks())
        say(f"finished after {state.step:,} steps: loss {state.first_loss:.4f} at first, {state.loss:.4f} at last")

    def _place(self) -> dict[str, int]:
        return {
            "step": self._run.state.step,
            "total_steps": self._total_steps,
            "micro_batch": self._step.micro_batch,
            "accumulation_steps": self._step.accumulation_steps,
        }

    def _peaks(self) -> dict[str, int]:
        peaks = self._device.peaks()
        return {
            "allocated_peak_bytes": peaks.allocated_bytes,
            "reserved_peak_bytes": peaks.reserved_bytes,
            "process_peak_bytes": peaks.process_bytes,
        }


def _step_line(fields: dict[str, Any]) -> str:
    return (
        f"step {fields['step']}/{fields['total_steps']}  loss {fields['loss']:.4f}  "
        f"lr {fields['learning_rate']:.3g}  norm {fields['grad_norm']:.3g}  "
        f"{fields['tokens_per_second']:,.0f} tokens/s  "
        f"micro-batch {fields['micro_batch']} x {fields['accumulation_steps']}  "
        f"peak {fields['process_peak_bytes'] / 1024**2:,.0f} MiB  {fields['eta_seconds']:,.0f} s left"
    )
