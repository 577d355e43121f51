"""The processes that train one run together, one a device: as torchrun starts them, or one alone.

Each holds the whole model and takes its share of every optimizer step's rows; gradients are added up before the update,
so all stay alike. Owns who does what: the first writes, all compute. Imports torch.distributed only where there are
several.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from torch import Tensor

from trainer.data.batches import Row
from trainer.processes.launched import world_size


class Group(Protocol):
    rank: int
    size: int

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace tensors on the device by their sums over all processes, which are the same everywhere."""

    def sums(self, *numbers: float) -> list[float]:
        """Add up numbers of the host over all processes."""

    def wait(self) -> None:
        """Wait until all processes have come here."""

    def first_first(self) -> AbstractContextManager[None]:
        """Let the first process do something before the others do, so that they find it done."""


class Alone:
    rank, size = 0, 1

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """There is nothing to add."""

    def sums(self, *numbers: float) -> list[float]:
        return list(numbers)

    def wait(self) -> None:
        """There is nobody to wait for."""

    @contextmanager
    def first_first(self) -> Iterator[None]:
        yield


def any_of(group: Group, flag: bool) -> bool:
    """Say whether the flag is set in any process: they must take the same turns."""
    return group.sums(float(flag))[0] > 0


def share(rows: Sequence[Row], group: Group) -> list[Row]:
    """Give this process its rows of an optimizer step: dealt out by length, so that all have as much to do."""
    if group.size == 1:
        return list(rows)
    return sorted(rows, key=lambda row: -len(row.tokens))[group.rank :: group.size]


@contextmanager
def open_group() -> Iterator[Group]:
    """Join the processes that torchrun has started, if it was torchrun."""
    if world_size() == 1:
        yield Alone()
        return
    from trainer.processes.ranks import Ranks

    ranks = Ranks()
    try:
        yield ranks
    finally:
        ranks.close()
