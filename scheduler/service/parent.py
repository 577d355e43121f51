"""Children that do not outlive their parent: Linux's parent-death signal.

It fires when the *thread* that started the child ends, so children are started from the main thread only. Never
used for shims or trainers, which outlive everybody.
"""

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def dies_with_parent() -> Callable[[], None]:
    """What a child runs before its program: ask for TERM at our death, and go at once if we have died already."""
    parent = os.getpid()

    def ask() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask
