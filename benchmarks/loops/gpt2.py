"""GPT-2 as in rasbt's LLMs-from-scratch, chapter 5, "training speed": attention, norm and GELU spelt out."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS, DROPOUT = 50257, 1024, 768, 12, 12, 0.1


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=-1, keepdim=True)
        variance = x.var(dim=-1, keepdim=True, unbiased=False)
        return self.scale * ((x - mean) / torch.sqrt(variance + 1e-5)) + self.shift


class Gelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))))


class Attention(nn.Module):
    def __init__(self, kept_mask: bool) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.kept_mask = kept_mask
        if kept_mask:
            self.register_buffer("mask", torch.triu(torch.ones(CONTEXT, CONTEXT), diagonal=1))

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        key, query, value = (
            part(x).view(rows, length, HEADS, -1).transpose(1, 2) for part in (self.key, self.query, self.value)
        )
        scores = query @ key.transpose(2, 3)
        scores.masked_fill_(self._hidden(length, x), -torch.inf)
        weights = self.dropout(torch.softmax(scores / key.shape[-1] ** 0.5, dim=-1))
        return self.out((weights @ value).transpose(1, 2).reshape(rows, length, WIDTH))

    def _hidden(self, length: int, x: Tensor) -> Tensor:
        if self.kept_mask:
            return self.mask.bool()[:length, :length]
        return torch.triu(torch.ones(length, length, dtype=torch.bool, device=x.device), diagonal=1)


class Block(nn.Module):
    def __init__(self, kept_mask: bool) -> None:
        super().__init__()
        self.attention, self.first, self.second = Attention(kept_mask), Norm(), Norm()
        self.feed = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), Gelu(), nn.Linear(4 * WIDTH, WIDTH))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        kept = x
        x = self.dropout(self.attention(self.first(x))) + kept
        kept = x
        x = self.dropout(self.feed(self.second(x)))
        return x + kept


class GPT2(nn.Module):
    def __init__(self, kept_mask: bool) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.Sequential(*(Block(kept_mask) for _ in range(LAYERS)))
        self.norm = Norm()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.head(self.norm(self.blocks(self.dropout(x))))


def loop(batch: int, length: int, *, fused: bool, kept_mask: bool) -> tuple[nn.Module, Callable[[], None]]:
    """One epoch's step; after the first, losses of some batches without gradients, as the script prints them."""
    model = GPT2(kept_mask).to("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.1, fused=fused or None)
    steps = 0

    def loss_of() -> Tensor:
        ids, targets = (torch.randint(0, VOCABULARY, (batch, length)).to("cuda") for _ in range(2))
        return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())

    def step() -> None:
        nonlocal steps
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        steps += 1
        if steps == 1:
            model.eval()
            with torch.no_grad():
                for _ in range(2):
                    loss_of().item()
            model.train()

    return model, step
