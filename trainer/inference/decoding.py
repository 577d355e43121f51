"""One token after another from a model, with the keys and values of those before kept: each new one runs alone.

Owns the cache, and the order of the model's layers for what is new; the layers are the model's own.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from trainer.memory.device import Device
from trainer.memory.kernels import causal_attention
from trainer.model.minimind import Attention, MiniMind

KeysAndValues = tuple[Tensor, Tensor]  # each [1, tokens, heads, width]


def decode(
    model: MiniMind,
    device: Device,
    prompt: Sequence[int],
    *,
    end: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Iterator[int]:
    """Continue a prompt until the end token, the limit, or the last position; temperature 0 takes the likeliest."""
    generator = torch.Generator().manual_seed(seed)
    context = Context(model, device)
    fresh = list(prompt)
    for _ in range(min(max_new_tokens, context.positions - len(prompt))):
        token = _choose(context.logits(fresh), temperature, generator)
        if token == end:
            return
        yield token
        fresh = [token]


class Context:
    """What the model has read so far."""

    def __init__(self, model: MiniMind, device: Device) -> None:
        self._model = model
        self._device = device
        self._kept: list[KeysAndValues | None] = [None] * len(model.model.layers)
        self._length = 0
        self.positions = len(model.model.cos)  # the most it can read

    @torch.no_grad()
    def logits(self, fresh: Sequence[int]) -> Tensor:
        """Read some more tokens; the logits [entries] of what follows the last of them, in fp32 on the host."""
        decoder, end = self._model.model, self._length + len(fresh)
        with self._device.host():
            ids = torch.tensor([fresh], dtype=torch.int64)
        x = decoder.embed_tokens(self._device.to_device(ids))
        cos, sin = decoder.cos[self._length : end, None], decoder.sin[self._length : end, None]
        for number, block in enumerate(decoder.layers):
            read, self._kept[number] = _attend(block.self_attn, block.input_layernorm(x), cos, sin, self._kept[number])
            x = x + read
            x = x + block.mlp(block.post_attention_layernorm(x))
        self._length = end
        last = decoder.norm(x)[0, -1]
        return self._device.to_host(F.linear(last, self._model.head_weight.to(last.dtype)).float())


def _attend(
    attention: Attention, x: Tensor, cos: Tensor, sin: Tensor, kept: KeysAndValues | None
) -> tuple[Tensor, KeysAndValues]:
    """Read what is kept and what is new; several new tokens at once only where nothing is kept yet."""
    q, k, v = attention.project(x, cos, sin)
    if kept is None:
        return attention.read(q, k, v, causal_attention), (k, v)
    k, v = torch.cat((kept[0], k), dim=1), torch.cat((kept[1], v), dim=1)
    return attention.read(q, k, v, F.scaled_dot_product_attention), (k, v)


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))
