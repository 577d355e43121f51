"""The schema's revisions as this code knows them, and what to say of a store of another one."""

from scheduler.errors import NoDatabase, SchemaMismatch
from scheduler.store.location import without_password

REVISIONS = ("0001", "0002", "0003")  # oldest first; a test holds them against migrations/


def head() -> str:
    """The revision that this code speaks."""
    return REVISIONS[-1]


def check_revision(revision: str | None, url: str) -> None:
    """Raise SchemaMismatch, naming the command that mends it, unless the revision is ours."""
    if revision is None:
        raise missing(without_password(url))
    refuse_newer(revision)
    if revision != head():
        raise SchemaMismatch(f"the database is of revision {revision}, this mmq needs {head()}", hint="mmq db upgrade")


def refuse_newer(revision: str) -> None:
    """Raise SchemaMismatch for a revision that this code has never heard of."""
    if revision not in REVISIONS:
        raise SchemaMismatch(
            f"the database is of revision {revision}, which a newer mmq wrote; this one knows {head()}",
            hint="pip install --upgrade mmq",
        )


def missing(place: str) -> NoDatabase:
    return NoDatabase(f"there is no database at {place} yet", hint="mmq up")
