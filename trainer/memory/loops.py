"""Loops whose number of iterations depends on the batch, made visible to a trace.

Owns the seam: a loop cuts its rows with `chunks`, and a trace that listens sees where each chunk begins. So the tracer
knows a long loop from three iterations. Without a listener this is only a range.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Listener(Protocol):
    """What a trace does at a loop."""

    def loop_begins(self, total: int, size: int) -> int:
        """Take note of a loop over `total` rows in chunks of `size`; answer with the size to use instead."""

    def chunk_begins(self, rows: int) -> None: ...

    def loop_ends(self) -> None: ...


_listener: ContextVar[Listener | None] = ContextVar("loop_listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def chunks(total: int, size: int) -> Iterator[slice]:
    """Cut `total` rows into slices of at most `size`."""
    listener = _listener.get()
    if listener is not None:
        size = listener.loop_begins(total, size)
    for start in range(0, total, size):
        chunk = slice(start, min(start + size, total))
        if listener is not None:
            listener.chunk_begins(chunk.stop - chunk.start)
        yield chunk
    if listener is not None:
        listener.loop_ends()
