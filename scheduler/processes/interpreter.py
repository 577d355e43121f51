"""How one of our programs starts another: the same interpreter, the same source, and no module from the directory
it happens to start in. Pure.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

_SOURCE = Path(__file__).resolve().parents[2]


def python_command(module: str, *arguments: str) -> list[str]:
    """The argument list of `python -m MODULE`, without the working directory on the path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def with_source(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which our packages are found, last on the path, also where they run uninstalled."""
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    if _SOURCE.name not in ("site-packages", "dist-packages") and str(_SOURCE) not in paths:
        paths.append(str(_SOURCE))
    return {**environment, **({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})}
