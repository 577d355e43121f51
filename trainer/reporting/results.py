"""What the steps gave: read from the device only when a line or a checkpoint is due, and checked to be finite."""

import math

import torch

from trainer.errors import NonFiniteLoss
from trainer.files.checkpoint import RunState
from trainer.steps.step import StepResult

UNREAD_AT_MOST = 64  # steps whose results wait on the device: one block of the allocator, 512 bytes


class Results:
    """What waits to be read lies in one tensor made at the start: no step leaves anything behind on the device."""

    def __init__(self, device: torch.device, *, scaled: bool) -> None:
        self._scaled = scaled
        self._waiting = torch.empty(UNREAD_AT_MOST, 2, device=device)  # loss, gradient norm
        self._unread: list[int] = []  # whose they are
        self.first_loss: float | None = None
        self.loss = self.grad_norm = math.nan

    def add(self, step: int, result: StepResult) -> None:
        loss, grad_norm = self._waiting[len(self._unread)]
        loss.copy_(result.loss)
        grad_norm.copy_(result.grad_norm)
        self._unread.append(step)
        if len(self._unread) >= UNREAD_AT_MOST:
            self.read()

    def read(self) -> None:
        """Wait for the device and take every result in; NonFiniteLoss names the first step that went wrong."""
        values = self._waiting[: len(self._unread)].tolist()
        for step, (loss, grad_norm) in zip(self._unread, values, strict=True):
            self.loss, self.grad_norm = loss, grad_norm
            # Under loss scaling a gradient that overflows is skipped, and ordinary.
            finite = math.isfinite(self.loss) and (self._scaled or math.isfinite(self.grad_norm))
            if not finite:
                raise NonFiniteLoss(
                    f"step {step}: loss {self.loss:.5g}, gradient norm {self.grad_norm:.5g}; "
                    "what is saved is from before"
                    "\nhint: lower train.learning_rate, or train.dtype: bfloat16 instead of float16"
                )
            if self.first_loss is None:
                self.first_loss = self.loss
        self._unread.clear()

    def note(self, state: RunState) -> None:
        """Keep the losses with the run, for checkpoints and the end."""
        state.loss = self.loss
        if state.first_loss is None:
            state.first_loss = self.first_loss
