"""Bytes and durations as people write them, and back. Numbers inside are bytes (int) and seconds (float)."""

import re

_BYTES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _BYTES |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}
_SECONDS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_DURATION = re.compile(r"\s*(?:\d+(?:\.\d+)?\s*(?:s|m|min|h|d)?\s*)+")


def parse_bytes(text: str | int) -> int:
    """Read `20GiB`, `20G` (both binary), `20GB` (decimal) or a plain number of bytes; ValueError if it is none."""
    match = _QUANTITY.fullmatch(str(text))
    if not match or match[2].lower() not in _BYTES:
        raise ValueError(f"{text!r} is not an amount of memory; write it like 20GiB, 512MiB or 24GB")
    return int(float(match[1]) * _BYTES[match[2].lower()])


def format_bytes(count: int) -> str:
    """Write bytes as people read them: `9.8 GiB`, `512 MiB`, `0 B`, `12,345 TiB`."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            break
        size /= 1024
    if abs(size) >= 1024:
        return f"{size:,.0f} {unit}"
    digits = 0 if unit == "B" or abs(size) >= 100 else 1
    return f"{size:.{digits}f} {unit}"


def parse_duration(text: str | float) -> float:
    """Read `12h`, `1h30m`, `90` (seconds); ValueError if it is none."""
    if not _DURATION.fullmatch(str(text)):
        raise ValueError(f"{text!r} is not a duration; write it like 12h, 90m or 1h30m")
    return sum(float(m[1]) * _SECONDS[m[2].lower()] for m in _QUANTITY.finditer(str(text)))


def format_duration(seconds: float) -> str:
    """Write seconds as people read them: `0.5s`, `42s`, `3m 05s`, `2h 10m`, `3d 04h`."""
    if 0 < seconds < 0.95:
        return f"{seconds:.1g}s"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"
