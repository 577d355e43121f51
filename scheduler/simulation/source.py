"""A workload by its name: a file, or one of the standard ones with its seed."""

import re
from pathlib import Path

from scheduler.errors import UsageError
from scheduler.simulation.standard import Kind, draw
from scheduler.simulation.workload import Job, read

_NAME = re.compile(r"(standard|all-at-once|utilisation-(0\.\d+)):(\d+)")


def open_workload(name: str) -> list[Job]:
    """Read a file, or draw `standard:SEED`, `all-at-once:SEED` or `utilisation-0.7:SEED`."""
    match = _NAME.fullmatch(name)
    if match:
        kind = Kind(utilisation=float(match[2] or Kind.utilisation), all_at_once=match[1] == "all-at-once")
        if not 0 < kind.utilisation < 1:
            raise UsageError(f"{name}: a mean utilisation is between 0 and 1")
        return draw(int(match[3]), kind)
    path = Path(name)
    if not path.exists():
        raise UsageError(
            f"there is no workload file {name}", hint="mmq simulate --workload standard:1 needs no file; 1 is a seed"
        )
    return read(path)
