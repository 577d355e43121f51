"""The shim's diary: dated lines on stderr, which the launcher has pointed at the attempt's shim.log."""

import sys
import time


def log(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")
    sys.stderr.flush()
