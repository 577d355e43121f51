"""What torchrun says of the processes it has started, in their environment, and their end with it.

Imports nothing heavy.
"""

import contextlib
import ctypes
import os
import signal
import sys
from typing import NoReturn

from trainer.errors import BadConfiguration

_PR_SET_PDEATHSIG = 1


def rank() -> int:
    """Give the number of this process in the run; 0 where it is alone."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Give the number of this process on its host, which is that of its device."""
    return _number("LOCAL_RANK", 0)


def world_size() -> int:
    return _number("WORLD_SIZE", 1)


def end_with_launcher() -> None:
    """Be killed when torchrun is: it ends its processes whenever it can, but kill -9 leaves it no time to."""
    if world_size() > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()


def die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def leave(code: int) -> NoReturn:
    """End the process. One of several ends at once: in the interpreter's own end torch's threads may still abort it.

    Its launcher would then call a run failed that was done.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a full disk
            stream.flush()
    os._exit(code)


def _number(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    if value and not value.isdecimal():
        raise BadConfiguration(f"{name} in the environment is {value!r}, and no number\nhint: torchrun sets it")
    return int(value) if value else default
