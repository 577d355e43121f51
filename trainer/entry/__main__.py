"""`python -m trainer.entry`: a request on stdin, its answer on stdout. Exit 2 and one line if the entry is unusable.

What the loop itself prints goes to stderr.
"""

import contextlib
import json
import sys
import time
import traceback
from pathlib import Path

from trainer.trace.parent import end_with_parent


def main() -> int:
    end_with_parent()
    started = time.monotonic()
    request = json.load(sys.stdin)
    from trainer.entry.answer import answer
    from trainer.entry.load import BadEntry
    from trainer.entry.trace import NoUpdate

    try:
        with contextlib.redirect_stdout(sys.stderr):
            told = answer(request)
    except (BadEntry, NoUpdate) as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:  # noqa: BLE001 (the loop's own, or a thing that the emulation lacks: told with its place)
        traceback.print_exc()
        print(f"{type(error).__name__}: {error} ({_place(error)})".replace("\n", " "), file=sys.stderr)
        return 1
    told["seconds"] = round(time.monotonic() - started, 3)
    print(json.dumps(told))
    return 0


def _place(error: Exception) -> str:
    """Name the line of the person's own, or of a library that they use, nearest to where it happened."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).resolve().parents[1])
    foreign = [one for one in frames if "/torch/" not in one.filename and not one.filename.startswith((ours, "<"))]
    place = (foreign or list(frames))[-1]
    return f"{place.filename}:{place.lineno}"


if __name__ == "__main__":
    sys.exit(main())
