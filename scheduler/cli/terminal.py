"""What a terminal is shown: messages, colours where they are wanted, aligned tables. Knows nothing of jobs."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TextIO

_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "cyan": 36, "bold": 1, "dim": 2}
# Characters that a terminal obeys instead of showing, and those that reverse the reading direction.
_CONTROL = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
_ESCAPE = r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)"
_TAGS = {"error": "red", "warning": "yellow", "note": "dim"}


def plain(text: str) -> str:
    """Remove control characters and escape sequences from a text; tabs and line ends stay."""
    if text.isprintable():  # nearly always; control characters are not, and the patterns take a while to compile
        return text
    import re

    return re.sub(_CONTROL, "", re.sub(_ESCAPE, "", text))


def one_line(text: str) -> str:
    return " ".join(plain(text).split())


def coloured(stream: TextIO) -> bool:
    """Only on a terminal that knows colours, and not against NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str | None, stream: TextIO | None = None) -> str:
    if colour is None or not coloured(stream or sys.stdout):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def say(tag: str, text: str, *, hint: str | None = None) -> None:
    """Tell the person something that is not data: on stderr, with a command that helps."""
    lines = [f"{paint(tag + ':', _TAGS[tag], sys.stderr)} {plain(text)}"]
    if hint:
        lines.append(f"  {paint('hint:', 'cyan', sys.stderr)} {plain(hint)}")
    print(*lines, sep="\n", file=sys.stderr)


def width() -> int:
    """Columns to write in: COLUMNS, else the terminal's, else 80."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def height() -> int:
    """The terminal's lines; LINES, where it is set."""
    lines = os.environ.get("LINES", "")
    if lines.isdecimal() and int(lines) > 0:
        return int(lines)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).lines or 24
    except (OSError, ValueError):
        return 24


def screenful(text: str, lines: int) -> str:
    """Cut a text down to so many lines; its last section stays whole, if that is short."""
    whole = text.split("\n")
    if len(whole) <= lines:
        return text
    blank = max((number for number, line in enumerate(whole) if not line), default=len(whole))
    last = whole[blank:] if len(whole) - blank <= lines // 2 else []
    first = whole[: max(1, lines - 1 - len(last))]
    return "\n".join([*first, f"({len(whole) - len(first) - len(last)} lines more)", *last])


def cells(text: str) -> int:
    """Columns that a text takes: two for a wide character."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(sign) else 2 if east_asian_width(sign) in "WF" else 1 for sign in text)


def cut(text: str, columns: int) -> str:
    """Shorten to so many columns, with a mark where something is missing."""
    if cells(text) <= columns:
        return text
    while text and cells(text) > columns - 1:
        text = text[:-1]
    return text + "…"


def pad(text: str, columns: int, *, right: bool = False) -> str:
    space = " " * max(0, columns - cells(text))
    return space + text if right else text + space


class Column(NamedTuple):
    key: str
    title: str
    right: bool = False
    least: int = 0  # may be cut down to this; 0: never
    drop: int = 0  # left out when there is no room, the highest first; 0: never


class Line(NamedTuple):
    """One row of a table, its colour by column, and a remark under it."""

    values: Mapping[str, str]
    colours: Mapping[str, str] = {}
    remark: str | None = None


def table(columns: Sequence[Column], lines: Sequence[Line], *, total: int | None = None) -> str:
    """Align the lines under their titles within the width; columns that are empty throughout are left out."""
    shown = [column for column in columns if any(line.values.get(column.key) for line in lines)]
    wide = {c.key: max(cells(c.title), *(cells(line.values.get(c.key, "")) for line in lines)) for c in shown}
    shown = _fit(shown, wide, total or width())
    rows = ["  ".join(pad(column.title, wide[column.key], right=column.right) for column in shown).rstrip()]
    for line in lines:
        rows.append("  ".join(_cell(column, line, wide[column.key]) for column in shown).rstrip())
        if line.remark:
            rows += _remark(line.remark, total or width())
    return "\n".join(rows)


def _fit(shown: list[Column], wide: dict[str, int], total: int) -> list[Column]:
    """Cut what may be cut, then leave out what may be left out, until the table is narrow enough."""

    def excess() -> int:
        return sum(wide[column.key] + 2 for column in shown) - 2 - total

    def shrink() -> None:
        for column in shown:
            if column.least and excess() > 0:
                wide[column.key] = min(wide[column.key], max(column.least, wide[column.key] - excess()))

    natural = dict(wide)
    shrink()
    while excess() > 0 and (droppable := [column for column in shown if column.drop]):
        shown = [column for column in shown if column != max(droppable, key=lambda column: column.drop)]
        wide |= natural
        shrink()
    return shown


def _cell(column: Column, line: Line, columns: int) -> str:
    text = pad(cut(line.values.get(column.key, ""), columns), columns, right=column.right)
    return paint(text, line.colours.get(column.key))


def wrap(text: str, indent: int, total: int | None = None) -> list[str]:
    """Break a sentence into lines that fit beside an indent; a word longer than a line stays whole."""
    room, lines = (total or width()) - indent, [""]
    for word in text.split():
        if lines[-1] and cells(lines[-1]) + 1 + cells(word) > room:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _remark(text: str, total: int) -> list[str]:
    """A sentence under its row, indented."""
    return [paint(f"      {line}", "dim") for line in wrap(text, 6, total)]
