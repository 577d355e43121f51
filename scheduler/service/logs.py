"""The service's log files: one for each child, appended to by it, cut by size. Owns settings.log_dir."""

import contextlib
import os
import shutil
from pathlib import Path

from scheduler.processes.loglines import message_of

LOG_BYTES = 8 * 1024**2
KEPT = 2  # older files of each


def open_log(path: Path) -> int:
    """A descriptor for a child to append to; private."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def rotate(path: Path, *, limit_bytes: int = LOG_BYTES) -> bool:
    """Move a log's content on to NAME.1 once it is too long; its writer goes on appending to the emptied file.

    What is written between the copy and the cut is lost: a line or two, for never having to talk to the writer.
    """
    with contextlib.suppress(OSError):  # a full disk: the log stays as long as it is
        if path.stat().st_size <= limit_bytes:
            return False
        for number in range(KEPT, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                _older(path, number - 1).replace(_older(path, number))
        shutil.copyfile(path, _older(path, 1))
        _older(path, 1).chmod(0o600)
        os.truncate(path, 0)
        return True
    return False


def last_line(path: Path) -> str:
    """What the last line that says something says, for a person to read."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return "".join(c for c in message_of(lines[-1])[:500] if c.isprintable()) if lines else ""
    return ""


def _older(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
