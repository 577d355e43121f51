"""GPT-2 and DistilGPT-2 of Hugging Face's transformers, in the loop of xMem's measurements.

Built from a configuration: nothing is downloaded. What transformers 4.51 did and 5 no longer does is put back, since it
shows in the peak: queries, keys and values made contiguous before attention, and keys and values handed out beside the
logits, which keeps each layer's product alive until the next step's outputs take their place.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

VOCABULARY = 50257
Loop = tuple[nn.Module, Callable[[], None]]


class Presents:
    """Keeps the keys and values that a forward pass gives out, as they are."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def get_seq_length(self, *_: Any) -> int:
        return 0

    def update(self, key: Tensor, value: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.pairs.append((key, value))
        return key, value


def contiguous_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend as `sdpa_attention_forward` of transformers 4.51."""
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling, is_causal=False
    )
    return out.transpose(1, 2).contiguous(), None


def gpt2(batch: int, length: int, layers: int) -> Loop:
    """fp32, AdamW; gradients go at the start of a step; outputs stay until the next ones are there."""
    from transformers import AttentionInterface, GPT2Config, GPT2LMHeadModel

    AttentionInterface.register("sdpa_of_4_51", contiguous_attention)
    config = GPT2Config(n_layer=layers, attn_implementation="sdpa_of_4_51", use_cache=False)
    model = GPT2LMHeadModel(config).to("cuda").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    kept: list[Any] = []

    def step() -> None:
        optimizer.zero_grad()
        ids = torch.randint(0, VOCABULARY, (batch, length)).to("cuda")
        mask = torch.zeros(batch, 1, length, length, device="cuda")
        presents = Presents()
        outputs = model(input_ids=ids, attention_mask=mask, labels=ids, past_key_values=presents)
        kept[:] = [outputs, presents]
        outputs.loss.backward()
        optimizer.step()

    return model, step
