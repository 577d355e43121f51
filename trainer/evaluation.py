"""Loss on the validation rows. Runs out of memory on its own account: its batch halves, training's does not."""

import gc
from collections.abc import Callable, Sequence

from torch import Tensor

from trainer.config import Config
from trainer.data.batches import Row, blank, collate
from trainer.data.tokens import TokenFile
from trainer.errors import OutOfDeviceMemory
from trainer.memory.device import Device
from trainer.memory.refusal import Refusal, is_refusal, refusal_numbers
from trainer.model.minimind import MiniMind
from trainer.processes.agreement import agree_micro_batch
from trainer.processes.group import Alone, Group, any_of
from trainer.reporting.events import EventLog
from trainer.reporting.log import say
from trainer.steps.step import evaluation_loss
from trainer.steps.transfer import on_device
from trainer.stopping import StopRequest


class Evaluation:
    """`rows` of a file, the longest first, so that the peak comes first; several processes share them."""

    def __init__(
        self,
        config: Config,
        device: Device,
        events: EventLog,
        file: TokenFile,
        rows: Sequence[int],
        group: Group | None = None,
    ) -> None:
        self._config = config
        self._device = device
        self._events = events
        self._file = file
        self._group = group or Alone()
        self._all_rows = len(rows)
        self._rows = rows[self._group.share :: self._group.shares]
        self._batch = config.micro_batch
        self._refused: Refusal | None = None  # in the evaluation under way
        self._passes = self._group.passes if config.on_out_of_memory == "halve" else None

    def resize(self, micro_batch: int) -> None:
        """Take so many rows at once from now on."""
        self._batch = micro_batch

    def run(
        self, model: MiniMind, step: int, stop: StopRequest, progress: Callable[[int], None] = lambda rows: None
    ) -> float | None:
        """Give the mean loss over the targets; None when there are none, or when asked to stop."""
        rows, total, targets, done_rows = self._rows, 0.0, 0, 0
        self._refused = None
        while done_rows < self._turns_until and not self._is_stopping(stop):
            progress(done_rows)
            batch = [self._file[index] for index in rows[done_rows : done_rows + self._batch]]
            loss = self._loss(model, batch, step)
            if loss is None:
                continue  # the same rows again, in a smaller batch
            total, targets, done_rows = total + loss, targets + sum(r.targets for r in batch), done_rows + self._batch
        self._group.rest(model)
        self._follow(step)
        total, all_targets, stopped = self._group.sums(total, targets, done_rows < len(rows))
        return total / all_targets if all_targets and not stopped else None

    @property
    def _turns_until(self) -> int:
        """Say at which row of its own a process is done: the same for all where they need each other in each pass."""
        return -(-self._all_rows // self._group.shares) if self._group.spreads else len(self._rows)

    def _is_stopping(self, stop: StopRequest) -> bool:
        return any_of(self._group, bool(stop)) if self._group.spreads else bool(stop)

    def _loss(self, model: MiniMind, rows: list[Row], step: int) -> float | None:
        """Sum the loss over some rows; None where that was refused, here or in another process that is needed."""
        refusal: Refusal | None = None
        if self._passes is not None:
            self._passes.begin()
        try:
            loss = self._pass(model, rows)
        except (RuntimeError, MemoryError) as error:
            if not is_refusal(error, self._device):
                raise
            refusal = refusal_numbers(error, self._device) | {"phase": "forward"}
        if refusal is not None:
            gc.collect()
            self._device.empty_cache()
        if self._passes is not None:
            refusal = self._passes.end(refusal, lambda: self._pass(model, []))
        if refusal is None:
            return float(loss)
        self._shrink(step, refusal | {"phase": "evaluation"})
        return None

    def _pass(self, model: MiniMind, rows: list[Row]) -> Tensor:
        with self._device.host():
            batch = collate(rows, self._config.max_seq_len) if rows else blank(self._config.max_seq_len)
        return evaluation_loss(model, on_device(batch, self._device), chunked_loss=self._config.plan.chunked_loss)

    def _shrink(self, step: int, refusal: Refusal) -> None:
        old, self._batch = self._batch, -(-self._batch // 2)
        self._refused = refusal | {"phase": "forward", "micro_batch": old}
        alone = self._passes is None and self._group.spreads
        can_shrink = old > 1 and self._config.on_out_of_memory == "halve" and not alone
        new = self._batch if can_shrink else None
        self._events.write("out_of_memory", step=step, micro_batch=old, new_micro_batch=new, **refusal)
        if not can_shrink:
            raise OutOfDeviceMemory(f"out of device memory in evaluation with {old} rows at once")
        say(f"out of device memory in evaluation: {old} rows at once become {new}; training keeps its own")

    def _follow(self, step: int) -> None:
        """Find out whether a process had to halve: all go on with as few rows, and the first reports it."""
        refusal, self._batch = agree_micro_batch(self._group, self._refused, self._batch)
        if refusal is not None:
            refusal |= {"phase": "evaluation", "new_micro_batch": self._batch}
            self._events.write("out_of_memory", step=step, **refusal)
            where = f"in evaluation in process {refusal['rank']}"
            say(f"out of device memory {where}: {self._batch} rows at once from now on")
