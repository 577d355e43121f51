"""What a database offers. Holds no statement of a table, and knows no driver.

Two drivers stand behind one Protocol. The lean one (`sqlite.py`) imports nothing heavy and serves the command line
and the shim; the other (`engine.py`) is SQLAlchemy over SQLite or PostgreSQL. Both give the same promise: one writer
at a time, so what a transaction has read stays true until it commits.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

Row = dict[str, Any]


class Reader(Protocol):
    """Anything that answers a SELECT: a database, a snapshot of it, or a transaction."""

    def query(self, sql: str, **parameters: object) -> list[Row]: ...


class Transaction(Reader, Protocol):
    """Statements that become true together or not at all."""

    def execute(self, sql: str, **parameters: object) -> int:
        """Run a statement that returns no rows; answer how many rows it touched."""
        ...


class Writable(Reader, Protocol):
    """Anything in which a transaction can be begun, or taken part in."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Begin as the only writer; commit at the end, or roll back on any exception."""
        ...


class Database(Writable, Protocol):
    """A store of the right revision. The lean kind belongs to the thread that opened it."""

    def snapshot(self) -> AbstractContextManager[Reader]:
        """Several reads of one moment."""
        ...

    def revision(self) -> str | None:
        """The schema's revision; None where there is no schema at all."""
        ...

    def integrity(self) -> list[str]:
        """What the database itself finds wrong with its file; empty when all is well."""
        ...

    def close(self) -> None: ...


class Joined:
    """A transaction passed as a database: what would begin a transaction of its own joins this one."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    def query(self, sql: str, **parameters: object) -> list[Row]:
        return self._tx.query(sql, **parameters)

    def transaction(self) -> AbstractContextManager[Transaction]:
        return nullcontext(self._tx)


def placeholders(name: str, values: "list[Any] | tuple[Any, ...]") -> tuple[str, Mapping[str, Any]]:
    """Write `:name_0, :name_1` for an IN list, with the parameters to go with it.

    A list is padded to a power of two with its last value: a driver that caches compiled statements would otherwise
    cache one for every length.
    """
    padded = list(values)
    if padded:
        padded += padded[-1:] * ((1 << (len(padded) - 1).bit_length()) - len(padded))
    parameters = {f"{name}_{number}": value for number, value in enumerate(padded)}
    return ", ".join(f":{key}" for key in parameters) or "NULL", parameters
