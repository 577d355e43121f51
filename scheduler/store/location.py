"""Where the store is: one reading of the database URL, for all who open it. Never shows a password."""

from pathlib import Path

from scheduler.errors import UsageError


def sqlite_path(url: str) -> Path | None:
    """The file behind a SQLite URL; None for any other database."""
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] != "sqlite":
        return None
    name = rest.removeprefix("/").partition("?")[0]
    if not name or name.startswith(":memory:"):
        raise UsageError(f"{url!r} names no file; the store must outlive a process", hint="unset MMQ_DATABASE_URL")
    return Path(name).absolute()


def without_password(url: str) -> str:
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        return url.rpartition("@")[2]
    credentials, at, place = rest.rpartition("@")
    return f"{scheme}://{credentials.partition(':')[0]}{at}{place}"
