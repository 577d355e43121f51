"""Errors a person sees, and the exit code each one ends a command with.

Owns the exit codes of `mmq`. Must not import anything of ours.
"""

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2  # usage or bad file
    NO_SUCH_JOB = 3
    SCHEMA = 4  # schema out of date
    UNREACHABLE = 5  # service or broker unreachable
    NOT_PERMITTED = 6
    INTERRUPTED = 130


class MmqError(Exception):
    """Something to tell the person: what happened, with numbers, and one command that helps."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MmqError):
    exit_code = ExitCode.USAGE


class NoSuchJob(MmqError):
    exit_code = ExitCode.NO_SUCH_JOB


class SchemaMismatch(MmqError):
    exit_code = ExitCode.SCHEMA


class NoDatabase(SchemaMismatch):
    """There is no store yet, or one whose making was broken off: no file, or a file without a schema."""


class Unreachable(MmqError):
    exit_code = ExitCode.UNREACHABLE


class NotPermitted(MmqError):
    exit_code = ExitCode.NOT_PERMITTED


class DiskFull(MmqError):
    """The database can't be written, or not even opened, for want of room; a disk that fails looks the same."""


class NotNow(MmqError):
    """A job can't have done to it what was asked, as it stands; nothing was written."""


class Refusals(MmqError):
    """Several of what was asked for could not be done: `errors` has each, as far as a person would read on."""

    SHOWN = 20

    def __init__(self, errors: Sequence[MmqError]) -> None:
        super().__init__(errors[0].message, hint=errors[0].hint)
        more = len(errors) - self.SHOWN
        rest = (MmqError(f"and {more:,} more like these"),) if more > 0 else ()
        self.errors = (*errors[: self.SHOWN], *rest)


class FileError(UsageError):
    """A file the person wrote is wrong: file, line, field, reason, remedy."""

    def __init__(
        self,
        reason: str,
        *,
        file: str,
        line: int | None = None,
        field: str | None = None,
        hint: str | None = None,
    ) -> None:
        place = file if line is None else f"{file}:{line}"
        subject = f"{place}: {field}" if field else place
        super().__init__(f"{subject}: {reason}", hint=hint)
        self.file = file
        self.line = line
        self.field = field
        self.reason = reason
