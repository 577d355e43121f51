"""From a request to its answer: each mode rehearsed, and each candidate replayed."""

from typing import Any

import torch

from trainer.trace import compiler
from trainer.trace.footprint import Mode
from trainer.trace.request import as_json, read_request
from trainer.trace.shapes import ShapeMemory


def answer(text: bytes) -> dict[str, Any]:
    """Answer the request that the text holds; BadConfiguration."""
    compiler.leave_out()
    torch.set_num_threads(1)
    request = read_request(text)
    shapes = ShapeMemory()
    modes = [Mode(config, request.target_of(), shapes) for config in request.configs()]
    return {
        "torch": torch.__version__.partition("+")[0],
        "parameters": modes[0].parameters,
        "candidates": [
            as_json(mode.candidate(rows)) | ({"course": mode.course(rows)} if request.course else {})
            for mode in modes
            for rows in request.micro_batches
        ],
    }
