"""A tracer ends with whoever asked it: nobody else would read its answer, keep its time limit, or end it.

Linux's parent-death signal; it fires when the thread that started us ends, so the asker keeps that thread.
"""

import os

from trainer.processes.launched import die_with_parent

ASKER = "MMQ_TRACER_PARENT"  # the asker's pid; without it a tracer is on its own


def end_with_parent() -> None:
    """Ask to be killed at the asker's death; go at once if it has died already."""
    asker = os.environ.get(ASKER)
    if asker is None:
        return
    die_with_parent()
    if str(os.getppid()) != asker:
        os._exit(1)
