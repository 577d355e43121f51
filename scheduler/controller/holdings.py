"""Whose memory it is: device processes traced to the live attempts they belong to. Reads /proc; fails to "foreign"."""

from collections.abc import Callable, Iterable, Mapping

from scheduler.devices.device import DeviceReading
from scheduler.processes.liveness import parent_of, process_started
from scheduler.store.records import Attempt

_DEEPEST = 64  # generations


def owners(attempts: Iterable[Attempt], *, started: Callable[[int], int | None] = process_started) -> dict[int, int]:
    """Map the pids of shims and trainers to their attempts; a pid that another process has by now is left out."""
    found: dict[int, int] = {}
    for attempt in attempts:
        for pid, ticks in ((attempt.shim_pid, attempt.shim_started), (attempt.pid, attempt.pid_started)):
            if pid is not None and ticks is not None and started(pid) == ticks:
                found[pid] = attempt.id
    return found


def held_bytes(
    reading: DeviceReading,
    roots: Mapping[int, int],
    reserved: Mapping[int, int],
    *,
    parent: Callable[[int], int | None] = parent_of,
) -> dict[int, int]:
    """Sum what each attempt holds on a device, its trainer's descendants included.

    A driver that does not say how much a process holds (0 bytes) leaves a rest of the used memory unexplained. If all
    such processes are ours, the rest is theirs, up to their reservations; otherwise nothing can be told, and it counts
    as foreign.
    """
    held: dict[int, int] = {}
    silent: set[int | None] = set()
    for pid, size in reading.processes:
        attempt_id = attempt_of(pid, roots, parent)
        if size == 0:
            silent.add(attempt_id)
        elif attempt_id is not None:
            held[attempt_id] = held.get(attempt_id, 0) + size
    rest = reading.used_bytes - sum(size for _, size in reading.processes)
    if None not in silent:
        for attempt_id in sorted(one for one in silent if one is not None):
            share = max(0, min(rest, reserved.get(attempt_id, 0) - held.get(attempt_id, 0)))
            held[attempt_id] = held.get(attempt_id, 0) + share
            rest -= share
    return held


def attempt_of(pid: int, roots: Mapping[int, int], parent: Callable[[int], int | None]) -> int | None:
    """Return the attempt that a process belongs to, by its ancestors; None: it is foreign."""
    ancestor: int | None = pid
    for _ in range(_DEEPEST):
        if ancestor is None or ancestor <= 1:
            return None
        if ancestor in roots:
            return roots[ancestor]
        ancestor = parent(ancestor)
    return None
