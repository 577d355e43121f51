"""MiniMind: the architecture of 2026 and that of February 2025, and the loops in which others measured them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

VOCABULARY = 6400
Loop = tuple[nn.Module, Callable[[], None]]


class Norm(nn.Module):
    def __init__(self, width: int, *, weight_first: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.weight_first = weight_first

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (self.weight * normed).type_as(x) if self.weight_first else self.weight * normed.type_as(x)


def _repeated(x: Tensor, times: int) -> Tensor:
    rows, length, heads, width = x.shape
    return x[:, :, :, None, :].expand(rows, length, heads, times, width).reshape(rows, length, heads * times, width)


def _half_rotated(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return ((x * cos.unsqueeze(1)) + (_half_rotated(x) * sin.unsqueeze(1))).to(x.dtype)


def _turned_complex(x: Tensor, turns: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    turns = turns.view(1, turns.shape[0], 1, turns.shape[1])
    return torch.view_as_real(pairs * turns).flatten(3).type_as(x)


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend causally with all scores in memory, as MiniMind does with `flash_attn` off."""
    length = query.shape[2]
    scores = (query @ key.transpose(-2, -1)) / query.shape[-1] ** 0.5
    scores[:, :, :, -length:] += torch.full((length, length), float("-inf"), device=scores.device).triu(1)
    return F.softmax(scores.float(), dim=-1).type_as(query) @ value


