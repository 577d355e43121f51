"""AdamW whose moments are kept in 8 bits, by bitsandbytes: a code a value, and a scale for each 256 of them.

The kernel is the library's own, one a weight, and takes no temporaries on CUDA. As there, weights of less than 4,096
values (norms) keep float32 moments. The library is loaded for who asks for it alone: its import takes seconds.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from trainer.errors import BadConfiguration
from trainer.steps.adamw import BETAS, EPSILON, AdamW

BLOCK = 256
SMALLEST = 4096


class AdamW8bit(AdamW):
    def __init__(
        self,
        weights: Mapping[str, Tensor],
        *,
        weight_decay: float,
        device: torch.device,
        host: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        large = {name: weight for name, weight in weights.items() if weight.numel() >= SMALLEST}
        small = {name: weight for name, weight in weights.items() if name not in large}
        super().__init__(small, weight_decay=weight_decay, device=device)
        self._taken: int | None = None  # the kernel wants a number of the host; read from `steps` once
        self._blocks = {name: _Moments(weight) for name, weight in large.items()}
        with host():
            self._library = _library()
            maps = [self._library.create_dynamic_map(signed=signed) for signed in (True, False)]
        self._maps = [torch.empty_like(values, device=device).copy_(values) for values in maps]

    def begin(self, found_infinite: Tensor | None) -> None:
        super().begin(found_infinite)
        self._taken = int(self.steps) if self._taken is None else self._taken + 1

    def update(
        self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], found_infinite: Tensor | None
    ) -> None:
        small = {name: gradient for name, gradient in gradients.items() if name not in self._blocks}
        if small:
            super().update(weights, small, found_infinite)
        for name in gradients.keys() - small.keys():
            self._update_one(self._blocks[name], weights[name], gradients[name])

    def _update_one(self, moments: "_Moments", weight: Tensor, gradient: Tensor) -> None:
        self._library.optimizer_update_8bit_blockwise(
            "adam",
            gradient,
            weight,
            moments.first,
            moments.second,
            beta1=BETAS[0],
            beta2=BETAS[1],
            beta3=0.0,
            alpha=0.0,
            eps=EPSILON,
            step=self._taken,
            lr=self.learning_rate,
            qmap1=self._maps[0],
            qmap2=self._maps[1],
            absmax1=moments.first_scale,
            absmax2=moments.second_scale,
            weight_decay=self.weight_decay,
        )

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        yield from super()._moments()
        for name, moments in self._blocks.items():
            for part, tensor in vars(moments).items():
                yield f"{part}.{name}", tensor


class _Moments:
    """Of one weight: codes of its shape, and the largest value of each block."""

    def __init__(self, weight: Tensor) -> None:
        blocks = -(-weight.numel() // BLOCK)
        self.first = torch.zeros_like(weight, dtype=torch.uint8)
        self.second = torch.zeros_like(weight, dtype=torch.uint8)
        self.first_scale = torch.zeros(blocks, device=weight.device)
        self.second_scale = torch.zeros(blocks, device=weight.device)


def _library() -> Any:
    if find_spec("bitsandbytes") is None:
        raise BadConfiguration(
            "train.optimizer: adamw8bit needs bitsandbytes, which is not installed\nhint: pip install 'mmq[8bit]'"
        )
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of kernels of inference that it does not find
    from bitsandbytes import functional

    return functional
