"""`python -m trainer.entry`: a request on stdin, its answer on stdout. Exit 1 if there is none, with what went wrong.

That is told on stdout too, as `error` and perhaps `hint`. What the loop itself prints goes to stderr.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

from trainer.entry.complaint import complaint  # now: a loop's folder may have a `trainer` of its own
from trainer.trace.parent import end_with_parent


def main() -> int:
    end_with_parent()
    started = time.monotonic()
    request = json.load(sys.stdin)
    ours = os.getpid()
    with _stdout_kept() as out:
        reply = answered(request)
        if os.getpid() != ours:  # the loop forked, and this is not the process that is asked
            os._exit("error" in reply)
        reply["seconds"] = round(time.monotonic() - started, 3)
        out.write(json.dumps(reply))
    return 1 if "error" in reply else 0


def answered(request: dict[str, Any]) -> dict[str, Any]:
    try:
        from trainer.entry.answer import answer

        sys.argv = [request["file"]]
        with _no_sudden_end():
            return answer(request)
    except (Exception, SystemExit) as error:  # noqa: BLE001 (the loop's own, or a thing that the emulation lacks)
        traceback.print_exc()
        return complaint(error, request)


@contextmanager
def _stdout_kept() -> Iterator[Any]:
    """Keep stdout for the answer: whatever else writes there, a library in C too, writes to stderr."""
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        yield out


@contextmanager
def _no_sudden_end() -> Iterator[None]:
    """Let `os._exit` in this process, which would take the answer along, be told as any other end; not in a fork's."""
    ours, end = os.getpid(), os._exit

    def exit_instead(status: int) -> NoReturn:
        if os.getpid() != ours:
            end(status)
        raise SystemExit(status)

    with patch.object(os, "_exit", exit_instead):
        yield


if __name__ == "__main__":
    sys.exit(main())
