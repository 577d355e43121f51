"""JSON that somebody else has written, read without trust: an object that can be stored, or None."""

import contextlib
import json
import math
from typing import Any


def parse_object(line: bytes) -> dict[str, Any] | None:
    """Read one JSON object. NaN and infinity become None, and half a character a replacement for one."""
    with contextlib.suppress(ValueError, RecursionError):
        text = line.decode(errors="replace")
        value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
        if isinstance(value, dict):
            return _without_surrogates(value) if "\\ud" in text.lower() else value
    return None


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _without_surrogates(value: Any) -> Any:
    """Replace halves of surrogate pairs, which JSON can spell and no database can store."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(name): _without_surrogates(item) for name, item in value.items()}
    return value
