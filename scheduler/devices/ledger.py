"""Who holds how much of a virtual device: a directory with one file a process, written by the trainers.

`<ledger>/<pid>-<start time in ticks>` holds a decimal number of bytes. Entries of processes that have ended don't
count. Only reads: the trainer takes the lock and writes.
"""

from dataclasses import dataclass
from pathlib import Path

from scheduler.processes.liveness import process_started


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """The live entries of a ledger, and the names of live entries that hold no number."""

    processes: tuple[tuple[int, int], ...]
    unreadable: tuple[str, ...]

    @property
    def used_bytes(self) -> int:
        return sum(held for _, held in self.processes)


def read_ledger(directory: Path) -> Holdings:
    """Read the entries of all live processes; a ledger that does not exist is empty."""
    processes, unreadable = [], []
    for path in sorted(directory.glob("*-*")):
        pid, ticks = _owner(path.name)
        if pid is None or process_started(pid) != ticks:
            continue
        held = _held_bytes(path)
        if held is None and process_started(pid) == ticks:
            unreadable.append(path.name)
        elif held is not None:
            processes.append((pid, held))
    return Holdings(processes=tuple(processes), unreadable=tuple(unreadable))


def _owner(name: str) -> tuple[int, int] | tuple[None, None]:
    pid, _, ticks = name.partition("-")
    return (int(pid), int(ticks)) if pid.isdecimal() and ticks.isdecimal() else (None, None)


def _held_bytes(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:  # given back since the directory was listed
        return 0
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None
