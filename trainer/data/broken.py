"""What is wrong with a line that is no row: the field, the reason, and a remedy, from what the decoder says of it.

In the words of `mmq submit` (`scheduler/jobs/rows.py`), which has looked at a sample of the rows: a test holds both to
them, for neither program imports the other.
"""

import contextlib
import re

import msgspec

SHAPES = {
    "pretrain": 'a row is a line like {"text": "..."}',
    "sft": 'a row is a line like {"conversations": [{"role": "user", "content": "..."}, ...]}',
}
_WORDS = {"array": "a list", "object": "an object", "str": "text", "int": "a number", "float": "a number"}
_SHOWN_CHARACTERS = 60
Trouble = tuple[str | None, str, str]


def trouble(line: bytes, error: Exception, kind: str) -> Trouble:
    """Give field, reason and remedy of a line that a decoder of `kind` has refused."""
    message = str(error)
    if isinstance(error, msgspec.ValidationError):
        return *_misfit(line, message), SHAPES[kind]
    if isinstance(error, UnicodeDecodeError):
        return None, f"is not UTF-8 text{_foreign_byte(line)}", "convert the file to UTF-8"
    if isinstance(error, RecursionError):
        return None, "is nested too deeply", SHAPES[kind]
    if "surrogate" in message:
        reason = "has half a surrogate pair (\\ud800 to \\udfff), which is not a character"
        return None, reason, "remove it from the text"
    if "truncated" in message:
        return None, "is cut short: no complete JSON object", "one object a line, without line breaks inside"
    place = re.search(r"\(byte (\d+)\)", message)
    at = f" at byte {int(place[1]) + 1}" if place else ""
    return None, f"is not JSON{at}", "one JSON object a line; write it with json.dumps"


def shown(value: str) -> str:
    """Give a word as it was written, cut short."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def _misfit(line: bytes, message: str) -> tuple[str | None, str]:
    reason, _, place = message.partition(" - at `$")
    field = place.rstrip("`").lstrip(".") or None
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", reason):
        name = f"{field}.{missing[1]}" if field else missing[1]
        return name, f"is missing{'' if field else _keys(line)}"
    if expected := re.fullmatch(r"Expected `(\w+)`, got `(\w+)`", reason):
        wanted, got = (_WORDS.get(word, word) for word in expected.groups())
        return field, f"must be {wanted}, got {got}"
    return field, reason.replace("`", "")


def _keys(line: bytes) -> str:
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        keys = [shown(key) for key in msgspec.json.decode(line)]
        return f"; the row has {', '.join(keys[:5])}" if keys else "; the row is empty"
    return ""


def _foreign_byte(line: bytes) -> str:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f" (byte 0x{line[error.start]:02x} at {error.start + 1})"
    return ""
