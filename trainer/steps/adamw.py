"""AdamW with torch's defaults, as one fused kernel a step, on the device or in host memory.

The kernel is torch's own; `torch.optim` is left aside since its import pulls in all of torch._dynamo. Fused
takes no temporaries, so a step can't run out of memory half-applied; all state is made before the first step.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

Host = Callable[[], AbstractContextManager[Any]]


class AdamW:
    """`learning_rate` is set by the caller before each step."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, weight_decay: float) -> None:
        self.learning_rate = 0.0
        self.weight_decay = weight_decay
        self.parameters = dict(parameters)
        self.first = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        some = next(iter(self.first.values()))
        self.steps = torch.zeros((), device=some.device)

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters.values() if p.grad is not None]

    def step(self, found_infinite: Tensor | None = None) -> None:
        """Apply one update; a nonzero `found_infinite` (1 element, on the device) makes it a no-op."""
        self._update(self.parameters, found_infinite)

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Give the live state by flat names, for checkpoints."""
        return {"steps": self.steps} | dict(self._moments())

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        for name in self.parameters:
            yield f"first.{name}", self.first[name]
            yield f"second.{name}", self.second[name]

    def _update(self, parameters: Mapping[str, Tensor], found_infinite: Tensor | None) -> None:
        names = [name for name, p in parameters.items() if p.grad is not None]
        with torch.no_grad():
            self.steps += 1 if found_infinite is None else 1 - found_infinite.to(self.steps.device).squeeze()
            torch._fused_adamw_(
                [parameters[name] for name in names],
                [parameters[name].grad for name in names],
                [self.first[name] for name in names],
                [self.second[name] for name in names],
                [],
                [self.steps] * len(names),
                lr=self.learning_rate,
                beta1=0.9,
                beta2=0.999,
                weight_decay=self.weight_decay,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
                found_inf=found_infinite,
            )


class OffloadedAdamW(AdamW):
    """Weights' master copy and moments in host memory; gradients go down and weights come up each step."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, weight_decay: float, host: Host = nullcontext
    ) -> None:
        self.host = host
        self.on_device = dict(parameters)
        with host():
            masters = {name: nn.Parameter(_host_copy(p)) for name, p in parameters.items()}
            super().__init__(masters, weight_decay=weight_decay)

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.on_device.values() if p.grad is not None]

    def step(self, found_infinite: Tensor | None = None) -> None:
        with self.host(), torch.no_grad():
            for name, master in self.parameters.items():
                gradient = self.on_device[name].grad
                master.grad = None if gradient is None else _host_copy(gradient)
            self._update(self.parameters, None if found_infinite is None else _host_copy(found_infinite))
            for name, master in self.parameters.items():
                self.on_device[name].copy_(master)
                master.grad = None

    def zero_grad(self) -> None:
        for parameter in self.on_device.values():
            parameter.grad = None


def build_optimizer(model: nn.Module, *, weight_decay: float, offload: bool, host: Host = nullcontext) -> AdamW:
    """Make the optimizer of a model whose weights are set (offloading copies them)."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if offload:
        return OffloadedAdamW(parameters, weight_decay=weight_decay, host=host)
    return AdamW(parameters, weight_decay=weight_decay)


def _host_copy(tensor: Tensor) -> Tensor:
    """Copy to the host; a meta tensor, which stands for one anywhere, stays meta."""
    return torch.empty_like(tensor, device="meta" if tensor.is_meta else "cpu").copy_(tensor.detach())
