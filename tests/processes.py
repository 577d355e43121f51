"""Processes as a test sees them from outside: waited for, killed, what they listen on and hold of a virtual device."""

import contextlib
import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from scheduler.processes.liveness import process_started

PATIENCE_SECONDS = 150.0  # for a machine that has other things to do
Seen = TypeVar("Seen")


def until(
    look: Callable[[], Seen], what: str = "something to see", *, within_seconds: float = PATIENCE_SECONDS
) -> Seen:
    """Look until there is something to see."""
    deadline = time.monotonic() + within_seconds
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {within_seconds:.0f} s: {what}"
        time.sleep(0.02)
    return seen


def gone(pid: int | None) -> bool:
    assert pid is not None
    return process_started(pid) is None


def is_stopped(pid: int) -> bool:
    """Whether it stands still by a signal, with all its threads."""
    states = (_read(str(task)).rpartition(") ")[2][:1] for task in Path(f"/proc/{pid}/task").glob("*/stat"))
    return all(state in {"T", ""} for state in states)


def kill(pid: int | None) -> None:
    """Kill -9, and wait until it is gone."""
    assert pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    until(lambda: gone(pid), f"the end of {pid}")


def children_of(service: int) -> dict[str, int]:
    """The living parts of a service by name. One that is being started runs no program of its own yet, and is none."""
    found, itself = {}, _command(service)
    for child in _read(f"/proc/{service}/task/{service}/children").split():
        words = _command(int(child))
        if words[0] and words != itself and not gone(int(child)):
            found[words[3].rpartition(".")[2] if "-m" in words else "broker"] = int(child)
    return found


def _command(pid: int) -> list[str]:
    return _read(f"/proc/{pid}/cmdline").split("\0")


def _read(path: str) -> str:
    """What the kernel tells there; nothing of who has just ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(path).read_text()
    return ""


def modes(folder: Path) -> dict[Path, int]:
    """Everything below it with its mode, but for links, and for what makes way while we look."""
    found = {}
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in (*folders, *files)):
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.lstat().st_mode
    return {path: mode for path, mode in found.items() if not stat.S_ISLNK(mode)}


def network_sockets(*pids: int) -> set[str]:
    """Their sockets of an internet address, whether they listen or are connected."""
    links = set()
    for fd in (fd for pid in pids for fd in Path(f"/proc/{pid}/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            links.add(str(fd.readlink()))
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6", "udp", "udp6", "raw")]
    return links & {f"socket:[{line.split()[9]}]" for table in tables for line in table}


def hold(ledger: Path, pid: int, size_bytes: int) -> Path:
    """Write down that a process holds memory of a virtual device, as a trainer does."""
    ledger.mkdir(parents=True, exist_ok=True)
    entry = ledger / f"{pid}-{process_started(pid)}"
    entry.write_text(f"{size_bytes:020d}")
    return entry


@contextlib.contextmanager
def memory_taken(ledger: Path, size_bytes: int) -> Iterator[None]:
    """Hold memory of a virtual device, as somebody else's process would: this one."""
    entry = hold(ledger, os.getpid(), size_bytes)
    try:
        yield
    finally:
        entry.unlink()
