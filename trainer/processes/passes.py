"""A pass in which processes need each other, and one of them has no memory for it: they leave it together.

A process that has left a pass in the middle makes it again, with a row of padding and so in hardly any memory, only for
its exchanges: FSDP's come in an order, and in sizes, that no row has a part in. Those in which it took part already go
by, in the rest it meets the others. Nothing of such a pass is kept; its end is where all can be told.
"""

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

from trainer.memory.refusal import Refusal
from trainer.model.minimind import MiniMind
from trainer.processes.agreement import Peers, any_refusal


class Exchanges:
    """Counts those of a pass; of one that is made again, those go by in which this process took part before."""

    def __init__(self) -> None:
        self.is_again = False
        self._number = self._taken = 0

    def begin(self) -> None:
        self.is_again = False
        self._number = self._taken = 0

    def begin_again(self) -> None:
        self.is_again = True
        self._number = 0

    def is_due(self) -> bool:
        """Count one more, and say whether to take part in it."""
        self._number += 1
        if self._number <= self._taken:
            return False
        self._taken = self._number
        return True


class Passes:
    """The passes of one divided model, from its `fully_shard` on."""

    def __init__(self, model: MiniMind, group: Peers) -> None:
        self._model: Any = model
        self._group = group
        self._exchanges = Exchanges()
        self._gathers: list[_Gather] = []
        for module in model.modules():
            if isinstance(module, FSDPModule):
                self._gathers.append(_Gather(self._exchanges, module))
                module.set_custom_all_gather(self._gathers[-1])
                module.set_custom_reduce_scatter(_Scatter(self._exchanges))

    def begin(self) -> None:
        """Begin a pass: forward, or forward and backward, of one micro-batch."""
        self._exchanges.begin()
        for gather in self._gathers:
            gather.begin()

    def end(self, refusal: Refusal | None, repeat: Callable[[], None]) -> Refusal | None:
        """End it with the others: None, or what this process or another was refused, and then nothing of it is left.

        `repeat` makes a pass of the same kind with a row of padding.
        """
        if refusal is not None:
            self._forsake()
            self._exchanges.begin_again()
            repeat()
        common = any_refusal(self._group, refusal)
        if common is not None:
            self._forsake()
        return common

    def _forsake(self) -> None:
        """Drop what was gathered and all gradients, those of gathered weights too, which nothing else would."""
        for parameter in self._model.parameters():
            parameter.grad = None
        if self._model._get_fsdp_state()._is_root:  # known from the first forward on: before it nothing was gathered
            self._model.reset_iter_state()


class _Gather(DefaultAllGather):
    def __init__(self, exchanges: Exchanges, module: Any) -> None:
        super().__init__()
        self._exchanges = exchanges
        self._groups = module._get_fsdp_state()._fsdp_param_groups
        self._was_done = False  # before the pass, so that none of the processes gathers these weights in it

    def begin(self) -> None:
        self._was_done = all(group.is_unsharded for group in self._groups)

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, async_op: bool = False
    ) -> Any:
        is_none = self._exchanges.is_again and self._was_done
        if is_none or not self._exchanges.is_due():
            return None
        return super().__call__(output_tensor, input_tensor, group, async_op)


class _Scatter(DefaultReduceScatter):
    def __init__(self, exchanges: Exchanges) -> None:
        super().__init__()
        self._exchanges = exchanges

    def __call__(
        self, output_tensor: Tensor, input_tensor: Tensor, group: dist.ProcessGroup, op: Any, async_op: bool = False
    ) -> Any:
        return super().__call__(output_tensor, input_tensor, group, op, async_op) if self._exchanges.is_due() else None
