"""Rows of a data file: JSON lines, `{"text"}` for pretraining and `{"conversations"}` for SFT, MiniMind's formats.

Streams; holds one line at a time. A broken row is an error that names file, line, field, reason and remedy, or, where
the caller wants it so, is passed over. What is passed over is counted, never silent. Other keys of a row are ignored,
as upstream does.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from trainer.data.broken import SHAPES, shown, trouble
from trainer.errors import BadData

LINE_LIMIT_BYTES = 64 * 1024**2
TOLD_AT_MOST = 5
ROLES = ("system", "user", "assistant", "tool")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Text(Struct, frozen=True):
    text: str


class Message(Struct, frozen=True):
    role: str
    content: str


class Conversation(Struct, frozen=True):
    conversations: list[Message]


class Passed(Struct, kw_only=True):
    """What was passed over in reading a file."""

    byte_order_mark: bool = False
    blank_lines: int = 0
    broken_rows: int = 0
    first_broken: list[str] = []  # what was wrong with the first few


class Reader:
    """Reads the rows of one file. `skips`: pass over broken rows; else the first is a BadData."""

    def __init__(self, path: Path, kind: str, *, skips: bool = False) -> None:
        self.passed = Passed()
        self._path = path
        self._kind = kind
        self._skips = skips

    def texts(self) -> Iterator[str]:
        """Yield the text of each pretraining row."""
        return (row.text for row in self._rows(msgspec.json.Decoder(Text)))

    def conversations(self) -> Iterator[list[Message]]:
        """Yield the messages of each SFT row."""
        return (row.conversations for row in self._rows(msgspec.json.Decoder(Conversation)))

    def _rows(self, decoder: msgspec.json.Decoder[Any]) -> Iterator[Any]:
        for number, line in _lines(self._path):
            if number == 1 and line.startswith(_BYTE_ORDER_MARK):
                self.passed.byte_order_mark = True
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if not line.strip():
                self.passed.blank_lines += 1
                continue
            try:
                yield _decode(decoder, self._path, number, line, self._kind)
            except BadData as error:
                if not self._skips:
                    raise
                self._note(error)

    def _note(self, error: BadData) -> None:
        self.passed.broken_rows += 1
        if len(self.passed.first_broken) < TOLD_AT_MOST:
            self.passed.first_broken.append(str(error).splitlines()[0])


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield each line, cut where it is too long to be a row."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_LIMIT_BYTES + 1):
                number += 1
                yield number, line
                while len(line) > LINE_LIMIT_BYTES and not line.endswith(b"\n"):
                    line = file.readline(LINE_LIMIT_BYTES + 1)
    except OSError as error:
        remedy = "check data.path; it is read at the start of each attempt"
        raise BadData(str(path), None, None, error.strerror or str(error), remedy) from None


def _decode(decoder: msgspec.json.Decoder[Any], path: Path, number: int, line: bytes, kind: str) -> Any:
    if len(line) > LINE_LIMIT_BYTES:
        reason = f"is longer than {LINE_LIMIT_BYTES / 1024**2:.1f} MiB"
        raise BadData(str(path), number, None, reason, "split the row into several")
    try:
        row = decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        field, reason, remedy = trouble(line, error, kind)
    else:
        _check_roles(row, path, number)
        return row
    raise BadData(str(path), number, field, reason, remedy)


def _check_roles(row: Any, path: Path, number: int) -> None:
    for index, message in enumerate(row.conversations if isinstance(row, Conversation) else ()):
        if message.role not in ROLES:
            reason = f"must be {', '.join(ROLES[:-1])} or {ROLES[-1]}, got {shown(message.role)}"
            raise BadData(str(path), number, f"conversations[{index}].role", reason, SHAPES["sft"])
