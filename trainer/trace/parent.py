"""A tracer ends with the process that started it: nobody else would read its answer, keep its time limit, or end it.

Linux's parent-death signal; it fires when the thread that started us ends, so the parent keeps that thread.
"""

import os

from trainer.processes.launched import die_with_parent

PARENT_VARIABLE = "MMQ_TRACER_PARENT"  # the parent's pid; without it a tracer is on its own


def end_with_parent() -> None:
    """Ask to be killed at the parent's death; go at once if it has died already."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None:
        return
    die_with_parent()
    if str(os.getppid()) != parent:
        os._exit(1)
