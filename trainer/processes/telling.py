"""What a process of several was refused, told to all: where it was more than one, the most of each number."""

from collections.abc import Sequence
from typing import Protocol, get_args

from trainer.memory.refusal import Refusal
from trainer.steps.step import Phase

PHASES: tuple[Phase, ...] = get_args(Phase)
NUMBERS = ("requested_bytes", "allocated_bytes", "reserved_bytes", "limit_bytes", "needed_bytes")
_NOTHING = -1.0


class Telling(Protocol):
    """As much of a group as this needs."""

    rank: int
    size: int
    spreads: bool

    def most(self, *numbers: float) -> list[float]: ...


def tell(group: Telling, refusal: Refusal | None, names: Sequence[str] = NUMBERS) -> Refusal | None:
    """Give what was refused in any process, with its `rank` where that is not the first; all call it together."""
    numbers = [_NOTHING] * (2 + len(names))
    if refusal is not None:
        sizes = (refusal.get(name) for name in names)
        numbers = [group.rank, PHASES.index(refusal["phase"]), *(_NOTHING if n is None else n for n in sizes)]
    rank, phase, *most = group.most(*numbers)
    if rank == _NOTHING:
        return None
    told = {name: None if size == _NOTHING else int(size) for name, size in zip(names, most, strict=True)}
    return {"phase": PHASES[int(phase)], **told, **({"rank": int(rank)} if rank else {})}


def agree(group: Telling, refused: Refusal | None, micro_batch: int) -> tuple[Refusal | None, int]:
    """Hear what a process was refused with its `micro_batch`, and with which all go on: the smallest that one has.

    Of processes with a whole model each, which halve by themselves; what the first was refused it has told already.
    """
    if group.size == 1 or group.spreads:
        return None, micro_batch
    told = tell(group, refused, (*NUMBERS, "micro_batch"))
    if told is None:
        return None, micro_batch
    return (told if "rank" in told else None), -int(group.most(-micro_batch)[0])
