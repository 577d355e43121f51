"""The log of a run, for people: standard output, a line at a time."""

import sys


def say(line: str) -> None:
    print(line, file=sys.stdout, flush=True)
