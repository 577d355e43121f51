"""How processes learn that one of them was out of memory, and agree on a micro-batch.

Where several were, all learn the largest of each number.
"""

from collections.abc import Sequence
from typing import Protocol, get_args

from trainer.memory.refusal import Refusal
from trainer.steps.step import Phase

PHASES: tuple[Phase, ...] = get_args(Phase)
NUMBERS = ("requested_bytes", "allocated_bytes", "reserved_bytes", "limit_bytes", "needed_bytes")
_NOTHING = -1.0


class Peers(Protocol):
    """As much of a group as this needs."""

    rank: int
    size: int
    spreads: bool

    def most(self, *numbers: float) -> list[float]: ...


def any_refusal(group: Peers, refusal: Refusal | None, names: Sequence[str] = NUMBERS) -> Refusal | None:
    """Return the refusal of any process, with its `rank` where that is not the first; all call it together."""
    numbers = [_NOTHING] * (2 + len(names))
    if refusal is not None:
        sizes = (refusal.get(name) for name in names)
        numbers = [group.rank, PHASES.index(refusal["phase"]), *(_NOTHING if n is None else n for n in sizes)]
    rank, phase, *most = group.most(*numbers)
    if rank == _NOTHING:
        return None
    sizes_by_name = {name: None if size == _NOTHING else int(size) for name, size in zip(names, most, strict=True)}
    return {"phase": PHASES[int(phase)], **sizes_by_name, **({"rank": int(rank)} if rank else {})}


def agree_micro_batch(group: Peers, refused: Refusal | None, micro_batch: int) -> tuple[Refusal | None, int]:
    """Return the refusal of another process with its `micro_batch`, and the smallest micro-batch: all go on with that.

    For processes with a whole model each, which halve by themselves; the first has reported its own refusal already.
    """
    if group.size == 1 or group.spreads:
        return None, micro_batch
    refusal = any_refusal(group, refused, (*NUMBERS, "micro_batch"))
    if refusal is None:
        return None, micro_batch
    return (refusal if "rank" in refusal else None), -int(group.most(-micro_batch)[0])
