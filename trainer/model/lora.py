"""LoRA: the weights stay as they were given; each chosen product gets a narrow one beside it, and only that is trained.

Owns the adapters, their names (MiniMind's: `q_proj.lora.A.weight`) and their way into the weights at the end. Adapters
are float32, also beside weights held in bfloat16, and so is what is merged: what was given and what was learned.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainer.config import TrainConfig
from trainer.model.layers import Linear

_ADAPTER = ".lora."


class Adapter(nn.Module):
    """A product of two: down to `rank`, and up again."""

    def __init__(self, base: Linear, rank: int, scale: float) -> None:
        super().__init__()
        outputs, inputs = base.weight.shape
        self.A = Linear(inputs, rank, base.weight.device)
        self.B = Linear(rank, outputs, base.weight.device)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.B(self.A(x))
        return y if self.scale == 1 else y * self.scale


class AdaptedLinear(Linear):
    """A product, of a weight that is another's to begin with, and its adapter."""

    def __init__(self, base: Linear, rank: int, scale: float) -> None:
        nn.Module.__init__(self)
        self.weight = base.weight
        self.lora = Adapter(base, rank, scale)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.lora(x)


def adapt(model: nn.Module, train: TrainConfig) -> None:
    """Freeze the model, and put an adapter beside every product that is a target; its weights are not yet set."""
    model.requires_grad_(False)
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if name in train.lora_targets and isinstance(child, Linear):
                setattr(module, name, AdaptedLinear(child, train.lora_rank, scale_of(train)))


def initialise_adapters(model: nn.Module, seed: int) -> None:
    """Draw A as MiniMind does, with B zero: at first an adapter adds nothing. The caller is within `device.host()`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if _ADAPTER in name:
                drawn = torch.zeros(parameter.shape)
                if name.endswith(".A.weight"):
                    drawn.normal_(0.0, 0.02, generator=generator)
                parameter.copy_(drawn)


def scale_of(train: TrainConfig) -> float:
    return train.lora_alpha / train.lora_rank


def adapters(weights: Mapping[str, Tensor], train: TrainConfig) -> dict[str, Tensor]:
    """Pick the adapters alone, as MiniMind's programs apply them: without a scale of their own."""
    return {
        name: tensor.detach() * (scale_of(train) if name.endswith(".B.weight") else 1.0)
        for name, tensor in weights.items()
        if _ADAPTER in name
    }


def merged(weights: Mapping[str, Tensor], train: TrainConfig) -> dict[str, Tensor]:
    """Add each adapter to the weight it stands beside: a model without adapters that computes the same, in float32."""
    whole = {}
    for name, tensor in weights.items():
        if _ADAPTER in name:
            continue
        tensor = tensor.detach().float()
        module = name.removesuffix(".weight")
        down = weights.get(f"{module}.lora.A.weight")
        if down is not None:
            tensor = tensor + scale_of(train) * (weights[f"{module}.lora.B.weight"] @ down).detach()
        whole[name] = tensor
    return whole
