"""What a step knows of an optimizer: gradients, an update, and states by name.

Owns where the weights that are updated lie: as they are, split into bfloat16 and the rest, or in host memory. How they
follow from gradients is the rule's (`adamw`, `adamw8bit`), and goes with any of these places.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.config import Config
from trainer.processes.parts import held
from trainer.steps.adamw import AdamW
from trainer.steps.split import join, split

Host = Callable[[], AbstractContextManager[Any]]
Parameters = Mapping[str, nn.Parameter]


class Optimizer(Protocol):
    """`learning_rate` is set by the caller before each step."""

    learning_rate: float

    def gradients(self) -> list[Tensor]: ...

    def step(self, found_infinite: Tensor | None = None) -> None:
        """Apply one update; a nonzero `found_infinite` (1 element, on the device) makes it a no-op."""

    def zero_grad(self) -> None: ...

    def state(self) -> dict[str, Tensor]:
        """Give the live state by flat names, for checkpoints."""


class InPlace:
    """Float32 weights, changed where they lie."""

    def __init__(self, parameters: Parameters, rule: AdamW) -> None:
        self.parameters = parameters
        self.weights = {name: held(parameter) for name, parameter in parameters.items()}
        self.rule = rule

    @property
    def learning_rate(self) -> float:
        return self.rule.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self.rule.learning_rate = rate

    def gradients(self) -> list[Tensor]:
        return [held(p.grad) for p in self.parameters.values() if p.grad is not None]

    def step(self, found_infinite: Tensor | None = None) -> None:
        gradients = {name: held(p.grad) for name, p in self.parameters.items() if p.grad is not None}
        with torch.no_grad():
            self.rule.begin(found_infinite)
            self.apply(gradients, found_infinite)

    def apply(self, gradients: Mapping[str, Tensor], found_infinite: Tensor | None) -> None:
        self.rule.update(self.weights, gradients, found_infinite)

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        return self.rule.state()


class Split(InPlace):
    """Weights in bfloat16, each with what it lacks of float32 beside it: no update is too small to count."""

    def __init__(self, parameters: Parameters, rule: AdamW) -> None:
        super().__init__(parameters, rule)
        self.rest = {name: torch.zeros_like(w, dtype=torch.int16) for name, w in self.weights.items()}

    def apply(self, gradients: Mapping[str, Tensor], found_infinite: Tensor | None) -> None:
        for name, gradient in gradients.items():
            whole = join(self.weights[name], self.rest[name])
            self.rule.update({name: whole}, {name: gradient.float()}, found_infinite)
            split(whole, self.weights[name], self.rest[name])

    def state(self) -> dict[str, Tensor]:
        return super().state() | {f"rest.{name}": rest for name, rest in self.rest.items()}


class Offloaded:
    """Another optimizer on copies of the weights in host memory: gradients go down and weights come up each step."""

    def __init__(self, parameters: Parameters, make: Callable[[Parameters], InPlace], host: Host) -> None:
        self._host = host
        self._on_device = parameters
        with host():
            self._masters = {name: nn.Parameter(_host_copy(held(p))) for name, p in parameters.items()}
            self._inner = make(self._masters)

    @property
    def learning_rate(self) -> float:
        return self._inner.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._inner.learning_rate = rate

    def gradients(self) -> list[Tensor]:
        return [held(p.grad) for p in self._on_device.values() if p.grad is not None]

    def step(self, found_infinite: Tensor | None = None) -> None:
        with self._host(), torch.no_grad():
            for name, master in self._masters.items():
                gradient = self._on_device[name].grad
                master.grad = None if gradient is None else _host_copy(held(gradient))
            self._inner.step(None if found_infinite is None else _host_copy(found_infinite))
            for name, master in self._masters.items():
                held(self._on_device[name]).copy_(master)
            self._inner.zero_grad()

    def zero_grad(self) -> None:
        for parameter in self._on_device.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        return self._inner.state()


def build_optimizer(model: nn.Module, config: Config, host: Host = nullcontext) -> Optimizer:
    """Make the optimizer of a model whose weights are set (offloading copies them)."""

    def make(parameters: Parameters) -> InPlace:
        placement = Split if _are_bfloat16(parameters) else InPlace
        return placement(parameters, _rule(parameters, config, host))

    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return Offloaded(parameters, make, host) if config.plan.optimizer_offload else make(parameters)


def _rule(parameters: Parameters, config: Config, host: Host) -> AdamW:
    weights = {name: held(parameter) for name, parameter in parameters.items()}
    device, decay = next(iter(weights.values())).device, config.train.weight_decay
    if config.train.optimizer == "adamw":
        return AdamW(weights, weight_decay=decay, device=device)
    from trainer.steps.adamw8bit import AdamW8bit

    return AdamW8bit(weights, weight_decay=decay, device=device, host=host)


def _are_bfloat16(parameters: Parameters) -> bool:
    return next(iter(parameters.values())).dtype is torch.bfloat16


def _host_copy(tensor: Tensor) -> Tensor:
    """Copy to the host; a meta tensor, which stands for one anywhere, stays meta."""
    return torch.empty_like(tensor, device="meta" if tensor.is_meta else "cpu").copy_(tensor.detach())
