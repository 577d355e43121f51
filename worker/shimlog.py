"""The shim's diary: lines on stderr, which the launcher has pointed at the attempt's shim.log."""

import sys

from scheduler.processes.loglines import log_line


def log(line: str) -> None:
    sys.stderr.write(log_line("info", "shim", line) + "\n")
    sys.stderr.flush()
