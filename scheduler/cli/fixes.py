"""What `mmq doctor --fix` does: each fix says what it did. Removes nothing that training has made."""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from scheduler.cli import recovery
from scheduler.config import Settings
from scheduler.errors import MmqError
from scheduler.store.location import sqlite_path
from scheduler.store.opening import open_if_any
from scheduler.store.repairs import repair

UNFINISHED_SECONDS = 600.0


def apply_fixes(settings: Settings) -> Iterator[str]:
    """Fix what is safe to fix, and say so; what is not, remains a finding."""
    yield from _modes(settings)
    for copy in partial_copies(settings):
        copy.unlink(missing_ok=True)
        yield f"removed {copy}, a copy that was never completed"
    with contextlib.suppress(MmqError), open_if_any(settings) as database:  # a store that can't be opened is a finding
        if database is None:
            return
        yield from repair(database)
        yield from recovery.restore(database, settings)


def private_files(settings: Settings) -> list[Path]:
    """What nobody else may use, as far as it is there."""
    path = sqlite_path(settings.database_url)
    private = [settings.broker_socket, settings.doorbell_socket, *([path] if path else [])]
    return [path for path in private if path.exists()]


def _modes(settings: Settings) -> Iterator[str]:
    if not settings.home.is_dir() or settings.home.stat().st_uid != os.getuid() or not settings.holds_only_ours():
        return
    for path, mode in ((settings.home, 0o700), *((file, 0o600) for file in private_files(settings))):
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(mode)
            yield f"made {path} private: its mode is now {mode:04o}"


def partial_copies(settings: Settings) -> list[Path]:
    """The copies that an upgrade or backup was killed over; one that is being made is young."""
    path = sqlite_path(settings.database_url)
    copies = [] if path is None else sorted((path.parent / "backups").glob("*.partial"))
    return [copy for copy in copies if time.time() - copy.stat().st_mtime > UNFINISHED_SECONDS]
