"""Strict YAML: text to plain values with the line of each. Knows nothing of jobs.

Refused: aliases, anchors, tags, duplicate keys, keys that are no text, several documents, deep nesting,
too much text. Scalars follow YAML 1.2: `1e-5` is a number, `no` and `on` are text, `010` is ten.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import yaml

from scheduler.errors import FileError

LIMIT_BYTES = 256 * 1024
DEPTH = 16
NOT_YAML = "write 'key: value' lines, with what belongs to a key indented below it"
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}|0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, object] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
_WORDS |= {sign + word: float(sign + word[1:]) for sign in ("", "-", "+") for word in (".inf", ".Inf", ".INF")}
_WORDS |= dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan)
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Path = tuple[str | int, ...]


class Document(NamedTuple):
    value: Any
    lines: dict[Path, int]  # where each key (or list item) stands; () is the document's first line


def parse(text: str, *, file: str) -> Document:
    """Read one YAML document; FileError with the line where it is not what this module allows."""
    if len(text.encode("utf-8", "surrogatepass")) > LIMIT_BYTES:
        raise FileError(f"is larger than {LIMIT_BYTES // 1024} KiB", file=file, hint="is this a job file?")
    builder = _Builder(file)
    try:
        builder.read(yaml.parse(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = getattr(mark, "line", 0)
        reason = f"is not YAML: {error.problem or error.context}"
        raise FileError(reason, file=file, line=line + 1, hint=_tab_hint(text, line) or NOT_YAML) from None
    except yaml.YAMLError as error:  # the reader: a character that YAML does not allow
        raise FileError(f"is not YAML: {str(error).splitlines()[0]}", file=file, hint=NOT_YAML) from None
    except UnicodeEncodeError:
        raise FileError("is not UTF-8 text", file=file, hint="save it as UTF-8") from None
    return Document(builder.value, builder.lines)


def _tab_hint(text: str, line: int) -> str | None:
    """A hint for the commonest mistake: a tab in the indent, which YAML forbids, on that line or just before it."""
    near = text.splitlines()[max(0, line - 1) : line + 1]
    indents = (row[: len(row) - len(row.lstrip())] for row in near)
    return "indent with spaces, not with tabs" if any("\t" in indent for indent in indents) else None


class _Builder:
    """Turns the parser's events into values, one recursion a level of nesting."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.value: Any = None
        self.lines: dict[Path, int] = {(): 1}

    def read(self, events: Iterator[Any]) -> None:
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.refuse(event, "holds more than one document", "one job a file; remove the '---' line")
                self.value = self.node(next(events), events, ())

    def check(self, event: Any, path: Path) -> None:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self.refuse(event, "uses an anchor or alias (& or *)", "write the value out")
        if event.tag is not None:
            self.refuse(event, f"uses a tag ({event.tag})", "write the plain value")
        if len(path) > DEPTH:
            self.refuse(event, f"is nested deeper than {DEPTH} levels", None)

    def node(self, event: Any, events: Iterator[Any], path: Path) -> Any:
        self.check(event, path)
        if isinstance(event, yaml.ScalarEvent):
            # Quoted, or a block, it is text whatever it looks like.
            return plain_scalar(event.value) if not event.style else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(events, path)
        return self.mapping(events, path)

    def sequence(self, events: Iterator[Any], path: Path) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            here = (*path, len(items))
            self.lines[here] = self.line(event)
            items.append(self.node(event, events, here))
        return items

    def mapping(self, events: Iterator[Any], path: Path) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            self.check(event, path)
            if not isinstance(event, yaml.ScalarEvent):
                self.refuse(event, "has a key that is not a plain word", None)
            key, line = str(event.value), self.line(event)
            if key in pairs:
                first = self.lines[(*path, key)]
                self.refuse(event, f"has the key {key!r} twice (first on line {first})", "keep one of them")
            here = (*path, key)
            self.lines[here] = line
            pairs[key] = self.node(next(events), events, here)
        return pairs

    @staticmethod
    def line(event: Any) -> int:
        return int(event.start_mark.line) + 1

    def refuse(self, event: Any, reason: str, hint: str | None) -> NoReturn:
        raise FileError(reason, file=self.file, line=self.line(event), hint=hint)


def plain_scalar(text: str) -> Any:
    """Resolve an unquoted scalar as YAML 1.2's core schema does."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
