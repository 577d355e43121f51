"""One token after another from a model, with the keys and values of those before kept: each new one runs alone.

Owns the cache, and the model's forward pass over what is new; layers, norms and projections are the model's own.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from trainer.memory.device import Device
from trainer.memory.kernels import causal_attention
from trainer.model import Attention, MiniMind, rotate

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
        cos, sin = decoder.cos[self._length : end], decoder.sin[self._length : end]
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
    """Do what the attention's own forward does, over what is kept and what is new; several tokens only at first."""
    q, k, v = (
        projection(x).view(1, x.shape[1], -1, attention.width)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    if attention.qk_norm:
        q, k = attention.q_norm(q), attention.k_norm(k)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    if kept is not None:
        k, v = torch.cat((kept[0], k), dim=1), torch.cat((kept[1], v), dim=1)
    attend = causal_attention if kept is None else F.scaled_dot_product_attention
    repeated = (t.repeat_interleave(attention.repeats, dim=2) if attention.repeats > 1 else t for t in (k, v))
    out = attend(q.transpose(1, 2), *(t.transpose(1, 2) for t in repeated))
    return attention.o_proj(out.transpose(1, 2).reshape(1, x.shape[1], -1)), (k, v)


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))
