"""Processes that a trainer has started, and theirs: found though they left its group, its session, or their parent.

Orphans are given to the nearest ancestor that asked for them. The shim does, so whatever its trainer leaves behind
ends up below the shim. Linux only, as all of the shim is.
"""

import contextlib
import ctypes
from pathlib import Path

from scheduler.processes.liveness import process_started

_PR_SET_CHILD_SUBREAPER = 36


def inherit_orphans() -> None:
    """Become the parent of what our children leave behind."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> set[int]:
    """The living processes below this one."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        children = _children(waiting.pop()) - found
        found |= children
        waiting += children
    return {child for child in found if process_started(child) is not None}


def _children(pid: int) -> set[int]:
    children: set[int] = set()
    with contextlib.suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children.update(map(int, (thread / "children").read_text().split()))
    return children
