"""Builds a foreign loop and runs some of its steps on the meta device: a log, to be replayed.

Owns the order: build, steps until three optimizer updates are done, and the names of phases and kinds.
"""

import gc
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from trainer.entry.autocast import Autocast
from trainer.entry.kernels import chosen_as_on_cuda
from trainer.entry.log import Log
from trainer.entry.placement import Placement
from trainer.entry.runtime import one_gpu
from trainer.entry.tracing import Tracing
from trainer.entry.unknown import NotTraced, NoUpdate
from trainer.memory.kernels import workspace_bytes

UPDATES = 3  # Adam's moments appear in the first; the peak of a steady loop comes after that
MOST_STEPS = 64

Build = Callable[[], tuple[nn.Module, Callable[[], Any]]]


def trace(
    build: Build,
    *,
    capability: str | None = None,
    total_bytes: int = 80 * 1024**3,
    updates: int = UPDATES,
    uneven: bool = False,
) -> Log:
    """Build the loop and step it until so many updates are done, at least that many times.

    With `uneven`, the router of a mixture of experts sends all to the same ones.
    """
    log = Log()
    tracing = Tracing(log, workspace_bytes=workspace_bytes(capability), uneven=uneven)
    autocast = Autocast()
    was_enabled = gc.isenabled()
    with ExitStack() as scope:
        scope.callback(gc.enable if was_enabled else gc.disable)
        gc.disable()  # a collection in the middle would free at a moment of its own choice
        scope.enter_context(one_gpu(tracing, autocast, total_bytes=total_bytes, capability=capability or "8.0"))
        scope.enter_context(chosen_as_on_cuda(capability))
        scope.enter_context(autocast.registered())
        scope.enter_context(tracing)
        placement = scope.enter_context(Placement(tracing))
        scope.enter_context(placement.also_in_hooks())
        _run(build, tracing, updates)
    log.routed = tracing.values.routed
    return log


def _run(build: Build, tracing: Tracing, updates: int) -> None:
    log = tracing.log
    log.enter("build")
    model, step = build()
    parameters = list(model.parameters())
    _refuse_flat_parameters([*model.modules(), *parameters])
    log.parameters = sum(p.numel() for p in parameters)
    _name_kind(tracing, [*parameters, *model.buffers()], "weights")
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    tracing.vocabulary = max((table.shape[0] for table in tables), default=0)
    counted = _Updates(tracing, parameters)
    with counted:
        for turn in range(MOST_STEPS):
            log.begin_step()
            step()
            gc.collect(0)
            if counted.number >= updates and turn + 1 >= updates:
                break
    log.enter("end")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        log.processes = torch.distributed.get_world_size()
    if not counted.number:
        raise NoUpdate(
            f"the step was run {MOST_STEPS} times, but no torch.optim.Optimizer updated anything: one must,"
            f" at least once in {MOST_STEPS} calls of the step; an optimizer of your own must be a subclass of it"
        )


def _refuse_flat_parameters(parts: list[Any]) -> None:
    """By name, since importing them takes seconds."""
    if any(type(part).__name__ in ("FullyShardedDataParallel", "FlatParameter") for part in parts):
        raise NotTraced(
            "FullyShardedDataParallel can't be traced, because its flat parameters must have values;"
            " fully_shard, its successor in torch, can"
        )


class _Updates:
    """Counts optimizer steps, and names phases and kinds as they come."""

    def __init__(self, tracing: Tracing, parameters: list[nn.Parameter]) -> None:
        self.number = 0
        self._tracing = tracing
        self._parameters = parameters
        self._scope = ExitStack()

    def __enter__(self) -> None:
        from torch.optim import optimizer

        for parameter in self._parameters:
            if parameter.requires_grad:
                hook = parameter.register_post_accumulate_grad_hook(self._accumulated)
                self._scope.callback(hook.remove)
        before = optimizer.register_optimizer_step_pre_hook(self._before)
        after = optimizer.register_optimizer_step_post_hook(self._after)
        self._scope.callback(before.remove)
        self._scope.callback(after.remove)

    def __exit__(self, *_: object) -> None:
        self._scope.close()

    def _accumulated(self, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            _name_kind(self._tracing, [parameter.grad], "gradients")

    def _before(self, optimizer: Any, *_: object) -> None:
        self._tracing.log.enter("optimizer")
        held = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        _name_kind(self._tracing, held, "gradients")  # also where they were put there by hand, as fully_shard does

    def _after(self, optimizer: Any, *_: object) -> None:
        self.number += 1
        held = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
        _name_kind(self._tracing, held, "optimizer")
        self._tracing.log.enter("forward")


def _name_kind(tracing: Tracing, tensors: list[torch.Tensor], kind: str) -> None:
    for tensor in tensors:
        block = tracing.block_of(tensor)
        if block is not None:
            tracing.log.kinds[block] = kind
