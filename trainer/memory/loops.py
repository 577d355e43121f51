"""Loops whose number of turns depends on the batch, made visible to a trace.

Owns the seam: a loop cuts its rows with `pieces`, and a trace that listens sees where each piece begins. So the tracer
knows a long loop from three turns of it. Without a listener this is only a range.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """What a trace does at a loop."""

    def loop_begins(self, count: int, size: int) -> int:
        """Take note of a loop over `count` rows in pieces of `size`; answer with the size to use instead."""

    def piece_begins(self, rows: int) -> None: ...

    def loop_ends(self) -> None: ...


_listener: ContextVar[Listener | None] = ContextVar("loop_listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def pieces(count: int, size: int) -> Iterator[slice]:
    """Cut `count` rows into slices of at most `size`."""
    listener = _listener.get()
    if listener is not None:
        size = listener.loop_begins(count, size)
    for start in range(0, count, size):
        piece = slice(start, min(start + size, count))
        if listener is not None:
            listener.piece_begins(piece.stop - piece.start)
        yield piece
    if listener is not None:
        listener.loop_ends()
