"""Making and changing the schema: one at a time, all or nothing, with a copy of the old file first.

Alembic is imported only where something is to be done. A process killed in the middle leaves the old schema: SQLite
and PostgreSQL both take the whole upgrade as one transaction.
"""

import contextlib
import fcntl
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from scheduler.config import Settings
from scheduler.errors import MmqError, UsageError
from scheduler.store import sqlite
from scheduler.store.drivers import connect
from scheduler.store.filesystem import refuse_network_file_system
from scheduler.store.location import sqlite_path
from scheduler.store.numbering import run_numbers
from scheduler.store.revisions import head, missing, refuse_newer


def upgrade(settings: Settings) -> Path | None:
    """Bring the schema up to date; return the path of the copy of the old database, if there was anything to copy.

    Raises SchemaMismatch for a database that a newer mmq wrote, MmqError for one that isn't mmq's.
    """
    path = sqlite_path(settings.database_url)
    if path is None:
        _migrate(settings.database_url)
        return None
    refuse_network_file_system(path)
    _create_folder(settings, path.parent)
    with alone(path):
        revision = revision_of(path)
        if revision == head():
            return None
        if revision is None:
            _refuse_emptied(path, settings)
        copy = _back_up_before(path, revision) if revision else None
        sqlite.create_file(path)
        _migrate(settings.database_url, ids_above=0 if revision else max(run_numbers(settings.jobs_dir), default=0))
        return copy


def create_missing(settings: Settings) -> None:
    """Make the schema where there is none at all; leave any other as it is, for `mmq db upgrade`."""
    path = sqlite_path(settings.database_url)
    if path is not None and not path.exists():
        upgrade(settings)
        return
    with closing(connect(settings.database_url, lean=True)) as database:
        empty = database.revision() is None
    if empty:
        upgrade(settings)


def backup(settings: Settings, target: Path | None) -> Path:
    """Copy the store as of one moment, while others go on using it; return the copy's path.

    Never overwrites a file; by default the copy is made in the home's `backups`.
    """
    path = sqlite_path(settings.database_url)
    if path is None:
        raise UsageError("a PostgreSQL store is backed up by its own tools", hint="pg_dump --help")
    if not path.exists():
        raise missing(str(path))
    if target is None:
        folder = _backups(path)
        target = folder / f"{path.stem}-{time.strftime('%Y%m%d-%H%M%S')}.db"
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} exists already; a backup never replaces a file", hint="name another file")
    copy_file(path, target)
    return target


def _create_folder(settings: Settings, folder: Path) -> None:
    try:
        if folder == settings.home:
            settings.create_home()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MmqError(f"can't create {folder}: {error.strerror}", hint="export MMQ_HOME=/another/folder") from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold the file lock that only one upgrade has; the others wait, and then find nothing to do."""
    lock = os.open(path.with_name(path.name + ".upgrade-lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def revision_of(path: Path) -> str | None:
    """The file's revision, None for a missing or empty file; raises for a newer one, or another program's."""
    if not path.exists():
        return None
    with closing(sqlite.SqliteDatabase(path)) as database:
        revision = database.revision()
        tables = database.query("SELECT name FROM sqlite_master WHERE type = 'table' LIMIT 1")
    if revision is None and tables:
        raise MmqError(f"{path} is not an mmq database: it has a table {tables[0]['name']!r}", hint="mmq doctor")
    if revision is not None:
        refuse_newer(revision)
    return revision


def _refuse_emptied(path: Path, settings: Settings) -> None:
    """Distinguish an interrupted first start from a store that has lost its jobs: jobs leave run directories."""
    if path.exists() and settings.jobs_dir.is_dir() and any(settings.jobs_dir.iterdir()):
        raise MmqError(
            f"{path} is empty, and jobs have run here: their records are lost; put a backup in its place, or remove it",
            hint=f"mmq db restore COPY  # one of {path.parent / 'backups'}",
        )


def _back_up_before(path: Path, revision: str) -> Path:
    target = fresh_copy(path, revision)
    copy_file(path, target)
    return target


def fresh_copy(path: Path, why: str) -> Path:
    """Name a file among the backups that is not there yet."""
    folder = _backups(path)
    names = (folder / f"{path.stem}-{why}-{number}.db" for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def _backups(path: Path) -> Path:
    folder = path.parent / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def copy_file(source: Path, target: Path) -> None:
    """Copy by SQLite's own backup into a new file, complete or absent."""
    partial = target.with_name(target.name + ".partial")
    module = sqlite.library()
    try:
        partial.unlink(missing_ok=True)
        sqlite.create_file(partial)
        with (
            closing(module.connect(source, timeout=sqlite.BUSY_SECONDS)) as old,
            closing(module.connect(partial)) as new,
        ):
            old.backup(new)
        partial.rename(target)
    except module.Error as error:
        raise sqlite.explain(error, source) from error
    except OSError as error:
        raise MmqError(f"can't write {target}: {error.strerror}", hint=f"df -h {target.parent}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _migrate(url: str, *, ids_above: int = 0) -> None:
    from scheduler.store.migrate import migrate

    migrate(url, ids_above=ids_above)
