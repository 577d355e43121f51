"""Files that are complete or absent, whatever kills us in between: write aside, fsync, rename, fsync the parent.

Owns that order and the error when the disk is full. Must not know what is written.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.errors import DiskFull

_ASIDE = ".tmp-"


def write_file(path: Path, content: bytes) -> None:
    """Put one whole file in place."""
    aside = path.with_name(_ASIDE + path.name)
    with _room_for(path):
        aside.write_bytes(content)
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
            if path.exists():  # damaged, or of a run that was set back: the new one is better
                shutil.rmtree(path)
            aside.replace(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(parent: Path) -> None:
    """Remove what a killed process left half-written."""
    for leftover in parent.glob(f"{_ASIDE}*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


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
