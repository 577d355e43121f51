"""One controller a home, and one a host and store: a lock that dies with its holder."""

import contextlib
import os
from collections.abc import Iterator

from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.processes.liveness import process_started
from scheduler.processes.locks import take_lock
from scheduler.store import heartbeats
from scheduler.store.database import Reader


@contextlib.contextmanager
def sole_controller(settings: Settings) -> Iterator[None]:
    """Hold the home's controller lock; MmqError naming the holder if another process has it."""
    settings.create_home()
    path = settings.home / "controller.lock"
    descriptor = take_lock(path)
    if descriptor is None:
        raise _taken(path.read_text().strip() or "unknown", str(settings.home))
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def component(settings: Settings) -> str:
    return f"controller@{settings.host}"


def refuse_second(db: Reader, settings: Settings) -> None:
    """Raise MmqError if a controller of another home, alive on this host, serves the same store."""
    for beat in heartbeats.all(db):
        alive = beat.pid != os.getpid() and process_started(beat.pid) == beat.pid_started
        if beat.component == component(settings) and alive:
            raise _taken(str(beat.pid), settings.database_url.rpartition("@")[2])


def _taken(pid: str, place: str) -> MmqError:
    return MmqError(f"a controller is already running for {place}: pid {pid}", hint="mmq down")
