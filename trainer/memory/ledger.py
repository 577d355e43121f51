"""The ledger of a virtual device: a directory where each process writes what it holds there.

Owns the format: `lock` (flock) and `<pid>-<start ticks>` with the decimal bytes held. A dead process holds nothing,
whatever its file says. Others read the files without the lock: a change of number is one write of fixed width.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATE, _START_TICKS = 0, 19  # fields 3 and 22 of /proc/PID/stat, counted after the command's name


class Ledger:
    """The part of a virtual device that this process may take; a `Capacity` for its segments."""

    def __init__(self, directory: Path, *, total_bytes: int, limit_bytes: int | None) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.total_bytes = total_bytes
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._directory = directory
        self._entry = directory / f"{os.getpid()}-{_start_ticks(os.getpid())}"
        with self._locked():
            self._sweep()
            self._create_entry()

    def take(self, size_bytes: int) -> bool:
        """Take so much if neither the device nor our own limit is passed."""
        with self._locked():
            held_bytes = self.held_bytes + size_bytes
            if self.limit_bytes is not None and held_bytes > self.limit_bytes:
                return False
            if held_bytes + self._others_bytes() > self.total_bytes:
                return False
            self._write(held_bytes)
            return True

    def give_back(self, size_bytes: int) -> None:
        with self._locked():
            self._write(self.held_bytes - size_bytes)

    def _others_bytes(self) -> int:
        return sum(int(path.read_text()) for path in self._entries() if path != self._entry and _lives(path))

    def _entries(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if path.name.replace("-", "").isdecimal()]

    def _sweep(self) -> None:
        for path in self._entries():
            if not _lives(path):
                path.unlink()

    def _create_entry(self) -> None:
        """Put the entry there whole: a reader never sees an empty one."""
        new = self._directory / f".{self._entry.name}"
        new.write_text(_number(0))
        new.replace(self._entry)

    def _write(self, held_bytes: int) -> None:
        with self._entry.open("r+") as file:
            file.write(_number(held_bytes))
        self.held_bytes = held_bytes

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._directory / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _number(held_bytes: int) -> str:
    return f"{held_bytes:020d}"


def _lives(entry: Path) -> bool:
    pid, _, ticks = entry.name.partition("-")
    return _start_ticks(int(pid)) == ticks


def _start_ticks(pid: int) -> str | None:
    """Tell when a process started, in kernel ticks since boot; None if it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[_STATE] in "ZX" else fields[_START_TICKS]
