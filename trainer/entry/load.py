"""Finds the function that builds a loop, and reads what it gives back.

The file is a person's own: it is run as it is, with its folder on the path, as `python FILE` would. A package there of
the same name as ours is theirs to import.
"""

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from torch import nn

from trainer.entry.unknown import BadEntry


def load(file: Path, function: str) -> Callable[..., Any]:
    """Import the file and return its function; BadEntry."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise BadEntry(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    sys.path.insert(0, str(file.resolve().parent))
    _set_ours_aside(file.resolve().parent)
    spec.loader.exec_module(module)
    loop_function = getattr(module, function, None)
    if not callable(loop_function):
        raise BadEntry(f"{file} has no function {function}")
    return loop_function


def _set_ours_aside(folder: Path) -> None:
    ours = __name__.partition(".")[0]
    if PathFinder.find_spec(ours, [str(folder)]) is not None and not Path(__file__).is_relative_to(folder):
        for name in [name for name in sys.modules if name.partition(".")[0] == ours]:
            del sys.modules[name]


def built(file: Path, name: str, settings: Mapping[str, Any]) -> tuple[nn.Module, Callable[[], Any]]:
    """Load the function and call it with the settings; BadEntry unless it gives a model and a step.

    Within the emulation, since a file may ask at its top whether there is a GPU, and take names from torch.
    """
    function = load(file, name)
    try:
        loop = function(**settings)
    except TypeError as error:
        if getattr(error.__traceback__, "tb_next", None) is not None:
            raise
        takes = ", ".join(inspect.signature(function).parameters) or "no arguments"
        raise BadEntry(
            f"{name} can't be called with {', '.join(settings) or 'nothing'}: {error}; it takes {takes}"
        ) from None
    if not isinstance(loop, tuple) or len(loop) != 2 or not isinstance(loop[0], nn.Module) or not callable(loop[1]):
        raise BadEntry(f"{name} must return a model (torch.nn.Module) and a step (a function without arguments)")
    return loop
