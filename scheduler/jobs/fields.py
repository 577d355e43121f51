"""Each field of a job file on its own: known key, right type, possible value. Fills in nothing, no I/O."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

import msgspec

from scheduler.jobs import presets
from scheduler.jobs.document import Path
from scheduler.jobs.problems import Problems, likely, shown
from scheduler.jobs.spec import InitFrom, JobSpec
from scheduler.units import parse_bytes, parse_duration

# Control characters, surrogates (which have no UTF-8), and what reverses the reading direction.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def read_struct(struct: type, given: dict[str, Any], path: Path, problems: Problems) -> dict[str, Any]:
    """Check the keys of one section; returns the good values and reports the rest."""
    types = field_types(struct)
    good: dict[str, Any] = {}
    for key, value in given.items():
        here = (*path, key)
        if key not in types:
            problems.add(here, "unknown key", None if problems.are_many else _known(key, types, path))
        elif not isinstance(types[key], type):
            _read_value(types[key], value, here, problems, good)
        elif value is None or isinstance(value, dict):
            good[key] = read_struct(types[key], value or {}, here, problems)
        else:
            keys = ", ".join(list(field_types(types[key]))[:3])
            problems.add(here, f"must be a group of keys, got {shown(value)}", f"its keys are {keys}, ...")
    return good


def _known(key: str, types: dict[str, Any], path: Path) -> str:
    return likely(key, types) or _elsewhere(key, path) or f"known here: {', '.join(types)}"


def field_types(struct: type) -> dict[str, Any]:
    """The keys as a job file spells them, with their types: a section is a class, a value never is."""
    names: tuple[str, ...] = struct.__struct_encode_fields__  # type: ignore[attr-defined]
    return dict(zip(names, struct.__annotations__.values(), strict=True))


def _read_value(kind: Any, value: Any, path: Path, problems: Problems, good: dict[str, Any]) -> None:
    if isinstance(value, str) and _CONTROL.search(value):
        problems.add(path, f"has a control character in {shown(value)}", "remove it")
        return
    try:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("not finite")
        parsed = value if value is None else _PARSERS.get(path, _same)(value)
        good[str(path[-1])] = msgspec.convert(parsed, kind)
    except (ValueError, OverflowError):  # msgspec.ValidationError is a ValueError
        expected = next(titles(kind), "another value")
        choices = list(_choices(kind))
        odd = next((item for item in value if item not in choices), value) if isinstance(value, list) else value
        problems.add(path, f"must be {expected}, got {shown(odd)}", likely(odd, choices) or _example(path))


def _example(path: Path) -> str | None:
    *section, key = map(str, path)
    value = presets.example(section[0] if section else None, key)
    return None if value is None else f"for example {key}: {value if isinstance(value, str) else shown(value)}"


def titles(kind: Any) -> Iterator[str]:
    """The phrase for a type, the outermost first."""
    for meta in getattr(kind, "__metadata__", ()):
        yield meta.title
    for inner in get_args(kind):
        yield from titles(inner)


def _choices(kind: Any) -> Iterator[str]:
    """The words that a type allows."""
    for inner in get_args(kind):
        if get_origin(kind) is Literal:
            yield inner
        else:
            yield from _choices(inner)


def _elsewhere(key: str, path: Path) -> str | None:
    """A hint for a known key in the wrong section."""
    for section, kind in field_types(JobSpec).items():
        if key == section and path:
            return f"{key} belongs at the top level"
        if isinstance(kind, type) and key in field_types(kind):
            return f"it belongs under '{section}:'"
    return None


def _same(value: Any) -> Any:
    return value


def _init_from(value: Any) -> InitFrom:
    """A job by id or name, or a path: what holds a slash, or ends like weights."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError("neither a job nor a path")
    text = str(value)
    if "/" in text or text.endswith((".pth", ".safetensors")):
        return InitFrom(path=text)
    return InitFrom(ref=text)


def _items(value: Any) -> Any:
    """A list, or for the command line its items with commas between them."""
    return [item.strip() for item in value.strip("[]").split(",")] if isinstance(value, str) else value


def _devices(value: Any) -> Any:
    """A list, one device, or for the command line several with commas; what is all digits is a number."""
    items = value if isinstance(value, list) else [value]
    split = [part for item in items for part in (_items(item) if isinstance(item, str) else [item])]
    return [int(part) if isinstance(part, str) and part.isdecimal() else part for part in split]


_PARSERS: dict[Path, Callable[[Any], Any]] = {
    ("init_from",): _init_from,
    ("train", "lora_targets"): _items,
    ("report",): _items,
    ("resources", "devices"): _devices,
    ("resources", "max_memory"): parse_bytes,
    ("resources", "time_limit"): parse_duration,
}
