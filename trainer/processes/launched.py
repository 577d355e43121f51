"""What torchrun says of the processes it has started, in their environment. Imports nothing heavy."""

import os

from trainer.errors import BadConfiguration


def rank() -> int:
    """Give the number of this process in the run; 0 where it is alone."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Give the number of this process on its host, which is that of its device."""
    return _number("LOCAL_RANK", 0)


def world_size() -> int:
    return _number("WORLD_SIZE", 1)


def _number(name: str, default: int) -> int:
    told = os.environ.get(name, "")
    if told and not told.isdecimal():
        raise BadConfiguration(f"{name} in the environment is {told!r}, and no number\nhint: torchrun sets it")
    return int(told) if told else default