class Attention(nn.Module):
    def __init__(self, hidden: int, heads: int, kv_heads: int, *, old: bool, fast: bool = True) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width, self.old, self.fast = heads, kv_heads, hidden // heads, old, fast
        self.query = nn.Linear(hidden, heads * self.width, bias=False)
        self.key = nn.Linear(hidden, kv_heads * self.width, bias=False)
        self.value = nn.Linear(hidden, kv_heads * self.width, bias=False)
        self.out = nn.Linear(heads * self.width, hidden, bias=False)
        if not old:
            self.query_norm, self.key_norm = Norm(self.width, weight_first=True), Norm(self.width, weight_first=True)

    def forward(self, x: Tensor, *turns: Tensor) -> Tensor:
        rows, length, _ = x.shape
        query, key, value = self.query(x), self.key(x), self.value(x)
        query = query.view(rows, length, self.heads, self.width)
        key, value = (part.view(rows, length, self.kv_heads, self.width) for part in (key, value))
        if not self.old:
            query, key = self.query_norm(query), self.key_norm(key)
        turn = _turned_complex if self.old else _turned
        query, key = turn(query, *turns), turn(key, *turns)
        key, value = (_repeated(part, self.heads // self.kv_heads) for part in (key, value))
        attend = partial(F.scaled_dot_product_attention, is_causal=True) if self.fast else _attended
        out = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return self.out(out.transpose(1, 2).reshape(rows, length, -1))


class FeedForward(nn.Module):
    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(hidden, inner, bias=False), nn.Linear(hidden, inner, bias=False)
        self.down = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    def __init__(self, hidden: int, heads: int, kv_heads: int, inner: int, *, old: bool, fast: bool) -> None:
        super().__init__()
        self.attention = Attention(hidden, heads, kv_heads, old=old, fast=fast)
        self.first, self.second = Norm(hidden, weight_first=not old), Norm(hidden, weight_first=not old)
        self.feed = FeedForward(hidden, inner)
        self.old = old

    def forward(self, x: Tensor, *turns: Tensor) -> Tensor:
        attended = self.attention(self.first(x), *turns)
        if self.old:
            x = x + attended
        else:
            attended += x  # in place, as upstream
            x = attended
        return x + self.feed(self.second(x))


class MiniMind(nn.Module):
    """`old`: rotations as complex numbers, no norm on queries and keys, the norm's weight applied after the cast."""

    def __init__(
        self,
        *,
        layers: int,
        hidden: int,
        heads: int,
        kv_heads: int,
        inner: int,
        positions: int = 32768,
        tied: bool = True,
        old: bool = False,
        fast: bool = True,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads, kv_heads, inner, old=old, fast=fast) for _ in range(layers))
        self.norm = Norm(hidden, weight_first=not old)
        self.head = nn.Linear(hidden, VOCABULARY, bias=False)
        if tied:
            self.tokens.weight = self.head.weight
        width = hidden // heads
        frequencies = 1e6 ** (-torch.arange(0, width, 2).float() / width)
        angles = torch.outer(torch.arange(positions).float(), frequencies)
        turns = (
            [torch.polar(torch.ones_like(angles), angles)]
            if old
            else [torch.cat([f(angles), f(angles)], dim=-1) for f in (torch.cos, torch.sin)]
        )
        self.turns = len(turns)
        for number, turn in enumerate(turns):
            self.register_buffer(f"turn_{number}", turn, persistent=False)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Give logits and last hidden states."""
        x = self.tokens(ids)
        turns = [getattr(self, f"turn_{number}")[: ids.shape[1]] for number in range(self.turns)]
        for block in self.blocks:
            x = block(x, *turns)
        x = self.norm(x)
        return self.head(x[:, slice(0, None), :]), x


def _of_2026(layers: int, **changes: Any) -> MiniMind:
    return MiniMind(layers=layers, hidden=768, heads=8, kv_heads=4, inner=2432, **changes)


def _of_2025(layers: int) -> MiniMind:
    return MiniMind(layers=layers, hidden=512, heads=8, kv_heads=2, inner=1408, old=True)


def _ids(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, length)).to("cuda")


def _shifted_loss(logits: Tensor, labels: Tensor) -> Tensor:
    x, y = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
    return F.cross_entropy(x.view(-1, x.size(-1)), y.view(-1), ignore_index=-100)


def _wrapped(model: nn.Module, ranks: int, **how: Any) -> nn.Module:
    return torch.nn.parallel.DistributedDataParallel(model, **how) if ranks > 1 else model


def sft_probe(batch: int, length: int, layers: int, ranks: int) -> Loop:
    """Autocast to bfloat16, clipping, gradients gone at the end; logits and hidden states live into the next step."""
    model = _wrapped(_of_2026(layers).to("cuda"), ranks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    kept: list[Any] = []

    def step() -> None:
        _clipped_gradients(model, _ids(batch, length), _ids(batch, length), kept)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return model, step


def pretrain_probe(batch: int, length: int, layers: int, ranks: int) -> Loop:
    """As the SFT probe, but gradients live in the buckets of data parallelism and go at the start of a step."""
    model = _of_2026(layers).to("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    model = _wrapped(model, ranks, gradient_as_bucket_view=True)
    kept: list[Any] = []

    def step() -> None:
        ids, labels = _ids(batch, length), _ids(batch, length)
        optimizer.zero_grad(set_to_none=True)
        _clipped_gradients(model, ids, labels, kept)
        optimizer.step()

    return model, step


def _clipped_gradients(model: nn.Module, ids: Tensor, labels: Tensor, kept: list[Any]) -> None:
    """Forward, backward and clipping; `kept` is what the loop's variables hold, from the forward pass to the next."""
    with torch.autocast("cuda", dtype=torch.bfloat16):
        logits, hidden = model(ids)
        loss = _shifted_loss(logits, labels)
        total = loss + hidden.new_zeros(1).squeeze()
    kept[:] = [ids, labels, logits, hidden, loss, total]
    total.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def mean_of_logits(batch: int, length: int, layers: int, ranks: int) -> Loop:
    """Pure fp32, all attention scores in memory, and the mean of the logits for a loss; nothing outlives the step."""
    model = _of_2026(layers, positions=length, fast=False).to("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = _ids(batch, length)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits, _ = model(ids)
        logits.float().mean().backward()
        optimizer.step()

    return model, step


def pure_bfloat16(batch: int, length: int, layers: int, ranks: int) -> Loop:
    """Weights, gradients and moments in bfloat16; nothing is kept; the cache is emptied before the measurement."""
    model = _of_2026(layers, positions=length, tied=False).to(device="cuda", dtype=torch.bfloat16)
    model = _wrapped(model, ranks)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = _ids(batch, length)
    labels = ids.clone()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits, _ = model(ids)
        _shifted_loss(logits, labels).backward()
        optimizer.step()

    return model, step


def of_february_2025(batch: int, length: int, layers: int, ranks: int, accumulation: int = 2) -> Loop:
    """Its own pretraining loop: fp16 autocast, a loss a token, the model keeps its last logits and hidden states.

    Of `length` tokens a row, all but the last go in, and all but the first are targets.
    """
    model = _of_2025(layers).to("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    scaler = torch.amp.GradScaler("cuda")
    wrapped = _wrapped(model, ranks)
    kept: list[Any] = [None, None]
    steps = 0

    def step() -> None:
        nonlocal steps
        ids, targets, mask = (_ids(batch, length - 1) for _ in range(3))
        with torch.autocast("cuda", dtype=torch.float16):
            kept[1], kept[0] = wrapped(ids)[::-1]
            logits = kept[0]
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), reduction="none")
            loss = (loss.view(targets.size()) * mask).sum() / mask.sum() / accumulation
        scaler.scale(loss).backward()
        steps += 1
        if steps % accumulation == 0:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)

    return model, step


def preferences_of_2025(batch: int, length: int, layers: int, ranks: int) -> Loop:
    """Direct preference optimisation: a frozen second model, chosen and rejected rows in one batch, fp16 autocast."""
    model, reference = (_of_2025(layers).to("cuda") for _ in range(2))
    reference.eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-8)
    scaler = torch.amp.GradScaler("cuda")
    kept: list[Any] = []

    def chances(logits: Tensor, labels: Tensor) -> Tensor:
        return F.log_softmax(logits, dim=2).gather(2, labels.unsqueeze(2)).squeeze(-1)

    def step() -> None:
        ids, labels, mask = (torch.cat([_ids(batch, length - 1), _ids(batch, length - 1)]) for _ in range(3))
        with torch.autocast("cuda", dtype=torch.float16):
            with torch.no_grad():
                expected = reference(ids)
            before = (chances(expected[0], labels) * mask).sum(dim=1) / mask.sum(dim=1)
            given = model(ids)
            after = (chances(given[0], labels) * mask).sum(dim=1) / mask.sum(dim=1)
            margin = (after[:batch] - after[batch:]) - (before[:batch] - before[batch:])
            loss = -F.logsigmoid(0.1 * margin).mean()
        kept[:] = [expected, given]
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return model, step
