"""A model of which each process holds a part: FSDP2 for its states (ZeRO-2, ZeRO-3), DTensor for its products.

Owns which part of a MiniMind is laid out how. The processes are a grid of data x tensor: those of one line of it split
products and have the same rows of text, those of one column divide the states among them. Its imports take seconds:
only for who asks for it.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, PrepareModuleInput, RowwiseParallel, parallelize_module
from torch.distributed.tensor.parallel.style import ParallelStyle

from trainer.config import PlanConfig
from trainer.model.minimind import MiniMind
from trainer.processes.parts import held, is_spread
from trainer.processes.passes import Passes
from trainer.processes.ranks import Ranks, add_up
from trainer.steps.step import Exchange

_OF_OWN_HEADS = ("q_norm.weight", "k_norm.weight")  # held whole, but each process has seen its own heads alone


class Place(Protocol):
    """As much of a device as laying out a model needs."""

    torch_device: torch.device

    def to_device(self, tensor: Tensor) -> Tensor: ...


class SpreadRanks:
    """`ranks` with a model spread over them."""

    spreads = True

    def __init__(self, ranks: Ranks, plan: PlanConfig, device: Place) -> None:
        self._ranks = ranks
        self._plan = plan
        self._device = device
        self.rank, self.size = ranks.rank, ranks.size
        self.share, self.shares = ranks.rank // plan.tensor_parallel, ranks.size // plan.tensor_parallel
        grid = self.shares, plan.tensor_parallel
        kind = "cuda" if device.torch_device.type == "cuda" else "cpu"
        self._mesh = init_device_mesh(kind, grid, mesh_dim_names=("data", "tensor"))
        self.passes: Passes | None = None

    def spread(self, model: MiniMind) -> None:
        if self._plan.tensor_parallel > 1:
            split_products(model, self._mesh["tensor"])
        if self._plan.sharding != "none":
            divide_states(model, self._mesh["data"], again=self._plan.sharding == "zero3")
            if self._plan.tensor_parallel == 1 and hasattr(FSDPModule, "reset_iter_state"):
                self.passes = Passes(model, self._ranks)
        for tensor in (*model.parameters(), *model.buffers()):
            if not is_spread(tensor) or self._plan.sharding == "none":
                local = held(tensor)
                local.data = self._device.to_device(local.data)

    def exchange(self, model: MiniMind) -> Exchange:
        return Spread(model, self._mesh, sharding=self._plan.sharding)

    def rest(self, model: MiniMind) -> None:
        release(model)

    def sums(self, *numbers: float) -> list[float]:
        return self._ranks.sums(*numbers)

    def most(self, *numbers: float) -> list[float]:
        return self._ranks.most(*numbers)

    def wait(self) -> None:
        self._ranks.wait()

    def first_first(self) -> AbstractContextManager[None]:
        return self._ranks.first_first()


def divide_states(model: MiniMind, mesh: DeviceMesh, *, again: bool) -> None:
    """Divide parameters, gradients and states among processes; `again` gathers the weights anew for each pass.

    Gradients are summed, never averaged: the loss is divided by the targets of all processes already.
    """
    for block in model.model.layers:
        fully_shard(block, mesh=mesh, reshard_after_forward=again)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)
    for module in _sharded(model):
        module.set_force_sum_reduction_for_comms(True)
        module.set_gradient_divide_factor(1.0)
        module.set_reshard_after_backward(again, recurse=False)


def split_products(model: MiniMind, mesh: DeviceMesh) -> None:
    """Let each process compute some heads of each attention, and some columns of each feed-forward part.

    Embedding, head and norms are held by all.
    """
    columns, rows = ColwiseParallel(), RowwiseParallel()
    columns.src_data_rank = rows.src_data_rank = None  # all have the same weights already
    plan: dict[str, ParallelStyle] = {
        "self_attn": _shared_input(4),
        "mlp": _shared_input(1),
        **{f"self_attn.{name}": columns for name in ("q_proj", "k_proj", "v_proj")},
        **{f"mlp.{name}": columns for name in ("gate_proj", "up_proj")},
        "self_attn.o_proj": rows,
        "mlp.down_proj": rows,
    }
    for block in model.model.layers:
        parallelize_module(block, mesh, plan)


def release(model: MiniMind) -> None:
    """Let go of weights that are gathered still; the next pass gathers them anew."""
    for module in _sharded(model):
        module.reshard()


class Spread:
    """The exchange of parts: FSDP has summed what it shards in the backward pass; the rest is summed here."""

    def __init__(self, model: MiniMind, mesh: DeviceMesh, *, sharding: str) -> None:
        self._model = model
        self._mesh = mesh
        self._sharding = sharding
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        copies = [mesh.size() / _parts(parameter) for parameter in self._trained.values()]
        first = held(next(iter(self._trained.values())))
        self._weights = torch.tensor([1 / math.sqrt(number) for number in copies], device=first.device)

    def gradients(self, loss: Tensor | None) -> Tensor:
        if loss is None:
            raise ValueError("a process without a micro-batch, while the others wait for its part")
        own = [self._gradient(name) for name in self._trained if name.endswith(_OF_OWN_HEADS)]
        if own and self._mesh["tensor"].size() > 1:
            add_up(own, self._mesh.get_group("tensor"))
        if self._mesh["data"].size() > 1:
            rest = [] if self._sharding != "none" else [self._gradient(name) for name in self._trained]
            add_up([*rest, loss], self._mesh.get_group("data"))
        return loss

    def overflow(self, found_inf: Tensor) -> None:
        add_up([found_inf])

    def norm(self, norms: Tensor) -> Tensor:
        """Each part counts once, however many processes hold it."""
        squares = (norms * self._weights).square().sum()
        add_up([squares])
        return squares.sqrt()

    def applied(self) -> None:
        """Let go of weights that stay gathered through a step: they are old now."""
        if self._sharding == "zero2":
            release(self._model)

    def _gradient(self, name: str) -> Tensor:
        gradient = self._trained[name].grad
        if gradient is None:
            raise ValueError(f"{name} has no gradient")
        return held(gradient)


def _shared_input(arguments: int) -> PrepareModuleInput:
    """Take the first input as what all have, so that its gradient is summed once and not by each product."""
    layouts = (Replicate(), *[None] * (arguments - 1))
    return PrepareModuleInput(input_layouts=layouts, desired_input_layouts=layouts)


def _sharded(model: nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _parts(parameter: Tensor) -> int:
    """Count the different parts that a parameter is in."""
    if not is_spread(parameter):
        return 1
    spread: Any = parameter
    sizes: Sequence[int] = spread.device_mesh.shape
    return math.prod(n for n, how in zip(sizes, spread.placements, strict=True) if not isinstance(how, Replicate))
