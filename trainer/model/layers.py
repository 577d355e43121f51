"""The layers that a block is made of.

Mixed precision by explicit casts: weights (unless held in bfloat16), norms and the residual stream are fp32; matrix
products and attention run in the compute dtype. What autocast would do, but visible, and the same on every device.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from trainer.config import ModelConfig
from trainer.model.fused import linear, rms_norm, swiglu
from trainer.model.selective import cheap


class Linear(nn.Linear):
    """A product without bias whose weight is cast to the dtype of its input; not yet set."""

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        super().__init__(inputs, outputs, bias=False, device=device)

    def reset_parameters(self) -> None:
        """Leave the weight as it is: nothing is drawn here."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)


class Embedding(nn.Module):
    def __init__(self, entries: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(entries, width, device=device))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).float()


class RMSNorm(nn.Module):
    """Normalise in fp32, and give the result in the dtype asked for."""

    def __init__(self, width: int, eps: float, compute: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, device=device))
        self.eps = eps
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return cheap(rms_norm, x, self.weight, self.eps, self.compute)


class FeedForward(nn.Module):
    def __init__(self, model: ModelConfig, device: torch.device) -> None:
        super().__init__()
        self.gate_proj = Linear(model.hidden_size, model.inner_width, device)
        self.up_proj = Linear(model.hidden_size, model.inner_width, device)
        self.down_proj = Linear(model.inner_width, model.hidden_size, device)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(cheap(swiglu, self.gate_proj(x), self.up_proj(x)))
