"""Started as a file, by whichever interpreter a loop runs with: finds our package beside itself, and no other of mmq's.

So the interpreter keeps its own torch and its own libraries, and needs none of ours. Works from Python 3.10 on.
"""

import importlib.util
import sys
from pathlib import Path


def main() -> int:
    folder = Path(__file__).resolve().parents[1]
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]
    spec = importlib.util.spec_from_file_location(
        folder.name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        return 1
    sys.modules[folder.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[folder.name])
    from trainer.entry.__main__ import main as trace

    return trace()


if __name__ == "__main__":
    sys.exit(main())
