"""Several processes through torch.distributed: NCCL between GPUs, gloo between CPUs and for the words of hosts."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.errors import LostProcess

BUCKET_BYTES = 25 * 1024**2  # gradients are sent in pieces of about this size: few calls, little extra memory


class Ranks:
    """Joins at once, and waits for the others to do so; the environment says who they are."""

    def __init__(self) -> None:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            _all_reduce(flat)
            for tensor, summed in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def sums(self, *numbers: float) -> list[float]:
        told = torch.tensor(numbers, dtype=torch.float64)
        _all_reduce(told)
        return [float(number) for number in told]

    def wait(self) -> None:
        self.sums(0.0)  # a barrier of gloo's: NCCL's would hold the device

    @contextmanager
    def first_first(self) -> Iterator[None]:
        if self.rank > 0:
            self.wait()
        yield
        if self.rank == 0:
            self.wait()

    def close(self) -> None:
        dist.destroy_process_group()


def _all_reduce(tensor: Tensor) -> None:
    try:
        dist.all_reduce(tensor)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise LostProcess(f"another process of this run has gone; its own output says why ({reason})") from None


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Cut a list of tensors into pieces of one dtype and about one size."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(one.nbytes for one in bucket) + tensor.nbytes > BUCKET_BYTES
        if bucket and (full or bucket[0].dtype != tensor.dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
