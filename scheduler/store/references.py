"""Jobs as people name them: `12`, `3-9,12`, a unique name, `@` for the last, `@~1` for the one before. Reads only.

An array by its name, or by `@12`: all of the array that job 12 belongs to.
"""

import re
from collections.abc import Sequence

from scheduler.errors import NoSuchJob, UsageError
from scheduler.store.database import Reader

RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")
LATEST = re.compile(r"@(?:~(\d{1,9}))?")
ARRAY = re.compile(r"@(\d{1,18})")
LISTED = 5


def resolve(reader: Reader, refs: Sequence[str]) -> list[int]:
    """Ids in the order named, each once. Raises NoSuchJob, or UsageError for a name that several jobs have."""
    ids: dict[int, None] = {}  # as an ordered set
    for ref in refs:
        for part in ref.split(","):
            ids |= dict.fromkeys(_resolve_one(reader, part.strip()))
    return list(ids)


def _resolve_one(reader: Reader, ref: str) -> list[int]:
    if match := RANGE.fullmatch(ref):
        return _in_range(reader, int(match[1]), int(match[2] or match[1]), ref)
    if match := LATEST.fullmatch(ref):
        return [_latest(reader, int(match[1] or 0), ref)]
    if match := ARRAY.fullmatch(ref):
        return _array(reader, int(match[1]))
    return _named(reader, ref)


def _in_range(reader: Reader, first: int, last: int, ref: str) -> list[int]:
    rows = reader.query("SELECT id FROM jobs WHERE id BETWEEN :first AND :last ORDER BY id", first=first, last=last)
    if not rows:
        raise NoSuchJob(f"there is no job {ref}", hint="mmq status --all")
    return [row["id"] for row in rows]


def _latest(reader: Reader, back: int, ref: str) -> int:
    rows = reader.query("SELECT id FROM jobs ORDER BY id DESC LIMIT 1 OFFSET :back", back=back)
    if not rows:
        raise NoSuchJob(f"there is no job {ref}: fewer jobs have been submitted", hint="mmq status --all")
    return int(rows[0]["id"])


def _array(reader: Reader, job_id: int) -> list[int]:
    members = reader.query("SELECT array_id FROM jobs WHERE id = :job_id", job_id=job_id)
    if not members or members[0]["array_id"] is None:
        raise NoSuchJob(
            f"there is no array @{job_id}: no such job, or it is not part of an array", hint="mmq status --all"
        )
    rows = reader.query("SELECT id FROM jobs WHERE array_id = :array_id ORDER BY id", array_id=members[0]["array_id"])
    return [row["id"] for row in rows]


def _named(reader: Reader, name: str) -> list[int]:
    rows = reader.query(
        "SELECT MAX(id) AS id, MAX(array_id) AS array_id FROM jobs WHERE name = :name"
        " GROUP BY COALESCE(array_id, -id) ORDER BY 1 DESC LIMIT :listed",
        name=name,
        listed=LISTED + 1,
    )
    if not rows:
        raise NoSuchJob(f"there is no job named {name!r}", hint="mmq status --all")
    if len(rows) > 1:
        ids = ", ".join(str(row["id"]) for row in rows[:LISTED]) + (", ..." if len(rows) > LISTED else "")
        raise UsageError(f"several jobs are named {name!r}: {ids}; name one by its id", hint="mmq status --all")
    return _array(reader, rows[0]["array_id"]) if rows[0]["array_id"] is not None else [int(rows[0]["id"])]
