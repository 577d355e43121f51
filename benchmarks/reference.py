"""A training loop that works as MiniMind's programs do: the plain way, which the trainer is measured against.

Every row is padded to max_seq_len, all logits of a micro-batch are there at once, its loss is a mean of its own,
autocast decides the dtypes, and torch's AdamW takes the step. The model's parameters have the trainer's names.
Must not import the trainer's model, step or optimizer.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from trainer.config import ModelConfig
from trainer.data.batches import Row

IGNORED = -100


class Norm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps))).type_as(x)


class Attention(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.width = model.num_attention_heads, model.num_key_value_heads, model.head_width
        self.q_proj = nn.Linear(model.hidden_size, self.heads * self.width, bias=False)
        self.k_proj = nn.Linear(model.hidden_size, self.kv_heads * self.width, bias=False)
        self.v_proj = nn.Linear(model.hidden_size, self.kv_heads * self.width, bias=False)
        self.o_proj = nn.Linear(self.heads * self.width, model.hidden_size, bias=False)
        self.q_norm = Norm(self.width, model.rms_norm_eps) if model.qk_norm else nn.Identity()
        self.k_norm = Norm(self.width, model.rms_norm_eps) if model.qk_norm else nn.Identity()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(batch, length, self.heads, self.width))
        k = self.k_norm(self.k_proj(x).view(batch, length, self.kv_heads, self.width))
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.width)
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        repeats = self.heads // self.kv_heads
        q, k, v = (
            q.transpose(1, 2),
            _repeated(k, repeats).transpose(1, 2),
            _repeated(v, repeats).transpose(1, 2),
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class FeedForward(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(model.hidden_size, model.inner_width, bias=False)
        self.up_proj = nn.Linear(model.hidden_size, model.inner_width, bias=False)
        self.down_proj = nn.Linear(model.inner_width, model.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = Norm(model.hidden_size, model.rms_norm_eps)
        self.self_attn = Attention(model)
        self.post_attention_layernorm = Norm(model.hidden_size, model.rms_norm_eps)
        self.mlp = FeedForward(model)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, model: ModelConfig, max_seq_len: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(model.vocab_size, model.hidden_size)
        self.layers = nn.ModuleList(Block(model) for _ in range(model.num_hidden_layers))
        self.norm = Norm(model.hidden_size, model.rms_norm_eps)
        frequencies = 1.0 / model.rope_theta ** (torch.arange(0, model.head_width, 2).float() / model.head_width)
        angles = torch.outer(torch.arange(max_seq_len).float(), frequencies)
        self.register_buffer("cos", torch.cat((angles.cos(), angles.cos()), -1), persistent=False)
        self.register_buffer("sin", torch.cat((angles.sin(), angles.sin()), -1), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        for block in self.layers:
            x = block(x, self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
        return self.norm(x)


class Model(nn.Module):
    def __init__(self, model: ModelConfig, max_seq_len: int) -> None:
        super().__init__()
        self.model = Decoder(model, max_seq_len)
        self.lm_head = nn.Linear(model.hidden_size, model.vocab_size, bias=False)
        self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        logits = self.lm_head(self.model(ids))
        shifted, following = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
        return F.cross_entropy(shifted.view(-1, shifted.shape[-1]), following.view(-1), ignore_index=IGNORED)


class Loop:
    """The reference's training: one `step` is one optimizer step over its micro-batches."""

    def __init__(
        self, model: ModelConfig, weights: Mapping[str, Tensor], *, max_seq_len: int, batch_size: int, dtype: str
    ) -> None:
        self.model = Model(model, max_seq_len)
        self.model.load_state_dict(weights)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)
        self.max_seq_len = max_seq_len
        self.batch_size = batch_size
        self.dtype = dtype

    def step(self, rows: Sequence[Row], learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        accumulation_steps = math.ceil(len(rows) / self.batch_size)
        for ids, labels in self._batches(rows):
            with self._autocast():
                loss = self.model(ids, labels) / accumulation_steps
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _batches(self, rows: Sequence[Row]) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(rows), self.batch_size):
            yield padded(rows[start : start + self.batch_size], self.max_seq_len)

    def _autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype == "float32" else torch.autocast("cpu", dtype=torch.bfloat16)


def padded(rows: Sequence[Row], max_seq_len: int) -> tuple[Tensor, Tensor]:
    """Give ids and labels, both [rows, max_seq_len]."""
    ids = np.zeros((len(rows), max_seq_len), dtype=np.int64)
    labels = np.full((len(rows), max_seq_len), IGNORED, dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row.tokens)] = row.tokens
        labels[index, : len(row.tokens)][row.is_target] = row.tokens[row.is_target]
    return torch.from_numpy(ids), torch.from_numpy(labels)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return (x * cos[:, None] + turned * sin[:, None]).to(x.dtype)


def _repeated(x: Tensor, repeats: int) -> Tensor:
    batch, length, heads, width = x.shape
    return x[:, :, :, None].expand(batch, length, heads, repeats, width).reshape(batch, length, heads * repeats, width)
