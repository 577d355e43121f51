"""`python -m trainer.trace`: a request on stdin, the footprints on stdout. Exit 2 and one line if it asks nonsense."""

import sys
import time

import msgspec
import torch

from trainer.errors import BadConfiguration
from trainer.trace.footprint import Mode
from trainer.trace.parent import end_with_parent
from trainer.trace.request import as_json, read_request
from trainer.trace.shapes import ShapeMemory


def main() -> int:
    end_with_parent()
    started = time.monotonic()
    torch.set_num_threads(1)
    try:
        request = read_request(sys.stdin.buffer.read())
        shapes = ShapeMemory()
        modes = [Mode(config, request.target_of(), shapes) for config in request.configs()]
    except BadConfiguration as error:
        print(error, file=sys.stderr)
        return 2
    candidates = [as_json(mode.candidate(rows)) for mode in modes for rows in request.micro_batches]
    answer = {
        "torch": torch.__version__.partition("+")[0],
        "seconds": round(time.monotonic() - started, 3),
        "parameters": modes[0].parameters,
        "candidates": candidates,
    }
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
