"""Keeps torch's compiler out of a process that only traces: nothing here is compiled, and its import takes two seconds.

Torch's shape rules for meta tensors ask it for one thing, `disable`, to be left alone by it. A stand-in answers that;
whoever asks it for anything else gets the real one.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

NAME = "torch._dynamo"


class _StandIn(ModuleType):
    @staticmethod
    def disable(function: Callable[..., Any], *_: object, **__: object) -> Callable[..., Any]:
        return function

    def __getattr__(self, name: str) -> Any:
        if name == "__file__":
            raise AttributeError(name)  # asked of every module there is, to find where a function was written
        if sys.modules.get(NAME) is self:
            del sys.modules[NAME]
        return getattr(importlib.import_module(NAME), name)


def leave_out() -> None:
    """Put the stand-in in its place, unless the real one is there. Torch must have been imported."""
    sys.modules.setdefault(NAME, _StandIn(NAME))
