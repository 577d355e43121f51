"""What others do, to be compared with: micro-batches stay as users set them, and a start is for good."""

from collections.abc import Callable, Iterator

from scheduler.simulation.knowledge import Known
from scheduler.simulation.moves import Move, Refuse, Start, View


def in_turn(known: Known) -> tuple[float, int]:
    return known.told.submit_seconds, known.job_id


def shortest_first(known: Known) -> tuple[float, int]:
    return known.estimate_seconds, known.job_id


class WholeDevices:
    """One job a device; the next by `order`."""

    def __init__(self, order: Callable[[Known], tuple[float, int]]) -> None:
        self._order = order

    def moves(self, view: View) -> Iterator[Move]:
        free = {number: seat.usable_bytes for number, seat in enumerate(view.seats) if not seat.residents}
        largest = max(seat.usable_bytes for seat in view.seats)
        for known in sorted(view.queue, key=self._order):
            if set_by_user(known, largest) is None:
                yield Refuse(known.job_id)
                continue
            fitting = [(number, size) for number, usable in free.items() if (size := set_by_user(known, usable))]
            if fitting:
                number, micro_batch = fitting[0]
                yield Start(known.job_id, number, micro_batch, free.pop(number))
            if not free:
                break


class FirstFit:
    """In turn, onto the first device where what the user declares is free; onto an empty one whatever it declares.

    Nothing holds a job to what was declared for it: one that needs more takes it.
    """

    def moves(self, view: View) -> Iterator[Move]:
        free = [seat.free_bytes for seat in view.seats]
        empty = [not seat.residents for seat in view.seats]
        largest = max(seat.usable_bytes for seat in view.seats)
        for known in sorted(view.queue, key=in_turn):
            if set_by_user(known, largest) is None:
                yield Refuse(known.job_id)
                continue
            for number, seat in enumerate(view.seats):
                micro_batch = set_by_user(known, seat.usable_bytes)
                wanted = min(known.told.declared_bytes, seat.usable_bytes)
                if micro_batch is not None and (wanted <= free[number] or empty[number]):
                    yield Start(known.job_id, number, micro_batch, max(wanted, known.bytes_at(micro_batch)))
                    free[number] -= wanted
                    empty[number] = False
                    break


def set_by_user(known: Known, usable_bytes: int) -> int | None:
    """Return the micro-batch of the user, halved until it fits a device of this size; None where not even 1 does."""
    micro_batch = min(known.told.user_micro_batch, known.told.wish.effective_batch)
    while known.bytes_at(micro_batch) > usable_bytes:
        if micro_batch == 1:
            return None
        micro_batch = (micro_batch + 1) // 2
    return micro_batch
