"""Runs the tracer of any torch loop, in a child of the interpreter that the loop runs with.

A person's own code runs there. Owns what is said where it gives no answer: it may end its process, or have it killed.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.footprint.tracer import TIME_LIMIT_SECONDS, hand_over, last_line, start
from scheduler.processes.signalling import signal_name

TRACER = Path(__file__).resolve().parents[2] / "trainer" / "entry" / "launch.py"
_NEEDED = {"parameters", "allocated_bytes", "reserved_bytes", "process_bytes", "parts", "course"}


@dataclass(frozen=True, kw_only=True)
class Traced:
    """What came of a loop's trace: its JSON, or an error in a sentence and perhaps what helps."""

    body: str | None = None
    error: str = ""
    hint: str | None = None


def trace_loop(
    request: Mapping[str, Any], *, python: str = sys.executable, time_limit_seconds: float = TIME_LIMIT_SECONDS
) -> Traced:
    """Trace a person's own loop and wait for the answer; OSError where the interpreter can't be started."""
    child = start((python, str(TRACER)), environment=os.environ)
    output = hand_over(child, json.dumps(request), time_limit_seconds)
    if output is None:
        return Traced(
            error=f"the loop was not built and stepped within {time_limit_seconds:g} s",
            hint="leave out of FUNCTION what does not decide on memory: downloads, most of the data, long schedules",
        )
    out, complaint = output
    return _read(out) if out.strip() else _ended(python, child.returncode, complaint)


def _read(out: str) -> Traced:
    try:
        reply = json.loads(out)
        missing = _NEEDED - set(reply)
    except (TypeError, ValueError) as error:
        return Traced(error=f"the tracer's answer can't be read: {error!r}")
    if "error" in reply:
        return Traced(error=reply["error"], hint=reply.get("hint"))
    return Traced(error=f"the tracer's answer lacks {sorted(missing)}") if missing else Traced(body=out)


def _ended(python: str, code: int, complaint: str) -> Traced:
    """Tell the end of a process that gave no answer; one that ends as it should has always given one."""
    last = last_line(complaint)
    words = f": {last}" if last else ""
    if code >= 0:
        return Traced(
            error=f"{python} ended with exit code {code} and without an answer{words}",
            hint="neither the loop nor a library that it uses may end its process",
        )
    name = signal_name(-code)
    if name == "SIGKILL":
        return Traced(
            error=f"the loop's process was killed from outside ({name}){words}",
            hint="free -h: most often the kernel does it, short of host memory; let FUNCTION make less there",
        )
    return Traced(
        error=f"the loop's process died of {name}{words}",
        hint=f"a library that the loop uses has crashed: {python} -X faulthandler FILE.py shows where",
    )
