"""Files that are complete or absent, whatever kills us in between: write aside, fsync, rename, fsync the parent.

Owns that order and the error when the disk is full. Must not know what is written.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import DiskFull

RECORD_BYTES = 4 << 20
_ASIDE = ".tmp-"


def write_file(path: Path, content: bytes) -> None:
    """Put one whole file in place."""
    aside = path.with_name(_ASIDE + path.name)
    with _room_for(path):
        aside.unlink(missing_ok=True)  # a link there would lead the content elsewhere
        with aside.open("xb") as file:
            file.write(content)
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory to fill; on a clean exit it takes its place at `path`, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{_ASIDE}{path.name}-{os.getpid()}")
    with _room_for(path):
        try:
            aside.mkdir()
            yield aside
            for file in aside.iterdir():
                _sync(file)
            _sync(aside)
            remove(path)  # damaged, or of a run that was set back: the new one is better
            aside.replace(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Remove what a killed process left half-written."""
    for leftover in parent.glob(f"{_ASIDE}*"):
        remove(leftover)


def remove(path: Path) -> None:
    """Remove a file or a directory with all in it, if there is one; of a link just the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_record(path: Path) -> bytes:
    """Read a small file of a run; OSError where it is none: a pipe would hold us, and a device has no end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > RECORD_BYTES:
            raise OSError(errno.EINVAL, "is not a small regular file", str(path))
        return file.read(RECORD_BYTES)


def is_file(path: Path) -> bool:
    """Say whether a path is a file itself, and no link to one, pipe or device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def is_full(error: Exception) -> bool:
    """Say whether an error means that the disk, or our share of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def _room_for(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full(error):
            free = shutil.disk_usage(path.parent).free
            raise DiskFull(
                f"no room to write {path}: {free / 1024**2:.0f} MiB free\nhint: df -h {path.parent}"
            ) from None
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
