"""The form of a log line: `at=TIME level=LEVEL from=PART pid=N ... message="..."`, read by people and by programs.

One event is one line, whatever it says: line breaks and control characters are escaped as in JSON.
"""

import json
import os
import re
import time

_BARE = re.compile(r"[\w.:/@+-]+")
_MESSAGE = re.compile(r' message=("(?:[^"\\]|\\.)*")')


def log_line(level: str, part: str, message: str, *, at: float | None = None, **more: object) -> str:
    """Write a line, without its end. `more` are fields of its own: numbers, words or sentences; None is left out."""
    fields = {"at": _time(time.time() if at is None else at), "level": level, "from": part, "pid": os.getpid(), **more}
    head = " ".join(f"{name}={_value(value)}" for name, value in fields.items() if value is not None)
    return f"{head} message={json.dumps(message)}"


def message_of(line: str) -> str:
    """A line's message; if it is not of this form, the whole line."""
    match = _MESSAGE.search(line) if line.startswith("at=") else None
    return str(json.loads(match[1])) if match else line


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}Z"


def _value(value: object) -> str:
    text = str(value)
    return text if _BARE.fullmatch(text) else json.dumps(text)
