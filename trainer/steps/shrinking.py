"""A training step that survives out of memory: the micro-batch halves, the effective batch stays.

Owns the micro-batch of a run, which may also be set between two steps. A step that ran out is run again from the same
rows; nothing was applied, so nothing is lost.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from trainer.config import Config
from trainer.data.batches import Row, blank
from trainer.data.packing import pack
from trainer.errors import OutOfDeviceMemory
from trainer.memory.device import Device
from trainer.memory.refusal import Refusal, is_refusal, refusal_numbers
from trainer.model.minimind import MiniMind
from trainer.processes.agreement import agree_micro_batch
from trainer.processes.group import Group, Passes, share, shares
from trainer.reporting.events import EventLog
from trainer.reporting.log import say
from trainer.steps.optimizer import Optimizer
from trainer.steps.scaling import LossScaler
from trainer.steps.step import MicroBatch, Phase, StepResult, pass_for_others, train_step
from trainer.steps.transfer import on_device, stream

Fetching = Callable[[], AbstractContextManager[None]]

REPEATABLE: tuple[Phase, ...] = ("idle", "forward", "backward", "clip")  # nothing was applied yet
REPEATABLE_TOGETHER: tuple[Phase, ...] = ("idle", "forward", "backward")  # nor told to the other processes


class _Forsaken(Exception):
    """After a pass for which another process had no memory."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__()
        self.refusal = refusal


