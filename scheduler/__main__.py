"""The `mmq` command."""

import gc
import sys
from collections.abc import Sequence

from scheduler.errors import ExitCode

COLLECT_AFTER = 50_000  # objects; imports alone make Python's 700 some thirty times, a tenth of a `mmq status`


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is its result."""
    gc.set_threshold(COLLECT_AFTER)
    try:
        from scheduler.cli.run import run  # click, from here on

        return run(arguments)
    except KeyboardInterrupt:  # in the imports, or between them and `run`
        return int(ExitCode.INTERRUPTED)
    finally:
        gc.freeze()  # or Python searches all that is loaded for garbage as it ends: a quarter of a `mmq status`


if __name__ == "__main__":
    sys.exit(main())
