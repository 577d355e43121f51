"""The log of a run, for people: standard output, a line at a time."""

import sys

_silent = False


def be_silent() -> None:
    """Print nothing from now on: of several processes one is enough."""
    global _silent
    _silent = True


def say(line: str) -> None:
    if not _silent:
        print(line, file=sys.stdout, flush=True)
