"""MiniMind's decoder: minimind-3 and, with `qk_norm` off, the 2025 presets. Names are MiniMind's own.

Owns shapes and arithmetic; knows nothing of data, losses or devices.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.config import Checkpointing, Config, ModelConfig
from trainer.memory.kernels import causal_attention
from trainer.model.experts import Balance, Experts
from trainer.model.fused import repeat, rms_norm, rotate, rotations
from trainer.model.layers import Embedding, FeedForward, Linear, RMSNorm
from trainer.model.selective import cheap, forgetting

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Attention(nn.Module):
    """Causal grouped-query attention. Rows are padded on the right, so causality alone hides the padding."""

    def __init__(self, model: ModelConfig, compute: torch.dtype, device: torch.device) -> None:
        super().__init__()
        width = model.head_width
        self.width = width
        self.repeats = model.num_attention_heads // model.num_key_value_heads
        self.q_proj = Linear(model.hidden_size, model.num_attention_heads * width, device)
        self.k_proj = Linear(model.hidden_size, model.num_key_value_heads * width, device)
        self.v_proj = Linear(model.hidden_size, model.num_key_value_heads * width, device)
        self.o_proj = Linear(model.num_attention_heads * width, model.hidden_size, device)
        if model.qk_norm:
            self.q_norm = RMSNorm(width, model.rms_norm_eps, torch.float32, device)
            self.k_norm = RMSNorm(width, model.rms_norm_eps, torch.float32, device)
        self.qk_norm = model.qk_norm
        self.compute = compute

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """x [batch, length, hidden]; cos, sin [length, 1, head width], one a sequence with mask: see `apart`."""
        return self.read(*self.project(x, cos, sin), partial(causal_attention, mask=mask))

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give queries, keys and values, each [batch, length, heads, width], at their positions."""
        batch, length, _ = x.shape
        q, k, v = (
            projection(x).view(batch, length, -1, self.width) for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q_norm, k_norm = (self.q_norm, self.k_norm) if self.qk_norm else (None, None)
        return cheap(turned, q, q_norm, cos, sin, self.compute), cheap(turned, k, k_norm, cos, sin, self.compute), v

    def read(self, q: Tensor, k: Tensor, v: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        # Repeated by hand: the memory-efficient kernel, which fp32 gets on CUDA, takes no grouped heads.
        if self.repeats > 1:
            k, v = (cheap(repeat, t, self.repeats) for t in (k, v))
        out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return self.o_proj(out.transpose(1, 2).flatten(2))


def turned(x: Tensor, norm: RMSNorm | None, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    """Norm the heads x [batch, length, heads, width] and turn them by their positions; rounded to `dtype` once."""
    if norm is not None:
        x = rms_norm(x, norm.weight, norm.eps, torch.float32)
    return rotate(x, cos, sin, dtype)


def apart(starts: Tensor, dtype: torch.dtype) -> Tensor:
    """Make the mask [batch, 1, length, length] by which a token sees those before it in its own row, and itself."""
    sees = (starts[:, None, :, None] == starts[:, None, None, :]).tril_()
    return torch.zeros(sees.shape, dtype=dtype, device=starts.device).masked_fill_(sees.logical_not_(), -torch.inf)


class Computation(Protocol):
    """All that a block computes, in another way."""

    def __call__(self, block: "Block", x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor: ...


class Block(nn.Module):
    """One layer; what the backward pass needs of it is kept, or made again, as `checkpointing` says."""

    def __init__(
        self,
        model: ModelConfig,
        balance: Balance,
        compute: torch.dtype,
        device: torch.device,
        checkpointing: Checkpointing,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.input_layernorm = RMSNorm(model.hidden_size, model.rms_norm_eps, compute, device)
        self.self_attn = Attention(model, compute, device)
        self.post_attention_layernorm = RMSNorm(model.hidden_size, model.rms_norm_eps, compute, device)
        self.mlp = Experts(model, balance, device) if model.use_moe else FeedForward(model, device)
        self.compiled: Computation | None = None  # see `compiled`

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        if self.checkpointing == "off" or not torch.is_grad_enabled():
            return self.compute_all(x, cos, sin, mask)
        if self.checkpointing == "selective":
            with forgetting():
                return self.compute_all(x, cos, sin, mask)
        if not x.requires_grad:
            x.requires_grad_()  # all before is frozen, and a block run again must still be asked for gradients
        return Recomputed.apply(self.compute_all, x, cos, sin, mask)

    def compute_all(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        if self.compiled is not None:
            return self.compiled(self, x, cos, sin, mask)
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Recomputed(torch.autograd.Function):
    """A block that keeps only its input and runs again in the backward pass (activation checkpointing).

    Our own, since torch.utils.checkpoint imports all of torch._dynamo; there is no randomness to replay. It is within
    the block's own call, where FSDP has seen to the weights before it begins either way.
    """

    @staticmethod
    def forward(ctx: Any, block: Callable[..., Tensor], x: Tensor, *places: Tensor | None) -> Tensor:
        ctx.block = block
        ctx.save_for_backward(x, *places)
        return block(x, *places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *places = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = ctx.block(x, *places)
        torch.autograd.backward(y, gradient)
        return None, x.grad, *(None for _ in places)


class Decoder(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__()
        model, compute = config.model, DTYPES[config.train.dtype]
        self.compute = compute
        self.embed_tokens = Embedding(model.vocab_size, model.hidden_size, device)
        self.routed = model.use_moe
        self.balance = Balance(config.effective_batch)
        checkpointing = config.plan.checkpointing
        if checkpointing == "selective" and config.train.compile:
            checkpointing = "off"  # torch's compiler selects by itself
        self.layers = nn.ModuleList(
            Block(model, self.balance, compute, device, checkpointing) for _ in range(model.num_hidden_layers)
        )
        self.norm = RMSNorm(model.hidden_size, model.rms_norm_eps, compute, device)
        cos, sin = rotations(config.max_seq_len, model.head_width, model.rope_theta, device)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor, starts: Tensor | None) -> Tensor:
        x = self.embed_tokens(ids)
        if self.routed and torch.is_grad_enabled():
            self.balance.note(ids, starts)
        places = self._places(ids.shape[1], starts)
        for block in self.layers:
            x = block(x, *places)
        return self.norm(x)

    def _places(self, length: int, starts: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Give the cosines and sines of the positions, and, where rows share sequences, who sees whom."""
        if starts is None:
            return self.cos[:length, None], self.sin[:length, None], None
        positions = torch.arange(length, device=starts.device) - starts
        return self.cos[positions, None], self.sin[positions, None], apart(starts, self.compute)


class MiniMind(nn.Module):
    """`model(ids)` gives the last hidden states [batch, length, hidden]; the loss applies `head_weight`.

    Where several rows share a sequence, starts [batch, length] says where the row of each token begins.

    Made with its weights not yet set: see `initialise` and `trainer.files.weights`.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        super().__init__()
        with made_of(DTYPES[config.train.weights]):
            self.model = Decoder(config, device)
            self.lm_head = Linear(config.model.hidden_size, config.model.vocab_size, device)
        if config.model.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids: Tensor, starts: Tensor | None = None) -> Tensor:
        return self.model(ids, starts)

    @property
    def balance(self) -> Balance:
        """What the experts need to know of a step."""
        return self.model.balance

    @property
    def head_weight(self) -> Tensor:
        return self.lm_head.weight


@contextmanager
def made_of(dtype: torch.dtype) -> Iterator[None]:
    """Within it, weights are made in this dtype; all else says its own."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def initialise(model: nn.Module, seed: int, host: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
    """Draw the first weights, on the host and one at a time: the same for every device, in no extra memory.

    Products as torch's own linear layer does (uniform within 1/sqrt(inputs)), norms 1, as upstream.
    """
    with host(), torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            drawn = torch.ones(parameter.shape)
            if parameter.dim() > 1:
                bound = parameter.shape[1] ** -0.5
                drawn.uniform_(-bound, bound, generator=generator)
            parameter.copy_(drawn)
