"""The members of a sweep: every combination of the values given for some fields of a job file. Pure."""

from collections.abc import Sequence
from itertools import product

from scheduler.errors import UsageError

MOST_MEMBERS = 1000  # of one array
_HINT = "write it like --sweep train.learning_rate=1e-4,3e-4"
_OPENING, _CLOSING = "[{", "]}"


def members(sweeps: Sequence[str]) -> list[tuple[str, ...]]:
    """Give the overrides of each member, as `-o` takes them: the last field varies fastest."""
    fields = [_values(sweep) for sweep in sweeps]
    names = [values[0].partition("=")[0] for values in fields]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--sweep {twice} is given twice", hint="name all its values at once, with commas")
    combinations = list(product(*fields))
    if len(combinations) > MOST_MEMBERS:
        raise UsageError(f"that makes {len(combinations):,} jobs; a sweep has {MOST_MEMBERS:,} at most")
    return combinations


def _values(sweep: str) -> list[str]:
    name, equals, text = sweep.partition("=")
    values = _split(text)
    if not equals or not name or not all(values):
        raise UsageError(f"--sweep {sweep!r} names no field and values", hint=_HINT)
    if len(set(values)) < len(values):
        raise UsageError(f"--sweep {sweep!r} has a value twice")
    return [f"{name}={value}" for value in values]


def _split(text: str) -> list[str]:
    """Cut at commas, but at none within brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
