"""TinyLlama-1.1B as LitGPT fine-tunes it whole: everything in bfloat16, one product for query, key and value.

The head is applied to 128 positions at a time, and so is the loss, but all of their logits are kept for the backward.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

VOCABULARY, WIDTH, INNER, LAYERS, HEADS, GROUPS, POSITIONS, CHUNK = 32000, 2048, 5632, 22, 32, 4, 2048, 128
HEAD_WIDTH = WIDTH // HEADS


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(torch.mean(wide * wide, dim=-1, keepdim=True) + 1e-5)
        return normed.to(x.dtype) * self.weight


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = HEAD_WIDTH // 2
    rotated = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    turned = ((x * cos) + (rotated * sin)).to(x.dtype)
    return torch.cat((turned, x[..., HEAD_WIDTH:]), dim=-1)  # of a head that were turned in part, the rest


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Linear(WIDTH, (HEADS + 2 * GROUPS) * HEAD_WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, _ = x.shape
        each = HEADS // GROUPS
        parts = self.all(x).view(rows, length, GROUPS, each + 2, HEAD_WIDTH).permute(0, 2, 3, 1, 4)
        query, key, value = parts.split((each, 1, 1), dim=2)
        query, key, value = (
            part.expand(rows, GROUPS, each, length, HEAD_WIDTH).reshape(rows, -1, length, HEAD_WIDTH)
            for part in (query, key, value)
        )
        query, key = _turned(query, cos, sin), _turned(key, cos, sin)
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(out.transpose(1, 2).reshape(rows, length, WIDTH))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.attention = Norm(), Norm(), Attention()
        self.gate, self.up = nn.Linear(WIDTH, INNER, bias=False), nn.Linear(WIDTH, INNER, bias=False)
        self.down = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = self.attention(self.first(x), cos, sin) + x
        normed = self.second(x)
        return self.down(F.silu(self.gate(normed)) * self.up(normed)) + x


class TinyLlama(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = Norm()
        self.register_buffer("cos", torch.ones(POSITIONS, HEAD_WIDTH), persistent=False)
        self.register_buffer("sin", torch.ones(POSITIONS, HEAD_WIDTH), persistent=False)

    def forward(self, ids: Tensor) -> list[Tensor]:
        x = self.tokens(ids)
        for block in self.blocks:
            x = block(x, self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
        return [self.head(piece) for piece in self.norm(x).split(CHUNK, dim=1)]


def _loss(logits: list[Tensor], labels: Tensor) -> Tensor:
    logits[-1] = logits[-1][:, :-1]
    targets = labels[:, 1:].split(CHUNK, dim=1)
    losses = [
        F.cross_entropy(some.reshape(-1, VOCABULARY), wanted.reshape(-1), ignore_index=-100, reduction="none")
        for some, wanted in zip(logits, targets, strict=True)
    ]
    return torch.cat(losses).sum() / (labels[:, 1:] != -100).sum().clamp(min=1)


def loop(batch: int, length: int, accumulation: int = 2) -> tuple[nn.Module, Callable[[], None]]:
    """More accumulation than two steps changes no peak: the gradients are there from the first on."""
    model = TinyLlama().to("cuda", torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    kept: list[Any] = []
    steps = 0

    def step() -> None:
        nonlocal steps
        ids, labels = (torch.randint(0, VOCABULARY, (batch, length)).to("cuda") for _ in range(2))
        logits = model(ids)
        loss = _loss(logits, labels)
        kept[:] = [ids, labels, logits, loss]
        (loss / accumulation).backward()
        steps += 1
        if steps % accumulation == 0:
            optimizer.step()
            optimizer.zero_grad()

    return model, step
