"""Cross-entropy of the head, SUMMED over the targets: in chunks that never hold all logits, or whole.

The caller divides by the target tokens of the whole effective batch. Logits and loss are fp32; the products
are in the dtype of the hidden states. Owns no state.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from trainer.memory.loops import chunks

# Logits held at once, in fp32: 16 MiB a copy. Wide enough to keep a GPU busy, small beside any activations.
CHUNK_ELEMENTS = 1 << 22


def cross_entropy_sum(
    hidden: Tensor, head_weight: Tensor, positions: Tensor, labels: Tensor, *, chunked: bool
) -> Tensor:
    """Sum the loss at `positions` (flat indices into hidden's [batch, length]), followed by `labels`."""
    rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, positions)
    if chunked:
        return ChunkedCrossEntropy.apply(rows, head_weight, labels)
    logits = F.linear(rows, head_weight.to(rows.dtype)).float()
    return F.cross_entropy(logits, labels, reduction="sum")


class ChunkedCrossEntropy(torch.autograd.Function):
    """The gradients are computed chunk by chunk along with the loss, so no chunk's logits outlive it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, head_weight: Tensor, labels: Tensor) -> Tensor:
        wants_rows, wants_weight, _ = ctx.needs_input_grad
        weight = head_weight.to(rows.dtype)
        loss = torch.zeros((), device=rows.device)
        row_gradient = torch.empty_like(rows) if wants_rows else None
        weight_gradient = torch.zeros_like(head_weight, dtype=torch.float32) if wants_weight else None
        size = max(1, CHUNK_ELEMENTS // head_weight.shape[0])
        for chunk in chunks(len(rows), size):
            chunk_rows, targets = rows[chunk], labels[chunk, None]
            gradient = _loss_and_gradient(F.linear(chunk_rows, weight).float(), targets, loss)
            if row_gradient is not None:
                gradient = gradient.to(rows.dtype)
                torch.mm(gradient, weight, out=row_gradient[chunk])
                if weight_gradient is not None:
                    _add_product(weight_gradient, gradient.T, chunk_rows)
            del gradient  # before the next chunk's logits are made
        ctx.save_for_backward(row_gradient, weight_gradient)
        ctx.weight_dtype = head_weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor | None, None]:
        row_gradient, weight_gradient = ctx.saved_tensors
        if weight_gradient is not None:
            weight_gradient = weight_gradient.mul_(scale).to(ctx.weight_dtype)
        return row_gradient.mul_(scale), weight_gradient, None


def _loss_and_gradient(logits: Tensor, targets: Tensor, loss: Tensor) -> Tensor:
    """Add the loss of some rows to `loss`, and turn their logits [rows, vocabulary] into its gradient, in place.

    By hand, since torch's log_softmax takes five times as long on a CPU, and a copy of the logits.
    """
    logits.sub_(logits.amax(1, keepdim=True))
    wanted = logits.gather(1, targets)
    totals = logits.exp_().sum(1, keepdim=True)
    loss += (totals.log() - wanted).sum()
    # d loss / d logits = softmax - one-hot.
    return logits.div_(totals).scatter_add_(1, targets, logits.new_full((), -1.0).expand(targets.shape))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
