"""The service's log files: one for each child, appended to by it, cut by size. Owns settings.log_dir."""

import contextlib
import os
from pathlib import Path

from scheduler.processes import rotation
from scheduler.processes.loglines import message_of

LOG_BYTES = 8 * 1024**2
KEPT = 2  # older files of each


def open_log(path: Path) -> int:
    """A descriptor for a child to append to; private."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def rotate(path: Path) -> bool:
    """Begin a new log once this one is too long; some older files are kept."""
    return rotation.rotate(path, limit_bytes=LOG_BYTES, kept=KEPT)


def last_line(path: Path) -> str:
    """The message of the last line that is not blank, for a person to read."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return "".join(c for c in message_of(lines[-1])[:500] if c.isprintable()) if lines else ""
    return ""
