"""SQLite: which library, how each connection is set up, what its errors mean, and the lean driver.

Imports nothing heavy: the command line and the shim come through here.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from scheduler.errors import DiskFull, MmqError, NotPermitted
from scheduler.store.database import Reader, Row

WAL_RESET_FIXED = (3, 51, 3)  # before it, connections that write and checkpoint at once can corrupt a WAL database
BUSY_SECONDS = 30.0
ALONE_SECONDS = 2.0  # for which a copy is tried while others have the database open


@cache
def library() -> ModuleType:
    """The one SQLite of this process: pysqlite3's newer one where it is installed, else Python's."""
    try:
        return importlib.import_module("pysqlite3.dbapi2")
    except ImportError:
        return importlib.import_module("sqlite3.dbapi2")


def journal_mode() -> str:
    return "WAL" if library().sqlite_version_info >= WAL_RESET_FIXED else "TRUNCATE"


def set_up(connection: Any) -> None:
    """Make a fresh connection one of ours; transactions are begun by hand, so that they can be IMMEDIATE."""
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_mode = {journal_mode()}").fetchone()


def create_file(path: Path) -> None:
    """Make an empty file that only its owner reads; SQLite gives its side files the same mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        kind = NotPermitted if isinstance(error, PermissionError) else MmqError
        raise kind(f"can't create {path}: {error.strerror}", hint=f"ls -ld {path.parent}") from error


MEANINGS = (
    (
        "is locked",
        f"the database stayed locked for {BUSY_SECONDS:.0f} s: another process holds it",
        "mmq doctor",
    ),
    ("disk is full", "no space is left for the database", "df -h {folder}"),
    ("not a database", "the file is damaged or not a database", "mmq db restore COPY  # one of {folder}/backups"),
    ("malformed", "the database is damaged", "mmq db restore COPY  # one of {folder}/backups"),
    ("readonly", "the database may not be written by this user", "ls -l {path}"),
    ("unable to open", "the database can't be opened", "ls -l {path}"),
    ("disk I/O error", "the disk under the database is full, or fails", "df -h {folder}"),
)
FULL = ("disk is full", "disk I/O error")


def explain(error: Exception, path: Path) -> MmqError:
    """Put an error of SQLite in words: what happened to which file, and a command that helps."""
    if "unable to open" in str(error) and not os.access(path.parent, os.W_OK):
        return NotPermitted(
            f"{path.parent} can't be written, and SQLite has to write there even to read {path.name}",
            hint=f"ls -ld {path.parent}",
        )
    for sign, meaning, hint in MEANINGS:
        if sign in str(error):
            kind = DiskFull if sign in FULL else MmqError
            return kind(f"{meaning} ({path}: {error})", hint=hint.format(path=path, folder=path.parent))
    return MmqError(f"the database refused ({path}: {error})", hint="mmq doctor")


def is_ours_to_explain(error: Exception) -> bool:
    """Whether an error is operational, and not a mistake in our own statements."""
    module = library()
    return isinstance(error, module.DatabaseError) and not isinstance(
        error, module.IntegrityError | module.ProgrammingError
    )


def broken_pages(reader: Reader) -> list[str]:
    """SQLite's own checks: of the pages and indexes, and of rows that refer to none."""
    pages = [str(row["integrity_check"]) for row in reader.query("PRAGMA integrity_check")]
    strays = reader.query("PRAGMA foreign_key_check")
    return [line for line in pages if line != "ok"] + [
        f"a row of {row['table']} refers to a row that does not exist" for row in strays
    ]


class SqliteDatabase:
    """The lean driver: one connection, for the thread that made it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._explained():
            self._connection = library().connect(path, timeout=BUSY_SECONDS)
        try:
            with self._explained():
                set_up(self._connection)
        except BaseException:
            self._connection.close()
            raise

    @classmethod
    def copied(cls, path: Path) -> "SqliteDatabase":
        """A copy in memory, only to be read: of one that nobody has open, on a disk too full to open it by other means.

        Readers meet in a file beside the database, which needs room; who has it alone needs none.
        """
        copy = cls(Path(":memory:"))
        copy._path = path
        with copy._explained(), closing(library().connect(path, timeout=ALONE_SECONDS)) as source:
            source.execute("PRAGMA locking_mode = EXCLUSIVE")
            source.backup(copy._connection)
            copy._connection.execute("PRAGMA query_only = ON")
        return copy

    def execute(self, sql: str, **parameters: object) -> int:
        with self._explained():
            return int(self._connection.execute(sql, parameters).rowcount)

    def query(self, sql: str, **parameters: object) -> list[Row]:
        with self._explained():
            cursor = self._connection.execute(sql, parameters)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, values, strict=True)) for values in cursor]

    @contextmanager
    def transaction(self) -> Iterator["SqliteDatabase"]:
        with self._begun("BEGIN IMMEDIATE"):
            yield self

    @contextmanager
    def snapshot(self) -> Iterator["SqliteDatabase"]:
        with self._begun("BEGIN"):
            yield self

    def revision(self) -> str | None:
        if not self.query("SELECT name FROM sqlite_master WHERE name = 'alembic_version'"):
            return None
        rows = self.query("SELECT version_num FROM alembic_version")
        return str(rows[0]["version_num"]) if rows else None

    def integrity(self) -> list[str]:
        return broken_pages(self)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _begun(self, begin: str) -> Iterator[None]:
        self.execute(begin)
        try:
            yield
            self.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # SQLite ends it by itself on a full disk
                self._connection.rollback()
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if is_ours_to_explain(error):
                raise explain(error, self._path) from error
            raise
