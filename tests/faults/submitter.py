"""Types `mmq submit FILE --key PREFIX-N` so often in one process: `python -m tests.faults.submitter FILE PREFIX COUNT`.

Prints the ids, as the command does, and ends at the first submit that is refused.
"""

import sys

from scheduler.cli.run import run

file, prefix, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
for number in range(count):
    code = run(["submit", file, "--key", f"{prefix}-{number}"])
    if code:
        sys.exit(code)
