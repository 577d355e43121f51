"""From a request to its answer: each mode rehearsed, and each candidate replayed."""

from typing import Any

import torch

from trainer.config import Config
from trainer.trace import compiler
from trainer.trace.footprint import Mode
from trainer.trace.forked import shared_out
from trainer.trace.ranks import import_sharding
from trainer.trace.request import Request, as_json, read_request
from trainer.trace.shapes import ShapeMemory


def answer(text: bytes) -> dict[str, Any]:
    """Answer the request that the text holds; BadConfiguration."""
    compiler.leave_out()
    torch.set_num_threads(1)
    request = read_request(text)
    configs = request.configs()
    if any(config.plan.spreads for config in configs):
        import_sharding()  # once, for all workers
    shapes = ShapeMemory()
    traced = shared_out(configs, lambda config: _of_mode(config, request, shapes), request.workers)
    return {
        "torch": torch.__version__.partition("+")[0],
        "parameters": traced[0]["parameters"],
        "candidates": [candidate for mode in traced for candidate in mode["candidates"]],
    }


def _of_mode(config: Config, request: Request, shapes: ShapeMemory) -> dict[str, Any]:
    mode = Mode(config, request.target_of(), shapes)
    candidates = [
        as_json(mode.candidate(rows)) | ({"course": mode.course(rows)} if request.course else {})
        for rows in request.micro_batches
    ]
    return {"parameters": mode.parameters, "candidates": candidates}
