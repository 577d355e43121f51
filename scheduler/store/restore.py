"""Restoring the store from a copy. Owns the order of steps: at no moment is there no database at all."""

import shutil
from pathlib import Path

from scheduler.config import Settings
from scheduler.errors import MmqError, UsageError
from scheduler.processes.locks import lock_held
from scheduler.store import sqlite
from scheduler.store.location import sqlite_path
from scheduler.store.numbering import begin_after
from scheduler.store.upgrade import alone, copy_file, fresh_copy, revision_of

_BESIDE = ("-wal", "-shm")  # SQLite's own files: those of the old database would ruin the new one


def restore(settings: Settings, copy: Path) -> Path | None:
    """Replace the store by a copy of it; return the path of the old one. MmqError while the service runs."""
    path = sqlite_path(settings.database_url)
    if path is None:
        raise UsageError("a PostgreSQL store is restored by its own tools", hint="pg_restore --help")
    if any(lock_held(lock) for lock in settings.home.glob("*.lock")):
        raise MmqError("the service is running; its database must not be replaced under it", hint="mmq down")
    _check(copy)
    with alone(path):
        kept = _keep(path) if path.exists() else None
        fresh = path.with_name(path.name + ".restored")
        _remove_beside(fresh)
        copy_file(copy, fresh)
        begin_after(settings.jobs_dir, fresh)
        _remove_beside(path)
        fresh.replace(path)
        return kept


def _remove_beside(path: Path) -> None:
    for ending in _BESIDE:
        path.with_name(path.name + ending).unlink(missing_ok=True)


def _check(copy: Path) -> None:
    database = sqlite.SqliteDatabase(copy)
    try:
        broken = database.integrity()
    finally:
        database.close()
    if revision_of(copy) is None or broken:
        raise UsageError(f"{copy} is not a complete mmq database", hint=f"ls {copy.parent}")


def _keep(path: Path) -> Path:
    kept = fresh_copy(path, "replaced")
    try:
        copy_file(path, kept)
    except MmqError:  # too broken to be read; perhaps somebody can
        for ending in ("", *_BESIDE):
            if path.with_name(path.name + ending).exists():
                shutil.copyfile(path.with_name(path.name + ending), kept.with_name(kept.name + ending))
                kept.with_name(kept.name + ending).chmod(0o600)
    return kept
