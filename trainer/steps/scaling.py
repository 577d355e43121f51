"""Loss scaling for float16: GradScaler's rule by the same kernels, without asking the device in a step."""

import torch
from torch import Tensor

GROWTH_INTERVAL = 2000  # steps without an overflow before the scale doubles; torch's defaults, as the factors below


class LossScaler:
    def __init__(self, device: torch.device) -> None:
        self.scale = torch.full((1,), 65536.0, device=device)
        self.growth = torch.zeros(1, dtype=torch.int32, device=device)
        self.found_infinite = torch.zeros(1, device=device)

    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide the gradients by the scale in place, noting whether any was not finite."""
        self.found_infinite.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.found_infinite, self.scale.reciprocal())

    def update(self) -> None:
        """Halve the scale after an overflow, double it after a long time without one."""
        torch._amp_update_scale_(self.scale, self.growth, self.found_infinite, 2.0, 0.5, GROWTH_INTERVAL)

    def state(self) -> dict[str, Tensor]:
        return {"scale": self.scale, "growth": self.growth}
