"""Whether the broker answers, asked without Redis's client and never for longer than the limit.

Owns one question, for `mmq submit` and for whoever is about to publish. Standard library only.
"""

import contextlib
import socket
import threading
import time

from scheduler.broker.address import Address, broker_address
from scheduler.config import Settings

WANTS_A_PASSWORD = (b"-NOAUTH", b"-NOPERM")


def reachable(settings: Settings, *, limit_seconds: float = 0.3) -> bool:
    """Send a PING; True if the broker can take messages, or wants a password first. One that still loads can't."""
    address = broker_address(settings)
    if address.path is not None:
        return _answers(address, limit_seconds)
    # A host name's look-up can't be limited, so the thread is abandoned when it takes too long.
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(_answers(address, limit_seconds)), daemon=True)
    thread.start()
    thread.join(limit_seconds)
    return any(answers)


def _answers(address: Address, limit_seconds: float) -> bool:
    deadline = time.monotonic() + limit_seconds
    with contextlib.suppress(OSError), _connect(address, limit_seconds) as broker:
        if address.url.startswith("rediss:"):
            return True  # it accepts; a TLS handshake is more than we want to load for this
        broker.settimeout(max(0.001, deadline - time.monotonic()))
        broker.sendall(b"PING\r\n")
        with broker.makefile("rb") as answers:
            return answers.readline(200).startswith((b"+PONG", *WANTS_A_PASSWORD))
    return False


def _connect(address: Address, limit_seconds: float) -> socket.socket:
    if address.path is None:
        return socket.create_connection((address.host, address.port), timeout=limit_seconds)
    broker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        broker.settimeout(limit_seconds)
        broker.connect(address.path)
    except OSError:
        broker.close()
        raise
    return broker
