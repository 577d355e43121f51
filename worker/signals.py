"""Signals to the shim: handlers only append to a list, and the loop drains it. Owns the process's handlers."""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from worker.process import Process

_ENDING = (signal.SIGTERM, signal.SIGINT)


class CaughtSignals:
    """What was sent to us: handlers append, the loop drains."""

    def __init__(self, wakeup: int) -> None:
        self._numbers: list[int] = []
        self._wakeup = wakeup

    def append(self, number: int, _frame: FrameType | None) -> None:
        self._numbers.append(number)

    def drain(self) -> list[int]:
        numbers, self._numbers = self._numbers, []
        return numbers

    def wait(self, process: Process, seconds: float) -> None:
        """Wait for the process's end, a signal, or the time."""
        select.select([process.fileno(), self._wakeup], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup, 4096)


@contextmanager
def caught_signals() -> Iterator[CaughtSignals]:
    """TERM and INT are caught, HUP is ignored; a signal ends a wait."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    caught = CaughtSignals(reading)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in _ENDING:
        signal.signal(number, caught.append)
    try:
        yield caught
    finally:
        signal.set_wakeup_fd(-1)
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)  # from here on the end is written down, whoever wants us gone
        os.close(reading)
        os.close(writing)
