"""A rank of data parallelism, alone: what DistributedDataParallel holds on the GPU beside its module.

Gradients are copied into flat buckets to be reduced (torch/csrc/distributed/c10d/reducer.cpp): one of 1 MiB first, then
of 25 MiB, made anew after the first backward pass in the order in which the gradients came.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

_MIB = 1024**2
_FIRST_BUCKET_BYTES = _MIB
_BROADCAST_BYTES = 250 * _MIB


class Replica(nn.Module):
    """Stands in for DistributedDataParallel; reduces nothing, since there is nobody to reduce with."""

    def __init__(
        self,
        module: nn.Module,
        *_: Any,
        bucket_cap_mb: float | None = None,
        gradient_as_bucket_view: bool = False,
        **__: Any,
    ) -> None:
        super().__init__()
        self.module = module
        self.require_backward_grad_sync = True
        self._bucket_bytes = int((25 if bucket_cap_mb is None else bucket_cap_mb) * _MIB)
        self._trained = [p for p in module.parameters() if p.requires_grad]
        self._order: list[Tensor] = []
        self._rebuilt = False
        for group in _groups(module.state_dict().values(), (_BROADCAST_BYTES,)):
            _flat(group)  # the broadcast of rank 0's weights
        self._views: dict[Tensor, Tensor] | None = {} if gradient_as_bucket_view else None
        self._buckets = self._make(self._trained[::-1])
        for parameter in self._trained:
            parameter.register_post_accumulate_grad_hook(self._reduced)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self._rebuilt and len(self._order) >= len(self._trained):
            self._rebuilt = True
            self._buckets.clear()
            if self._views is not None:
                self._views.clear()
            self._buckets = self._make(self._order[: len(self._trained)])
        return self.module(*args, **kwargs)

    def no_sync(self) -> Any:
        from contextlib import nullcontext

        return nullcontext()

    def _reduced(self, parameter: Tensor) -> None:
        """Note the order, and put the gradient into its place in the bucket where that is where it lives."""
        if not self._rebuilt:
            self._order.append(parameter)
        if self._views is not None:
            parameter.grad = self._views[parameter].detach()

    def _make(self, parameters: Iterable[Tensor]) -> list[Tensor]:
        buckets = []
        for group in _groups(parameters, (_FIRST_BUCKET_BYTES, self._bucket_bytes)):
            buckets.append(_flat(group))
            if self._views is not None:
                parts = buckets[-1].split([p.numel() for p in group])
                self._views.update({p: part.view_as(p) for p, part in zip(group, parts, strict=True)})
        return buckets


def _flat(tensors: list[Tensor]) -> Tensor:
    some = tensors[0]
    return torch.empty(sum(t.numel() for t in tensors), dtype=some.dtype, device=some.device)


def _groups(tensors: Iterable[Tensor], limits: tuple[int, ...]) -> list[list[Tensor]]:
    """Fill group after group of one dtype: a group is closed once it reaches its limit."""
    done: list[list[Tensor]] = []
    open_groups: dict[torch.dtype, tuple[list[Tensor], int]] = {}
    closed: dict[torch.dtype, int] = {}
    for tensor in tensors:
        group, size_bytes = open_groups.pop(tensor.dtype, ([], 0))
        group.append(tensor)
        size_bytes += tensor.nbytes
        limit = limits[min(closed.get(tensor.dtype, 0), len(limits) - 1)]
        if size_bytes >= limit:
            done.append(group)
            closed[tensor.dtype] = closed.get(tensor.dtype, 0) + 1
        else:
            open_groups[tensor.dtype] = (group, size_bytes)
    return done + [group for group, _ in open_groups.values()]