class ShrinkingStep:
    def __init__(
        self,
        config: Config,
        device: Device,
        events: EventLog,
        model: MiniMind,
        optimizer: Optimizer,
        scaler: LossScaler | None,
        group: Group,
    ) -> None:
        self._group = group
        self._exchange = group.exchange(model)
        self._config = config
        self._device = device
        self.micro_batch = self._at_most(config.micro_batch)
        self._events = events
        self._model = model
        self._optimizer = optimizer
        self._scaler = scaler
        self._phase: Phase = "idle"
        self._passes = group.passes if config.on_out_of_memory == "halve" else None

    @property
    def accumulation_steps(self) -> int:
        return self._accumulation_steps(self.micro_batch)

    def resize(self, micro_batch: int, limit_bytes: int | None) -> None:
        """Take another micro-batch from the next step on, within another limit: what lies idle is given back before."""
        self.micro_batch = self._at_most(micro_batch)
        self._device.give_back()
        self._device.set_limit(limit_bytes)
        self._device.reset_peaks()

    def run(self, step: int, rows: Sequence[Row], fetching: Fetching = nullcontext) -> StepResult:
        """Run optimizer step `step` over its rows, with ever smaller micro-batches until it fits.

        `fetching` is entered for the making of each micro-batch. Of several processes each takes its share of the
        rows, and shrinks by itself, for how they are split shows nowhere; the others follow after the step. Those that
        need each other in each micro-batch shrink together.
        """
        ours, refused = share(rows, self._group), None
        while True:
            outcome = self._try(rows, ours, fetching)
            if isinstance(outcome, StepResult):
                self._follow(step, refused)
                return outcome
            old = self.micro_batch
            self._shrink(step, self._sequences(ours) if self._passes is None else self._most_sequences(rows), outcome)
            refused = outcome | {"micro_batch": old}

    def _follow(self, step: int, refused: Refusal | None) -> None:
        """Find out whether a process had to halve in the step: all go on with as few rows, and the first reports it."""
        refusal, smallest = agree_micro_batch(self._group, refused, self.micro_batch)
        if smallest < self.micro_batch:
            self.micro_batch = smallest
            self._device.reset_peaks()
        if refusal is not None:
            new = {"new_micro_batch": smallest, "new_accumulation_steps": self.accumulation_steps}
            self._events.write("out_of_memory", step=step, **refusal, **new)
            say(f"out of device memory at step {step} in process {refusal['rank']}: micro-batch {smallest} from now on")

    def _try(self, rows: Sequence[Row], ours: Sequence[Row], fetching: Fetching) -> StepResult | Refusal:
        """Run the step, or give what was refused in it: only numbers, for a traceback holds the tensors."""
        try:
            return self._once(rows, ours, fetching)
        except _Forsaken as forsaken:
            return forsaken.refusal
        except (RuntimeError, MemoryError) as error:
            if not is_refusal(error, self._device):
                raise
            refusal = refusal_numbers(error, self._device) | {"phase": self._phase}
        if self._passes is None or self._phase not in REPEATABLE_TOGETHER:
            return refusal
        self._free()
        try:
            return self._passes.end(refusal, self._pass_for_others) or refusal
        except (RuntimeError, MemoryError) as error:
            if not is_refusal(error, self._device):
                raise
            self._passes = None  # no memory for a row of padding: the others wait in vain
            return refusal

    def _once(self, rows: Sequence[Row], ours: Sequence[Row], fetching: Fetching) -> StepResult:
        self._phase = "idle"
        self._model.balance.rows = len(rows)
        return train_step(
            self._model,
            self._optimizer,
            self._micro_batches(ours, fetching, self._turns(rows)),
            target_tokens=sum(row.targets for row in rows),
            grad_clip=self._config.train.grad_clip,
            chunked_loss=self._config.plan.chunked_loss,
            scaler=self._scaler,
            enter=self._enter,
            exchange=self._exchange,
        )

    def _micro_batches(self, rows: Sequence[Row], fetching: Fetching, turns: int) -> Iterator[MicroBatch]:
        size, length = self.micro_batch, self._config.max_seq_len
        batches = stream(rows, size, length, self._device, fetching, turns, packs=self._config.train.packing)
        return batches if self._passes is None else self._in_passes(batches, self._passes)

    def _in_passes(self, batches: Iterator[MicroBatch], passes: Passes) -> Iterator[MicroBatch]:
        """Hand out micro-batches, and hear after each whether all had memory for it."""
        while True:
            passes.begin()
            batch = next(batches, None)
            if batch is None:
                return
            yield batch
            refusal = passes.end(None, self._pass_for_others)
            if refusal is not None:
                raise _Forsaken(refusal)

    def _pass_for_others(self) -> None:
        with self._device.host():
            batch = blank(self._config.max_seq_len)
        pass_for_others(self._model, on_device(batch, self._device), chunked_loss=self._config.plan.chunked_loss)

    def _turns(self, rows: Sequence[Row]) -> int:
        """Count the micro-batches that every process must take, where they need each other in each."""
        return -(-self._most_sequences(rows) // self.micro_batch) if self._group.spreads else 0

    def _most_sequences(self, rows: Sequence[Row]) -> int:
        return max(self._sequences(own_rows) for own_rows in shares(rows, self._group))

    def _at_most(self, micro_batch: int) -> int:
        return min(micro_batch, -(-self._config.effective_batch // self._group.shares))

    def _accumulation_steps(self, micro_batch: int) -> int:
        share_of_one = -(-self._config.effective_batch // self._group.shares)
        return -(-share_of_one // micro_batch)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase

    def _sequences(self, rows: Sequence[Row]) -> int:
        return len(pack(rows, self._config.max_seq_len)) if self._config.train.packing else len(rows)

    def _free(self) -> None:
        self._optimizer.zero_grad()
        gc.collect()
        self._device.empty_cache()

    def _shrink(self, step: int, sequences: int, refusal: Refusal) -> None:
        self._free()
        old = self.micro_batch
        # There may be fewer than a micro-batch, as in the last step of a run: halve what was really on the device.
        new = -(-min(old, sequences) // 2)
        phase, halves = refusal["phase"], self._config.on_out_of_memory == "halve"
        can_shrink = min(old, sequences) > 1 and halves and phase in self._repeatable
        self._events.write(
            "out_of_memory",
            step=step,
            micro_batch=old,
            new_micro_batch=new if can_shrink else None,
            new_accumulation_steps=self._accumulation_steps(new) if can_shrink else None,
            **refusal,
        )
        if not can_shrink:
            raise OutOfDeviceMemory(f"out of device memory at step {step}, in {phase}, with micro-batch {old}")
        self.micro_batch = new
        self._device.reset_peaks()
        say(
            f"out of device memory at step {step}: micro-batch {old} becomes {new}, accumulation "
            f"{self.accumulation_steps}; the effective batch stays {self._config.effective_batch}"
        )

    @property
    def _repeatable(self) -> tuple[Phase, ...]:
        """Name the phases after which a step can be begun again."""
        if self._group.spreads and self._passes is None:
            return ()  # the others are in the midst of the same pass
        return REPEATABLE if self._group.size == 1 else REPEATABLE_TOGETHER
