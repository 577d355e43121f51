"""Several processes through torch.distributed: NCCL between GPUs, gloo between CPUs and for the words of hosts."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.linalg import vector_norm

from trainer.errors import LostProcess
from trainer.model.minimind import MiniMind

BUCKET_BYTES = 25 * 1024**2  # gradients are sent in pieces of about this size: few calls, little extra memory


class Ranks:
    """Each with the whole model. Joins at once, and waits for the others; the environment says who they are."""

    spreads = False
    passes = None

    def __init__(self, host: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self._host = host
        if not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        self.rank, self.size = self.share, self.shares = dist.get_rank(), dist.get_world_size()

    def spread(self, model: MiniMind) -> None:
        """Each holds all of it."""

    def exchange(self, model: MiniMind) -> "Replicas":
        return Replicas(model)

    def rest(self, model: MiniMind) -> None:
        """Nothing was."""

    def sums(self, *numbers: float) -> list[float]:
        return self._joined(numbers, dist.ReduceOp.SUM)

    def most(self, *numbers: float) -> list[float]:
        return self._joined(numbers, dist.ReduceOp.MAX)

    def _joined(self, numbers: tuple[float, ...], how: Any) -> list[float]:
        with self._host():
            joined = torch.tensor(numbers, dtype=torch.float64)
            _all_reduce(joined, how=how)
            return [float(number) for number in joined]

    def wait(self) -> None:
        self.sums(0.0)  # a barrier of gloo's: NCCL's would hold the device

    @contextmanager
    def first_first(self) -> Iterator[None]:
        if self.rank > 0:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Take leave of the others at the end, but not after an error: they see us go once we have said why."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if _is_of_network(error):
                raise _lost(error) from None
            raise
        dist.destroy_process_group()


class Replicas:
    """Whole models, alike in all processes: gradients are added up once a step, and then everything is the same."""

    def __init__(self, model: MiniMind) -> None:
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(self, loss: Tensor | None) -> Tensor:
        for parameter in self.trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        total = torch.zeros((), device=self.trained[0].device) if loss is None else loss
        add_up([*(parameter.grad for parameter in self.trained if parameter.grad is not None), total])
        return total

    def overflow(self, found_inf: Tensor) -> None:
        """All have seen the same gradients."""

    def norm(self, norms: Tensor) -> Tensor:
        return vector_norm(norms)

    def applied(self) -> None:
        """All have applied the same."""


def add_up(tensors: Iterable[Tensor], processes: dist.ProcessGroup | None = None) -> None:
    """Replace tensors by their sums over some processes, or all."""
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        _all_reduce(flat, processes)
        for tensor, summed in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(summed.view_as(tensor))


def _all_reduce(tensor: Tensor, processes: dist.ProcessGroup | None = None, how: Any = dist.ReduceOp.SUM) -> None:
    try:
        dist.all_reduce(tensor, how, group=processes)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise _lost(error) from None


def _is_of_network(error: RuntimeError) -> bool:
    """Say whether it comes from between the processes: FSDP and DTensor speak with the others, too."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _lost(error: RuntimeError) -> LostProcess:
    reason = str(error).splitlines()[0]
    return LostProcess(f"another process of this run has gone; its own output says why ({reason})")


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Cut a list of tensors into pieces of one dtype and about one size."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(gradient.nbytes for gradient in bucket) + tensor.nbytes > BUCKET_BYTES
        if bucket and (full or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
