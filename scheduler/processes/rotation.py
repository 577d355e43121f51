"""Logs cut by size while their writers, which need no part in it, go on appending. Standard library only.

What is written between the copy and the cut is lost: a line or two, the price of needing nothing from the writer.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from scheduler.processes.regular import open_regular

BEGINNING_BYTES = 1 << 16  # of a log that is cut within
LEFT_OUT = b"[mmq: lines are left out here, for this log grew too long]\n"


def rotate(path: Path, *, limit_bytes: int, kept: int) -> bool:
    """Move a log's content on to NAME.1 once it is too long, and that of NAME.1 to NAME.2."""
    with contextlib.suppress(OSError):  # a full disk: the log stays as long as it is
        if path.stat().st_size <= limit_bytes:
            return False
        for number in range(kept, 1, -1):
            with contextlib.suppress(FileNotFoundError):
                older(path, number - 1).replace(older(path, number))
        shutil.copyfile(path, older(path))
        older(path).chmod(0o600)
        os.truncate(path, 0)
        return True
    return False


def cut_within(path: Path, *, limit_bytes: int) -> bool:
    """Move half of the limit to NAME.1, of which only the beginning is kept, and a line that says so."""
    with contextlib.suppress(OSError):
        size_bytes = path.lstat().st_size
        moved_bytes = min(size_bytes, limit_bytes // 2) + BEGINNING_BYTES
        if size_bytes <= limit_bytes // 2 or shutil.disk_usage(path.parent).free < moved_bytes:
            return False  # with no room for a copy it is not begun: this is asked every second
        with open_regular(path) as log:
            beginning = _beginning(older(path))
            if size_bytes > limit_bytes:  # nobody has looked for long
                beginning = beginning or _beginning(path)
                log.seek(size_bytes - limit_bytes // 2)
                log.readline(BEGINNING_BYTES)
            _write_older(path, beginning, log)
            os.truncate(f"/proc/self/fd/{log.fileno()}", 0)  # this very file, whatever stands under its name by now
        return True
    return False


def _write_older(path: Path, beginning: bytes, rest: BinaryIO) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(beginning)
            shutil.copyfileobj(rest, file)
        aside.replace(older(path))
    except OSError:
        aside.unlink(missing_ok=True)  # a full disk: what was copied would fill it further
        raise


def older(path: Path, number: int = 1) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _beginning(path: Path) -> bytes:
    """The first lines of an older part, and a line for all the others."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        first = file.read(BEGINNING_BYTES)
        return first[: first.rfind(b"\n") + 1] + LEFT_OUT
    return b""
