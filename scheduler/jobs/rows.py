"""Checks the rows of a data file before a job with it is queued. Reads the file; never holds more than one line.

A file up to 64 MiB is read whole; of a larger one its head, its tail and blocks spread evenly between them, so that a
submit stays short. The result says how much was read: a sample finds systematic errors, not single ones.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple, NoReturn

import msgspec
from msgspec import Meta, Struct

from scheduler.errors import FileError
from scheduler.jobs.problems import likely, shown
from scheduler.units import format_bytes

WHOLE_BYTES = 64 << 20
BLOCK_BYTES = 1 << 20
BLOCKS = 30  # between the head and the tail
LINE_BYTES = 64 << 20  # the trainer reads no longer ones
ROLES = ("system", "user", "assistant", "tool")
_BOM = b"\xef\xbb\xbf"


class PretrainRow(Struct):
    text: str


class Turn(Struct):
    role: str
    content: str


class SftRow(Struct):
    conversations: Annotated[list[Turn], Meta(min_length=1)]


_ROWS: dict[str, type[PretrainRow | SftRow]] = {"pretrain": PretrainRow, "sft": SftRow}
_EXAMPLES = {
    "pretrain": 'a row is a line like {"text": "..."}',
    "sft": 'a row is a line like {"conversations": [{"role": "user", "content": "..."}, ...]}',
}


class Checked(NamedTuple):
    """What was looked at."""

    rows: int
    read_bytes: int
    total_bytes: int
    broken: int  # which the trainer is to pass over

    @property
    def sentence(self) -> str:
        good = f"{self.rows:,} {'row is' if self.rows == 1 else 'rows are'} good"
        if self.broken:
            good += f", {self.broken:,} {'is' if self.broken == 1 else 'are'} broken and will be skipped"
        if self.read_bytes < self.total_bytes:
            read, total = format_bytes(self.read_bytes), format_bytes(self.total_bytes)
            return f"{good} (a sample: {read} of {total}, from head to tail)"
        return good if self.broken or self.rows == 1 else f"all {good}"


def check(path: Path, kind: str, *, skips: bool = False) -> Checked:
    """Check every row, or those of a sample; FileError for the first bad one, with its line.

    With `skips` bad ones are only counted, as the trainer will: then there must be good ones.
    """
    checker = _Checker(path, kind, skips=skips)
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            for start, end in _blocks(size):
                checker.block(stream, start, end)
    except OSError as error:
        raise FileError(f"cannot be read: {error.strerror}", file=str(path)) from None
    checker.whole()
    return Checked(checker.rows, checker.read_bytes, size, checker.broken)


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """The parts to read, as (start, end): a block takes the lines that begin in it."""
    if size <= WHOLE_BYTES:
        yield 0, size
        return
    yield 0, BLOCK_BYTES
    for number in range(1, BLOCKS + 1):
        start = number * (size // (BLOCKS + 1))
        yield start, start + BLOCK_BYTES
    yield size - BLOCK_BYTES, size


class _BrokenRow(Exception):
    """A row to be skipped: its line number is not looked up, which would take long for many."""


class _Checker:
    def __init__(self, path: Path, kind: str, *, skips: bool) -> None:
        self.path = path
        self.skips = skips
        self.broken = 0
        self.kind = kind
        self.decoder = msgspec.json.Decoder(_ROWS[kind])
        self.rows = 0
        self.read_bytes = 0
        self.has_targets = False  # whether any row has text that a model learns from

    def block(self, stream: BinaryIO, start: int, end: int) -> None:
        at = max(0, start - 1)
        stream.seek(at)
        if start:  # to the first line that begins at `start` or after
            at += len(stream.readline(LINE_BYTES))
        while at < end and (line := stream.readline(LINE_BYTES + 1)):
            try:
                self.line(line, at)
            except _BrokenRow:
                self.broken += 1
            at += self.skip_rest(stream, line)

    def skip_rest(self, stream: BinaryIO, line: bytes) -> int:
        """Read to the end of a line that may have been cut; return its whole length."""
        length = len(line)
        while len(line) > LINE_BYTES and not line.endswith(b"\n"):
            line = stream.readline(LINE_BYTES + 1)
            length += len(line)
        self.read_bytes += length
        return length

    def line(self, line: bytes, at: int) -> None:
        """Check the line that begins at this offset."""
        if len(line) > LINE_BYTES:
            self.refuse(at, None, f"is longer than {format_bytes(LINE_BYTES)}", "split the row into several")
        if at == 0 and line.startswith(_BOM):
            line = line[len(_BOM) :]
        if not line.strip():
            return
        try:
            row = self.decoder.decode(line)
        except msgspec.ValidationError as error:
            self.refuse(at, *_misfit(line, str(error)), _EXAMPLES[self.kind])
        except msgspec.DecodeError as error:
            self.refuse(at, None, *_malformed(str(error)))
        except UnicodeDecodeError:
            self.refuse(at, None, f"is not UTF-8 text{_foreign_byte(line)}", "convert the file to UTF-8")
        except RecursionError:
            self.refuse(at, None, "is nested too deeply", _EXAMPLES[self.kind])
        self.content(row, at)
        self.rows += 1

    def content(self, row: PretrainRow | SftRow, at: int) -> None:
        if isinstance(row, PretrainRow):
            self.has_targets = self.has_targets or bool(row.text)
            return
        for index, turn in enumerate(row.conversations):
            if turn.role not in ROLES:
                field = f"conversations[{index}].role"
                reason = f"must be system, user, assistant or tool, got {shown(turn.role)}"
                self.refuse(at, field, reason, likely(turn.role, ROLES))
            self.has_targets = self.has_targets or (turn.role == "assistant" and bool(turn.content))

    def whole(self) -> None:
        """Check what only shows at the end: that there is something to learn from."""
        if not self.rows:
            none = f"has no good row: {self.broken:,} are broken" if self.broken else "has no rows"
            raise FileError(none, file=str(self.path), hint=_EXAMPLES[self.kind])
        if not self.has_targets:
            what = "text" if self.kind == "pretrain" else "content of an assistant"
            reason = f"has no {what} in its {self.rows:,} rows: there is nothing to learn from"
            raise FileError(reason, file=str(self.path), hint=_EXAMPLES[self.kind])

    def refuse(self, at: int, field: str | None, reason: str, hint: str | None) -> NoReturn:
        if self.skips:
            raise _BrokenRow
        raise FileError(reason, file=str(self.path), line=_line_number(self.path, at), field=field, hint=hint)


def _line_number(path: Path, at: int) -> int:
    """The number of the line that begins at this offset: counted only for an error."""
    lines = 1
    with path.open("rb") as stream:
        while at > 0 and (chunk := stream.read(min(at, 1 << 20))):
            lines += chunk.count(b"\n")
            at -= len(chunk)
    return lines


def _misfit(line: bytes, message: str) -> tuple[str | None, str]:
    """Field and reason of a row that is JSON of the wrong shape, from the decoder's message."""
    reason, _, place = message.partition(" - at `$")
    field = place.rstrip("`").lstrip(".") or None
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", reason):
        name = f"{field}.{missing[1]}" if field else missing[1]
        keys = "" if field else _keys(line)
        return name, f"is missing{keys}"
    words = {"array": "a list", "object": "an object", "str": "text", "int": "a number", "float": "a number"}
    if expected := re.fullmatch(r"Expected `(\w+)`, got `(\w+)`", reason):
        return field, f"must be {words.get(expected[1], expected[1])}, got {words.get(expected[2], expected[2])}"
    if reason == "Expected `array` of length >= 1":
        return field, "is empty"
    return field, reason.replace("`", "")


def _keys(line: bytes) -> str:
    """What a row has in place of the field it lacks."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        keys = [shown(key) for key in msgspec.json.decode(line)]
        return f"; the row has {', '.join(keys[:5])}" if keys else "; the row is empty"
    return ""


def _malformed(message: str) -> tuple[str, str]:
    """Reason and hint for a row that is not JSON, from the decoder's message."""
    if "surrogate" in message:
        return "has half a surrogate pair (\\ud800 to \\udfff), which is not a character", "remove it from the text"
    if "truncated" in message:
        return "is cut short: no complete JSON object", "one object a line, without line breaks inside"
    place = re.search(r"\(byte (\d+)\)", message)
    at = f" at byte {int(place[1]) + 1}" if place else ""
    return f"is not JSON{at}", "one JSON object a line; write it with json.dumps"


def _foreign_byte(line: bytes) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f" (byte 0x{line[error.start]:02x} at {error.start + 1})"
    return ""
