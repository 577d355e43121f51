"""The training loop, top to bottom: prepare, resume, step, report, evaluate, save, export.

Owns the order in which things happen in a run, and nothing else; each of them has a module of its own.
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.config import Config
from trainer.control import ControlFile
from trainer.data.run_data import OWN_CACHE, RunData, open_data
from trainer.data.tokenizer import Tokenizer, open_tokenizer
from trainer.errors import OutOfDeviceMemory, Stopped
from trainer.evaluation import Evaluation
from trainer.files import export
from trainer.files.storage import remove_leftovers
from trainer.inference.sampling import sample_text
from trainer.memory.device import Device
from trainer.memory.refusal import is_refusal, refusal_numbers
from trainer.model.minimind import MiniMind
from trainer.processes.group import Alone, Group, any_of
from trainer.reporting.events import EventLog
from trainer.reporting.loggers import Loggers, open_loggers
from trainer.reporting.pace import Spent
from trainer.reporting.reports import Reports
from trainer.reporting.results import Results
from trainer.run import Run, prepare, save, take_best, whole_model
from trainer.schedule import Schedule
from trainer.steps.shrinking import ShrinkingStep
from trainer.stopping import StopRequest, TimeLimit, used_seconds


def train(
    config: Config, run_dir: Path, device: Device, events: EventLog, stop: StopRequest, group: Group | None = None
) -> None:
    """Bring the run in `run_dir` to its end, from wherever it is; the caller holds `device.accounting()`.

    All processes of a group run this, with a step's rows shared out among them; the first alone has events, and writes.
    """
    # 1. The rows, in an order that the seed alone decides.
    group = group or Alone()
    with group.first_first():
        if group.rank == 0:
            remove_leftovers(run_dir)
        used = used_seconds(run_dir / "events.jsonl")
        tokenizer = open_tokenizer(config, run_dir)
        data = open_data(config, run_dir, tokenizer, stop.check)

    # 2. The model, its optimizer, and where the run stands.
    run = prepare(config, run_dir, device, data.key, events, group)
    limit = TimeLimit.of(config, stop, used_seconds=used, parameters=run.parameters)
    with open_loggers(config.report if group.rank == 0 else (), config, run_dir) as loggers:
        training = Training(
            config,
            run_dir,
            device,
            events,
            run=run,
            data=data,
            tokenizer=tokenizer,
            limit=limit,
            loggers=loggers,
            group=group,
        )
        training.reports.started(data)

        # 3. The steps.
        training.run_steps(stop)

    # 4. The result: the last weights, or the best where they got no better.
    model, sample_device = whole_model(run, config, device, group)
    if group.rank > 0:
        group.wait()
        return
    if not training.has_patience_left:
        take_best(run, model, run_dir, device, events)
    sample = training.write_sample(model, sample_device)
    with device.host():
        export.write_final(run_dir, config, model, tokenizer, sample)
    shutil.rmtree(run_dir / OWN_CACHE, ignore_errors=True)
    training.reports.finished(stopped_early=not training.has_patience_left)
    group.wait()


class Training:
    """A run between its preparation and its result."""

    def __init__(
        self,
        config: Config,
        run_dir: Path,
        device: Device,
        events: EventLog,
        *,
        run: Run,
        data: RunData,
        tokenizer: Tokenizer,
        limit: TimeLimit,
        loggers: Loggers,
        group: Group,
    ) -> None:
        self._config = config
        self._run_dir = run_dir
        self._device = device
        self._events = events
        self._run = run
        self._data = data
        self._tokenizer = tokenizer
        self._limit = limit
        self._group = group
        self._total_steps = data.order.total_steps
        self._schedule = Schedule.of(config.train, self._total_steps, validates=bool(data.validation_rows))
        self._step = ShrinkingStep(config, device, events, run.model, run.optimizer, run.scaler, group)
        self._evaluation = Evaluation(config, device, events, data.validation_file, data.validation_rows, group)
        self._control = ControlFile(run_dir, group, events)
        self._results = Results(device.torch_device, scaled=run.scaler is not None)
        self.reports = Reports(
            config,
            device,
            events,
            run=run,
            step=self._step,
            schedule=self._schedule,
            limit=limit,
            loggers=loggers,
            group=group,
        )

    @property
    def has_patience_left(self) -> bool:
        return not self._run.state.validation.is_over(self._config.train.early_stop)

    def run_steps(self, stop: StopRequest) -> None:
        """Take the steps that are left; Stopped or TimeLimitReached, with all saved, before the last."""
        state, first = self._run.state, self._run.state.step + 1
        for number in range(first, self._total_steps + 1):
            if not self.has_patience_left:
                return
            if number == first and any_of(self._group, self._limit.over):
                raise self._limit.reached(state.step, self._total_steps, saved=False)
            self._heed(number)
            self._take(number)
            self._report(number, milestone=number in (first, self._total_steps))
            ending = self._is_ending(stop, number)
            best = not ending and self._schedule.evaluates(number) and self._evaluate(stop)
            ending = ending or (self._schedule.evaluates(number) and self._is_ending(stop, number))
            if self._schedule.saves(number) or best or ending or not self.has_patience_left:
                self._save()
            if number in (first, self._total_steps):
                self.reports.memory("first step" if number == first else "last step")
            if ending:
                self._end(stop, number)
            if self._schedule.samples(number):
                with self._aside("sample"):
                    model, sample_device = whole_model(self._run, self._config, self._device, self._group)
                    if self._group.rank == 0:
                        self.write_sample(model, sample_device)

    def write_sample(self, model: MiniMind, device: Device) -> str:
        """Let the model write something, for a person to look at."""
        config = self._config
        if config.sample.max_new_tokens == 0:
            return ""
        try:
            prompt, text = sample_text(model, device, config, self._tokenizer, self._data.first_row())
        except (RuntimeError, MemoryError) as error:
            if not is_refusal(error, device):
                raise
            self._refused("sample", refusal_numbers(error, device))
            return ""  # the run is worth more than a look at it
        self._events.write("sample", step=self._run.state.step, prompt=prompt, text=text)
        return f"{prompt}\n---\n{text}\n"

    def _heed(self, number: int) -> None:
        """Take another micro-batch from step `number` on, if the control file asks for one."""
        asked = self._control.next_request()
        if asked is not None:
            self._step.resize(asked.micro_batch, asked.limit_bytes)
            self._evaluation.resize(self._step.micro_batch)
            self.reports.resized(asked, number)

    def _take(self, number: int) -> None:
        """Take one optimizer step. Its loss stays on the device until it is due: to read it is to wait."""
        run, state, fetching = self._run, self._run.state, self.reports.fetching
        with fetching():
            rows = self._data.rows_of_step(number - 1)
        run.optimizer.learning_rate = learning_rate(self._config.learning_rate, number, self._total_steps)
        self._results.add(number, self._step.run(number, rows, fetching))
        state.step, state.target_tokens = number, state.target_tokens + sum(row.targets for row in rows)
        state.validation_loss = None
        self.reports.step_done(rows)

    def _report(self, number: int, *, milestone: bool) -> None:
        if milestone or self._schedule.logs(number):
            self._results.read()
            self._limit.waited()
            self.reports.step(self._results)

    def _evaluate(self, stop: StopRequest) -> bool:
        """Take in the validation loss; True if it is the best so far."""
        state = self._run.state
        with self._aside("evaluation"):
            loss = self._evaluation.run(self._run.model, state.step, stop)
        if loss is None:
            return False
        best = state.validation.note(loss, state.step)
        state.validation_loss = loss
        self.reports.evaluated(loss)
        return best

    def _save(self) -> None:
        with self._aside("save") as spent:
            self._results.note(self._run.state)
            save(self._run, self._run_dir, self._device, self._events, self._group)
            self._group.wait()
        self._limit.saved(spent.longest_seconds)

    def _is_ending(self, stop: StopRequest, number: int) -> bool:
        return number < self._total_steps and any_of(self._group, bool(stop) or self._limit.near)

    def _end(self, stop: StopRequest, number: int) -> None:
        stopped, over = self._group.sums(bool(stop), self._limit.over)
        if stopped and not over:
            raise Stopped(f"stopped after step {number} of {self._total_steps}; it is saved")
        raise self._limit.reached(number, self._total_steps, saved=True)

    @contextmanager
    def _aside(self, name: str) -> Iterator[Spent]:
        """Do something between two steps, on a device that has done all of them."""
        self._results.read()
        self._limit.waited()
        refusal = None
        with self.reports.aside(name) as spent:
            try:
                yield spent
            except (RuntimeError, MemoryError) as error:
                if not is_refusal(error, self._device):
                    raise
                refusal = refusal_numbers(error, self._device)
        if refusal is not None:
            self._refused(name, refusal)
            raise OutOfDeviceMemory(f"out of device memory after step {self._run.state.step}, in {name}")
        self._limit.stood_aside()

    def _refused(self, phase: str, refusal: dict[str, int | None]) -> None:
        """Tell of a refusal between the steps, where no smaller micro-batch would help."""
        step, micro_batch = self._run.state.step, self._step.micro_batch
        self._events.write(
            "out_of_memory", step=step, phase=phase, micro_batch=micro_batch, new_micro_batch=None, **refusal
        )


def learning_rate(peak: float, step: int, total_steps: int) -> float:
    """Give MiniMind's curve at a step counted from 1: half a cosine from the peak down to a tenth of it."""
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * step / total_steps)))
