"""One optimizer step. The training loop runs this function, and the memory tracer runs it on the meta device.

So nothing here may ask a tensor for its value. Owns the arithmetic of a step: normalisation by the target
tokens of the whole effective batch, clipping, the update. Where tensors live, and what to do when memory runs
out, is the loop's.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from trainer.model.loss import cross_entropy_sum
from trainer.model.minimind import MiniMind
from trainer.steps.optimizer import Optimizer
from trainer.steps.scaling import LossScaler

Phase = Literal["forward", "backward", "exchange", "clip", "optimizer", "idle"]


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Some rows of the effective batch, on the device.

    ids [rows, length] int64, padded on the right; positions [targets] int64, flat indices into [rows, length]
    of the tokens whose successor is a target; labels [targets] int64, those successors. Where several rows share a
    sequence, starts [rows, length] int64: where in it the row of each token begins.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    starts: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Both still on the device (0-dim fp32): reading them waits for it."""

    loss: Tensor  # mean over the target tokens of the effective batch
    grad_norm: Tensor  # before clipping


class Exchange(Protocol):
    """What the processes that train one model together tell each other in an optimizer step."""

    def gradients(self, loss: Tensor | None) -> Tensor:
        """Add up the gradients and the losses of all processes; None: this one had no rows."""

    def overflow(self, found_inf: Tensor) -> None:
        """Note in each process (1 element) what was found in any."""

    def norm(self, norms: Tensor) -> Tensor:
        """Join the norms of the gradients, of what is held here, to that of all."""

    def applied(self) -> None:
        """Take notice that the weights are others now."""


def train_step(
    model: MiniMind,
    optimizer: Optimizer,
    micro_batches: Iterable[MicroBatch],
    *,
    target_tokens: int,
    grad_clip: float,
    chunked_loss: bool,
    scaler: LossScaler | None = None,
    enter: Callable[[Phase], None] = lambda phase: None,
    exchange: Exchange | None = None,
) -> StepResult:
    """Run one optimizer step over the micro-batches of one effective batch; gradients are gone afterwards.

    `micro_batches` may be lazy, so that only one is on the device at a time. `target_tokens` counts all of
    them, and those of the other processes that an `exchange` joins. `enter` is told each phase as it begins: out
    of memory in forward or backward leaves weights and optimizer as they were, so that the caller can drop the
    gradients and run the step again.
    """
    total: Tensor | None = None
    for batch in micro_batches:
        enter("forward")
        loss = cross_entropy_sum(
            model(batch.ids, batch.starts), model.head_weight, batch.positions, batch.labels, chunked=chunked_loss
        )
        loss = loss / target_tokens
        total = loss.detach() if total is None else total.add_(loss.detach())
        enter("backward")
        (loss if scaler is None else loss * scaler.scale.squeeze()).backward()
        del loss
    if exchange is not None:
        enter("exchange")
        total = exchange.gradients(total)
    if total is None:
        raise ValueError("an effective batch without rows")
    enter("clip")
    gradients = optimizer.gradients()
    if scaler is not None:
        scaler.unscale(gradients)
        if exchange is not None:
            exchange.overflow(scaler.found_infinite)
    grad_norm = clip(gradients, grad_clip, torch.linalg.vector_norm if exchange is None else exchange.norm)
    enter("optimizer")
    optimizer.step(None if scaler is None else scaler.found_infinite)
    if scaler is not None:
        scaler.update()
    del gradients
    optimizer.zero_grad()
    if exchange is not None:
        exchange.applied()
    enter("idle")
    return StepResult(loss=total, grad_norm=grad_norm)


def pass_for_others(model: MiniMind, batch: MicroBatch, *, chunked_loss: bool) -> None:
    """Run forward and backward for what the other processes need of it: no number in it counts."""
    cross_entropy_sum(
        model(batch.ids), model.head_weight, batch.positions, batch.labels, chunked=chunked_loss
    ).backward()


def evaluation_loss(model: MiniMind, batch: MicroBatch, *, chunked_loss: bool) -> Tensor:
    """Sum the loss over one batch's targets, without gradients (0-dim fp32, on the device)."""
    with torch.no_grad():
        return cross_entropy_sum(
            model(batch.ids), model.head_weight, batch.positions, batch.labels, chunked=chunked_loss
        )


def clip(gradients: list[Tensor], limit: float, join: Callable[[Tensor], Tensor] = torch.linalg.vector_norm) -> Tensor:
    """Scale the gradients so that their common norm is at most `limit` (0: no limit); give the norm before.

    What clip_grad_norm_(foreach=True) computes; written out since that refuses meta tensors.
    """
    norm = join(torch.stack(torch._foreach_norm(gradients, dtype=torch.float32)))
    if limit > 0:
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm
