"""AdamW with torch's defaults and float32 moments, as one fused kernel.

The kernel is torch's own; `torch.optim` is left aside since its import pulls in all of torch._dynamo. Fused
takes no temporaries, so a step can't run out of memory half-applied; all state is made before the first step.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

BETAS = 0.9, 0.999
EPSILON = 1e-8


class AdamW:
    """The rule of an update, for weights of these names and shapes. `learning_rate` is set before each step."""

    def __init__(self, weights: Mapping[str, Tensor], *, weight_decay: float, device: torch.device) -> None:
        self.learning_rate = 0.0
        self.weight_decay = weight_decay
        self.first = {name: torch.zeros_like(w, dtype=torch.float32) for name, w in weights.items()}
        self.second = {name: torch.zeros_like(w, dtype=torch.float32) for name, w in weights.items()}
        self.steps = torch.zeros((), device=device)

    def begin(self, found_infinite: Tensor | None) -> None:
        """Count a step, unless it is to be a no-op."""
        self.steps += 1 if found_infinite is None else 1 - found_infinite.squeeze()

    def update(
        self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], found_infinite: Tensor | None
    ) -> None:
        """Change float32 weights in place; some of them at a time, each once a step."""
        torch._fused_adamw_(
            [weights[name] for name in gradients],
            list(gradients.values()),
            [self.first[name] for name in gradients],
            [self.second[name] for name in gradients],
            [],
            [self.steps] * len(gradients),
            lr=self.learning_rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=self.weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
            found_inf=found_infinite,
        )

    def state(self) -> dict[str, Tensor]:
        """Give the live state by flat names, for checkpoints."""
        return {"steps": self.steps} | dict(self._moments())

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        for name in self.first:
            yield f"first.{name}", self.first[name]
            yield f"second.{name}", self.second[name]
