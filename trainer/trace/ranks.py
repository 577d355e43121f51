"""One rank of several, rehearsed alone: the trainer's own exchange, over a process group that nobody else is in.

Torch's "fake" backend takes part in every collective and changes nothing; FSDP is told to gather
into meta tensors. Its imports take seconds: only where a footprint is of one rank of several.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trainer.config import PlanConfig
from trainer.processes.group import Alone, Group

if TYPE_CHECKING:
    from trainer.model.minimind import MiniMind


def import_sharding() -> None:
    """Import what a rank that holds a part of the model needs."""
    import trainer.processes.spread  # noqa: F401


@contextmanager
def fake_group(processes: int, plan: PlanConfig) -> Iterator[Group]:
    """Give the group as the first of so many processes sees it."""
    if processes == 1:
        yield Alone()
        return
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from trainer.processes.ranks import Ranks

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        ranks = Ranks()
        yield _spread(ranks, plan) if plan.spreads else ranks
    finally:
        dist.destroy_process_group()


def _spread(ranks: Any, plan: PlanConfig) -> Group:
    from torch.distributed.fsdp import FSDPModule

    from trainer.processes.spread import SpreadRanks

    class OnMeta(SpreadRanks):
        def spread(self, model: "MiniMind") -> None:
            super().spread(model)
            for module in model.modules():
                if isinstance(module, FSDPModule):
                    _gather_into_meta(module)

    return OnMeta(ranks, plan, _Meta())


def _gather_into_meta(module: Any) -> None:
    """Let FSDP run on parameters without values, which it refuses, and on its device, which is not theirs."""
    from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

    def allocate(size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device="meta")

    gather, scatter = DefaultAllGather(), DefaultReduceScatter()
    gather.allocate = scatter.allocate = allocate
    module.set_custom_all_gather(gather)
    module.set_custom_reduce_scatter(scatter)
    for group in module._get_fsdp_state()._fsdp_param_groups:
        group._validate_no_meta_params = _accept


def _accept() -> None:
    """All is well."""


class _Meta:
    """As much of a device as laying out a model needs."""

    torch_device = torch.device("meta")

    def to_device(self, tensor: Tensor) -> Tensor:
        return tensor.clone()
