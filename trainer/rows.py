"""Rows of a data file: JSON lines, `{"text"}` for pretraining and `{"conversations"}` for SFT, MiniMind's formats.

Streams; holds one line at a time. A broken line is an error that names file, line, field, reason and remedy.
Blank lines and a byte order mark are passed over. Other keys of a row are ignored, as upstream does.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from trainer.errors import BadData

LINE_LIMIT_BYTES = 64 * 1024**2
ROLES = ("system", "user", "assistant", "tool")
_SHAPES = {
    "pretrain": '{"text": "..."}',
    "sft": '{"conversations": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Text(Struct, frozen=True):
    text: str


class Message(Struct, frozen=True):
    role: str
    content: str


class Conversation(Struct, frozen=True):
    conversations: list[Message]


def read_texts(path: Path) -> Iterator[str]:
    """Yield the text of each pretraining row."""
    decoder = msgspec.json.Decoder(Text)
    for number, line in _lines(path):
        yield _decode(decoder, path, number, line, "pretrain").text


def read_conversations(path: Path) -> Iterator[list[Message]]:
    """Yield the messages of each SFT row."""
    decoder = msgspec.json.Decoder(Conversation)
    for number, line in _lines(path):
        messages = _decode(decoder, path, number, line, "sft").conversations
        for index, message in enumerate(messages):
            if message.role not in ROLES:
                field = f"conversations[{index}].role"
                raise BadData(
                    str(path), number, field, f"unknown role {message.role!r}", f"use one of {', '.join(ROLES)}"
                )
        yield messages


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LINE_LIMIT_BYTES + 1):
                number += 1
                if len(line) > LINE_LIMIT_BYTES:
                    reason = f"longer than {LINE_LIMIT_BYTES // 1024**2} MiB"
                    raise BadData(str(path), number, None, reason, "one row a line; split this one")
                if number == 1:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                if line.strip():
                    yield number, line
    except OSError as error:
        remedy = "check data.path; it is read at the start of each attempt"
        raise BadData(str(path), None, None, error.strerror or str(error), remedy) from None


def _decode(decoder: msgspec.json.Decoder[Any], path: Path, number: int, line: bytes, kind: str) -> Any:
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = str(error)
    except RecursionError:
        reason = "nested too deeply"
    if field := re.search(r" - at `\$\.?(.*)`$", reason):
        reason = reason[: field.start()]
    remedy = f"each line is one JSON object like {_SHAPES[kind]} in UTF-8"
    raise BadData(str(path), number, field[1] if field else None, reason, remedy)
