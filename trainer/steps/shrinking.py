"""A training step that survives out of memory: the micro-batch halves, the effective batch stays.

Owns the micro-batch of a run, which may also be set between two steps. A step that ran out is run again from the same
rows; nothing was applied, so nothing is lost.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from trainer.config import Config
from trainer.data.batches import Row
from trainer.data.packing import pack
from trainer.errors import OutOfDeviceMemory
from trainer.memory.device import Device
from trainer.memory.refusal import is_refusal, refusal_numbers
from trainer.model.minimind import MiniMind
from trainer.processes.group import Group, share, shares
from trainer.reporting.events import EventLog
from trainer.reporting.log import say
from trainer.steps.optimizer import Optimizer
from trainer.steps.scaling import LossScaler
from trainer.steps.step import MicroBatch, Phase, StepResult, train_step
from trainer.steps.transfer import stream

Fetching = Callable[[], AbstractContextManager[None]]

REPEATABLE: tuple[Phase, ...] = ("idle", "forward", "backward", "clip")  # nothing was applied yet
REPEATABLE_TOGETHER: tuple[Phase, ...] = ("idle", "forward", "backward")  # nor told to the other processes
REPEATABLE_SPREAD: tuple[Phase, ...] = ()  # the others are in the midst of the same pass


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
        rows, and shrinks by itself: how they are split shows nowhere.
        """
        ours = share(rows, self._group)
        while True:
            try:
                return self._once(rows, ours, fetching)
            except (RuntimeError, MemoryError) as error:
                if not is_refusal(error, self._device):
                    raise
                # Only numbers leave this block: the traceback holds the tensors of the failed micro-batch.
                refusal = refusal_numbers(error, self._device)
            self._shrink(step, self._sequences(ours), refusal)

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
        return stream(rows, size, length, self._device, fetching, turns, packs=self._config.train.packing)

    def _turns(self, rows: Sequence[Row]) -> int:
        """Count the micro-batches that every process must take, where they need each other in each."""
        if not self._group.spreads:
            return 0
        return -(-max(self._sequences(one) for one in shares(rows, self._group)) // self.micro_batch)

    def _at_most(self, micro_batch: int) -> int:
        return min(micro_batch, -(-self._config.effective_batch // self._group.shares))

    def _accumulation_steps(self, micro_batch: int) -> int:
        share_of_one = -(-self._config.effective_batch // self._group.shares)
        return -(-share_of_one // micro_batch)

    def _enter(self, phase: Phase) -> None:
        self._phase = phase

    def _sequences(self, rows: Sequence[Row]) -> int:
        return len(pack(rows, self._config.max_seq_len)) if self._config.train.packing else len(rows)

    def _shrink(self, step: int, sequences: int, refusal: dict[str, int | None]) -> None:
        self._optimizer.zero_grad()
        gc.collect()
        self._device.empty_cache()
        old = self.micro_batch
        # There may be fewer than a micro-batch, as in the last step of a run: halve what was really on the device.
        new = -(-min(old, sequences) // 2)
        repeatable = _repeatable(self._group)
        can_shrink = min(old, sequences) > 1 and self._config.on_out_of_memory == "halve" and self._phase in repeatable
        self._events.write(
            "out_of_memory",
            step=step,
            phase=self._phase,
            micro_batch=old,
            new_micro_batch=new if can_shrink else None,
            new_accumulation_steps=self._accumulation_steps(new) if can_shrink else None,
            **refusal,
        )
        if not can_shrink:
            raise OutOfDeviceMemory(f"out of device memory at step {step}, in {self._phase}, with micro-batch {old}")
        self.micro_batch = new
        self._device.reset_peaks()
        say(
            f"out of device memory at step {step}: micro-batch {old} becomes {new}, accumulation "
            f"{self.accumulation_steps}; the effective batch stays {self._config.effective_batch}"
        )


def _repeatable(group: Group) -> tuple[Phase, ...]:
    """Name the phases of a step that a process can begin again without the others."""
    if group.spreads:
        return REPEATABLE_SPREAD
    return REPEATABLE if group.size == 1 else REPEATABLE_TOGETHER
