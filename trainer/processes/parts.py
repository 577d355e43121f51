"""A tensor of which each process may hold a part only: the part, the whole, and how to fill the one from the other.

Parameters say how they are laid out (torch's DTensor); what belongs to one, such as its moments, is laid out alike. A
tensor that one process holds whole goes through here untouched, and needs nothing of torch.distributed.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Part(NamedTuple):
    """What this process holds, and the parameter whose layout it has."""

    held: Tensor
    like: Tensor

    @property
    def shape(self) -> torch.Size:
        """Give the shape of the whole."""
        return self.like.shape if is_spread(self.like) else self.held.shape

    def whole(self) -> Tensor:
        """Gather the whole; every process must call this."""
        if not is_spread(self.like):
            return self.held.detach()
        from torch.distributed.tensor import DTensor

        spread: Any = self.like
        own = self.held.detach()
        whole: Tensor = DTensor.from_local(
            own.view(torch.bfloat16) if own.dtype is torch.int16 else own,  # int16 travels by no backend; bits do
            spread.device_mesh,
            spread.placements,
            run_check=False,
            shape=spread.shape,
            stride=spread.stride(),
        ).full_tensor()
        return whole.view(own.dtype)

    def fill(self, whole: Tensor) -> None:
        """Copy from the whole what belongs here."""
        with torch.no_grad():
            if not is_spread(self.like):
                self.held.copy_(whole)
                return
            from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

            spread: Any = self.like
            shape, begins = compute_local_shape_and_global_offset(whole.shape, spread.device_mesh, spread.placements)
            here = tuple(slice(begin, begin + size) for begin, size in zip(begins, shape, strict=True))
            self.held.copy_(whole[here])


def is_spread(tensor: Tensor) -> bool:
    return hasattr(tensor, "placements")


def held(tensor: Tensor) -> Tensor:
    """Give what this process holds of a parameter or its gradient; the live tensor, not a copy."""
    local: Tensor = tensor._local_tensor if hasattr(tensor, "_local_tensor") else tensor
    return local


def parts_of(parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Part]:
    return {name: Part(held(parameter), parameter) for name, parameter in parameters}
