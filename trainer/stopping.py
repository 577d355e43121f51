"""SIGTERM asks a run to stop after its step; SIGHUP, sent when a terminal closes, is no reason to."""

import signal
from types import FrameType

from trainer.errors import Stopped


class StopRequest:
    """Truthy once SIGTERM has arrived. The handler only notes it; the loop acts."""

    def __init__(self) -> None:
        self._requested = False

    def listen(self) -> None:
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def __bool__(self) -> bool:
        return self._requested

    def check(self) -> None:
        """End a phase in which nothing needs saving."""
        if self._requested:
            raise Stopped("stopped before the first step; nothing to save")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._requested = True
