"""The processes that train one run together, one a device: as torchrun starts them, or one alone.

Each takes its share of every optimizer step's rows; gradients are added up before the update, so all stay alike. Owns
who does what: the first writes, all compute. Imports torch.distributed only where there are several.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from trainer.config import PlanConfig
from trainer.data.batches import Row
from trainer.errors import BadConfiguration
from trainer.memory.device import Device
from trainer.memory.refusal import Refusal
from trainer.model.minimind import MiniMind
from trainer.processes.launched import world_size
from trainer.steps.step import Exchange


class Passes(Protocol):
    """The passes in which processes need each other, as far as they can leave one together."""

    def begin(self) -> None:
        """Begin a pass: forward, or forward and backward, of one micro-batch."""

    def end(self, refusal: Refusal | None, repeat: Callable[[], None]) -> Refusal | None:
        """End it with the others: None, or what this process or another was refused, and then nothing of it is left.

        `repeat` makes a pass of the same kind with a row of padding.
        """


class Group(Protocol):
    rank: int
    size: int
    share: int  # which share of a step's rows is this process's; those that split products have the same
    shares: int
    spreads: bool  # each holds a part of the model only: they need each other in every forward pass

    @property
    def passes(self) -> Passes | None:
        """Known once the model is spread; None: they need each other in no pass, or can't leave one."""

    def spread(self, model: MiniMind) -> None:
        """Leave of a model on the host what this process is to hold, on its device."""

    def exchange(self, model: MiniMind) -> Exchange | None:
        """Give what joins the processes in each optimizer step."""

    def rest(self, model: MiniMind) -> None:
        """Let go of what was gathered for passes that no update follows."""

    def sums(self, *numbers: float) -> list[float]:
        """Add up numbers of the host over all processes."""

    def most(self, *numbers: float) -> list[float]:
        """Give the largest of each over all processes."""

    def wait(self) -> None:
        """Wait until all processes have come here."""

    def first_first(self) -> AbstractContextManager[None]:
        """Let the first process do something before the others do, so that they find it done."""


class Alone:
    rank, size = 0, 1
    share, shares = 0, 1
    spreads = False
    passes = None

    def spread(self, model: MiniMind) -> None:
        """All of it is held here."""

    def exchange(self, model: MiniMind) -> Exchange | None:
        return None

    def rest(self, model: MiniMind) -> None:
        """Nothing was."""

    def sums(self, *numbers: float) -> list[float]:
        return list(numbers)

    def most(self, *numbers: float) -> list[float]:
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
    """Give this process its rows of an optimizer step."""
    return shares(rows, group)[group.share]


def shares(rows: Sequence[Row], group: Group) -> list[list[Row]]:
    """Give each process its rows of an optimizer step: dealt out by length, so that all have as much to do."""
    if group.shares == 1:
        return [list(rows)]
    dealt = sorted(rows, key=lambda row: -len(row.tokens))
    return [dealt[number :: group.shares] for number in range(group.shares)]


@contextmanager
def open_group(plan: PlanConfig, device: Device) -> Iterator[Group]:
    """Join the processes that torchrun has started, if it was torchrun."""
    size = world_size()
    if size % plan.tensor_parallel:
        raise BadConfiguration(
            f"plan.tensor_parallel: {plan.tensor_parallel} processes are to split each product, and there are {size}"
            "\nhint: torchrun --nproc-per-node a multiple of plan.tensor_parallel"
        )
    if size == 1:
        yield Alone()
        return
    from trainer.processes.ranks import Ranks

    ranks = Ranks(device.host)
    with ranks.joined():
        if plan.spreads:
            from trainer.processes.spread import SpreadRanks  # FSDP and DTensor take two seconds to import

            yield SpreadRanks(ranks, plan, device)
        else:
            yield ranks
