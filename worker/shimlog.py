"""The shim's diary: lines on stderr, which the launcher has pointed at the attempt's shim.log.

A line that can't be written is left out: a full disk must not end who looks after a trainer.
"""

import contextlib
import sys

from scheduler.processes.loglines import log_line


def log(line: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(log_line("info", "shim", line) + "\n")
        sys.stderr.flush()
