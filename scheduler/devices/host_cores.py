"""How many cores this process and its children may use."""

import os


def usable_cores() -> int:
    """Count the cores that the scheduler's affinity leaves us: in a container or under taskset, not all there are."""
    return len(os.sched_getaffinity(0))
