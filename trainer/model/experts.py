"""The mixture of experts in place of a block's feed-forward part: MiniMind's, of 2025 and of minimind-3.

Tokens are sorted by expert and each expert multiplies its stretch of them, so every tensor has the same shape
whatever the routing: one expert may get all tokens, or none, and the memory is the same. The loop needs the length of
each stretch on the host, and asks the device for them once a forward pass: the only wait in a step.

The balancing loss is taken within each row over its real tokens, and its mean over the rows of the effective batch: so
no split into micro-batches changes it. It joins in the backward pass alone; the loss that is told is the text's.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.model.fused import swiglu
from trainer.model.layers import FeedForward, Linear
from trainer.model.selective import cheap

PADDING = 0  # the token that fills rows up


class Balance:
    """What the experts of all blocks must know of the step to weigh their balancing loss."""

    def __init__(self, rows: int) -> None:
        self.rows = rows  # of the effective batch
        self.scale: Tensor | None = None  # what the loss is multiplied by in float16
        self.real: Tensor | None = None  # [batch, length] of the micro-batch under way: no padding
        self.row: Tensor | None = None  # [batch * length] where several rows share a sequence: a number for each

    def note(self, ids: Tensor, starts: Tensor | None) -> None:
        self.real = self.row = None  # the last ones go before the next are made
        self.real = ids != PADDING
        if starts is not None:
            self.row = (starts + starts.shape[1] * torch.arange(len(starts), device=starts.device)[:, None]).flatten()


class Experts(nn.Module):
    def __init__(self, model: ModelConfig, balance: Balance, device: torch.device) -> None:
        super().__init__()
        self.choices = model.num_experts_per_tok
        self.coefficient = model.router_aux_loss_coef
        self.balance = balance
        self.gate = Linear(model.hidden_size, model.num_experts, device)
        self.experts = nn.ModuleList(FeedForward(model, device) for _ in range(model.num_experts))
        if model.num_shared_experts:
            self.shared_experts = nn.ModuleList(FeedForward(model, device) for _ in range(model.num_shared_experts))
        self.shared = model.num_shared_experts

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, length, hidden] in the compute dtype."""
        tokens = x.reshape(-1, x.shape[-1])
        scores = self.gate(tokens).float().softmax(dim=-1)
        weights, chosen = choose(scores, self.choices)
        is_chosen = chosen[..., None] == torch.arange(len(self.experts), device=x.device)
        y = self._routed(tokens, weights, chosen, is_chosen).view_as(x)
        if self.shared:
            for expert in self.shared_experts:
                y = y + expert(x)
        if self.coefficient and self.balance.real is not None and torch.is_grad_enabled():
            shape = (*x.shape[:2], len(self.experts))
            loss = imbalance(scores.view(shape), is_chosen.sum(1).view(shape), self.balance.real, self.balance.row)
            y = WithLoss.apply(y, loss * (self.coefficient / self.balance.rows), self.balance.scale)
        return y

    def _routed(self, tokens: Tensor, weights: Tensor, chosen: Tensor, is_chosen: Tensor) -> Tensor:
        """Sum the chosen experts' answers, by their weights; `is_chosen` [tokens, choices, experts]."""
        order, places, sizes = _sort(chosen, is_chosen)
        x = Moved.apply(tokens, order // self.choices, places, self.choices)
        gate, up, down = ([getattr(e, name).weight for e in self.experts] for name in _PROJECTIONS)
        inner = cheap(swiglu, GroupedProduct.apply(x, sizes, *gate), GroupedProduct.apply(x, sizes, *up))
        answers = Moved.apply(GroupedProduct.apply(inner, sizes, *down), places, order, 1)
        if self.choices == 1:
            return answers  # the weights of a single choice are renormalised to one
        shares = (weights / weights.sum(-1, keepdim=True)).to(answers.dtype)
        return (answers.view(*shares.shape, -1) * shares[..., None]).sum(1)


_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def choose(scores: Tensor, choices: int) -> tuple[Tensor, Tensor]:
    """Give the best experts of each token, and their scores: both [tokens, choices]."""
    weights, chosen = scores.topk(choices, dim=-1)
    return weights, chosen


def imbalance(scores: Tensor, chosen: Tensor, real: Tensor, row: Tensor | None = None) -> Tensor:
    """Sum over rows: experts x sum over experts of (share of the row's choices x mean score); 1 if all are even.

    scores and chosen (how often) [batch, length, experts]; real [batch, length]; row [batch * length] numbers the row
    of each token, below batch * length, where it is not the sequence.
    """
    mask = real[..., None]
    tokens = _row_sums(mask, row).clamp(min=1)
    choices = _row_sums(chosen * mask, row)
    load = choices / choices.sum(1, keepdim=True).clamp(min=1)
    return (load * (_row_sums(scores * mask, row) / tokens)).sum() * scores.shape[-1]


def _row_sums(x: Tensor, row: Tensor | None) -> Tensor:
    """Sum x [batch, length, experts] over each row; a number that no row has gets zeros."""
    if row is None:
        return x.sum(1)
    flat = x.flatten(0, 1)
    flat = flat.long() if flat.dtype is torch.bool else flat
    return torch.zeros_like(flat).index_add(0, row, flat)


def _sort(chosen: Tensor, is_chosen: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Sort the choices by expert, each expert's in the order of the tokens.

    Gives which choice lies at each place, the place of each choice, and the length of each expert's stretch.
    """
    one_hot = is_chosen.flatten(0, 1)
    ranks = one_hot.cumsum(0)
    counts = ranks[-1]
    begins = counts.cumsum(0) - counts
    places = (ranks + (begins - 1)).gather(1, chosen.reshape(-1, 1)).squeeze(1)
    order = torch.empty_like(places).scatter_(0, places, torch.arange(len(places), device=places.device))
    return order, places, _on_host(counts, len(places))


def _on_host(counts: Tensor, total: int) -> list[int]:
    """Read the counts; on meta tensors, which have no values, an even routing stands in: no size depends on it."""
    if counts.is_meta:
        share, rest = divmod(total, len(counts))
        return [share + (expert < rest) for expert in range(len(counts))]
    read: list[int] = counts.tolist()
    return read


class Moved(torch.autograd.Function):
    """Rows of x by index, each wanted `times` times. `back` says where they went, so that the gradient is a look-up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, times: int) -> Tensor:
        ctx.save_for_backward(back)
        ctx.times = times
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (back,) = ctx.saved_tensors
        rows = gradient.index_select(0, back)
        return rows if ctx.times == 1 else rows.view(-1, ctx.times, rows.shape[-1]).sum(1), None, None, None


class GroupedProduct(torch.autograd.Function):
    """Each stretch of rows by a weight of its own: x [rows, inputs], each weight [outputs, inputs] in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: Sequence[int], *weights: Tensor) -> Tensor:
        ctx.sizes = sizes
        ctx.save_for_backward(x, *weights)
        y = x.new_empty(len(x), len(weights[0]))
        for stretch, weight in zip(_stretches(sizes), weights, strict=True):
            torch.mm(x[stretch], weight.to(x.dtype).T, out=y[stretch])
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        x_gradient = torch.empty_like(x)
        weight_gradients = []
        for stretch, weight in zip(_stretches(ctx.sizes), weights, strict=True):
            rows = gradient[stretch]
            torch.mm(rows, weight.to(rows.dtype), out=x_gradient[stretch])
            weight_gradients.append((rows.T @ x[stretch]).to(weight.dtype))
        return x_gradient, None, *weight_gradients


def _stretches(sizes: Sequence[int]) -> list[slice]:
    return [slice(begin, end) for begin, end in pairwise(accumulate(sizes, initial=0))]


class WithLoss(torch.autograd.Function):
    """Give x as it is, and let a loss (0-dim) join in the backward pass: times `scale` where there is one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor, scale: Tensor | None) -> Tensor:
        ctx.save_for_backward(scale)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (scale,) = ctx.saved_tensors
        return gradient, torch.ones((), device=gradient.device) if scale is None else scale.squeeze(), None
