"""The controller's doorbell: a unix datagram socket. A ring says "look at the store", and nothing else.

Owns both ends. A ring carries no content, may be lost, doubled or forged, and does no harm.
Standard library only: `mmq submit` and the shim load this.
"""

import contextlib
import socket
from types import TracebackType

from scheduler.broker.sockets import bind_private, create_sockets_dir
from scheduler.config import Settings


def ring(settings: Settings) -> bool:
    """Ring, never wait; False if nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        bell.setblocking(False)
        try:
            bell.sendto(b"!", str(settings.doorbell_socket))
        except BlockingIOError:
            return True  # so many unanswered rings lie there that it will look anyway
        except OSError:
            return False
    return True


class Doorbell:
    """The listening end: has a `fileno()`, so it can be selected on."""

    def __init__(self, bell: socket.socket) -> None:
        self._bell = bell

    @classmethod
    def listen(cls, settings: Settings) -> "Doorbell":
        """Take the address over from whoever had it; there is one controller a home, and its lock says so."""
        create_sockets_dir(settings)
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            bell.setblocking(False)
            bind_private(bell, settings.doorbell_socket)
        except OSError:
            bell.close()
            raise
        return cls(bell)

    def fileno(self) -> int:
        return self._bell.fileno()

    def answer(self) -> bool:
        """Take all rings off the socket; whether there was one."""
        rang = False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._bell.recv(16)
                rang = True
        return rang

    def close(self) -> None:
        """Close; the socket's file stays, because by now it may be a successor's."""
        self._bell.close()

    def __enter__(self) -> "Doorbell":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
