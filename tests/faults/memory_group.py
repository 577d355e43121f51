"""A control group of our own with a limit of memory, beyond which the kernel really kills; by either form of groups.

Owns the group from its making to its removal, and ends whoever is left in it; touches no other.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import until

GROUPS = Path("/sys/fs/cgroup")
FIRST_FORM = GROUPS / "memory"
LIMIT = "memory.limit_in_bytes"  # the second form's is memory.max
WITHOUT_SWAP = {"memory.swappiness": 0, "memory.swap.max": 0}  # of whichever form; else it is pushed out, and lives on


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[Path]:
    """A group that nobody is in yet; the test is skipped where none can be made."""
    first_form = (FIRST_FORM / LIMIT).exists()
    group = (FIRST_FORM if first_form else GROUPS) / f"mmq-test-{os.getpid()}"
    try:
        group.mkdir()
    except FileExistsError:
        raise  # somebody left it behind, which is no reason to skip
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        _limit(group, LIMIT if first_form else "memory.max", limit_bytes)
        yield group
    finally:
        until(lambda: _emptied(group), "an empty control group")
        until(lambda: _removed(group), "the control group's removal")


def take_in(group: Path, pid: int) -> None:
    """Move a process there. What it holds stays on the account of the group it comes from."""
    (group / "cgroup.procs").write_text(str(pid))


def members(group: Path) -> list[int]:
    return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]


def _limit(group: Path, file: str, limit_bytes: int) -> None:
    try:
        (group / file).write_text(str(limit_bytes))
    except OSError as error:
        pytest.skip(f"control groups limit no memory here: {error}")
    for name, value in WITHOUT_SWAP.items():
        if (group / name).exists():
            (group / name).write_text(str(value))


def _emptied(group: Path) -> bool:
    for pid in members(group):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return not members(group)


def _removed(group: Path) -> bool:
    with contextlib.suppress(OSError):  # busy for a moment after its last process
        group.rmdir()
    return not group.exists()
