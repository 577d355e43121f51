"""`python -m trainer.trace`: a request on stdin, the footprints on stdout. Exit 2 and one line if it makes no sense."""

import gc
import sys
import time

import msgspec

from trainer.errors import BadConfiguration
from trainer.garbage import frozen_imports
from trainer.trace.parent import end_with_parent


def main() -> int:
    end_with_parent()
    started = time.monotonic()
    with frozen_imports():
        from trainer.trace.answer import answer  # torch, from here on
    try:
        reply = answer(sys.stdin.buffer.read())
    except BadConfiguration as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        gc.freeze()
    reply["seconds"] = round(time.monotonic() - started, 3)
    sys.stdout.buffer.write(msgspec.json.encode(reply) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
