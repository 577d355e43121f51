"""When the controller works: on a ring of the doorbell, on a timer, until a signal asks it to end."""

import contextlib
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from scheduler.periods import period

BUSY_SECONDS = period(2.0)  # between cycles while something is queued or under way
IDLE_SECONDS = period(10.0)  # otherwise: readings for `mmq gpus`, and a sign of life
RECONCILE_SECONDS = period(15.0)
GAP_SECONDS = 0.05  # between two cycles at least: a thousand submits are not a thousand cycles


class Bell(Protocol):
    def fileno(self) -> int: ...

    def answer(self) -> bool: ...


class Works(Protocol):
    def reconcile(self) -> None: ...

    def cycle(self) -> bool: ...


class Stop:
    """Asked for by SIGTERM or SIGINT; wakes a `select` that waits."""

    def __init__(self) -> None:
        self.requested = False
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        return self._reader.fileno()

    def request(self, *_: object) -> None:
        """Ask, from a signal handler or another thread."""
        self.requested = True
        with contextlib.suppress(BlockingIOError):  # it has been woken often enough
            self._writer.send(b"!")

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen to the signals within; for the main thread."""
        previous = {one: signal.signal(one, self.request) for one in (signal.SIGTERM, signal.SIGINT)}
        wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.close()


def run(controller: Works, bell: Bell, stop: Stop, *, monotonic: Callable[[], float] = time.monotonic) -> None:
    """Work until asked to stop. Never leaves a cycle half done."""
    reconcile_at = cycle_at = monotonic()
    while not stop.requested:
        if monotonic() >= reconcile_at:
            controller.reconcile()
            reconcile_at = monotonic() + RECONCILE_SECONDS
        busy = controller.cycle()
        done = monotonic()
        cycle_at = done + (BUSY_SECONDS if busy else IDLE_SECONDS)
        _wait([stop], done + GAP_SECONDS, monotonic)
        if not stop.requested:
            _wait([stop, bell], min(cycle_at, reconcile_at), monotonic)
            bell.answer()


def _wait(sources: list[Bell | Stop], until: float, monotonic: Callable[[], float]) -> None:
    select.select(sources, [], [], max(0.0, until - monotonic()))
