"""From a request to its answer: each combination of memory means rehearsed, and each candidate replayed."""

from typing import Any

import torch

from trainer.config import Config
from trainer.trace import compiler
from trainer.trace.footprint import PeakPredictor
from trainer.trace.forks import map_in_forks
from trainer.trace.ranks import import_sharding
from trainer.trace.request import Request, as_json, read_request
from trainer.trace.shapes import ShapeCache


def answer(text: bytes) -> dict[str, Any]:
    """Answer the request that the text holds; BadConfiguration."""
    compiler.leave_out()
    torch.set_num_threads(1)
    request = read_request(text)
    configs = request.configs()
    if any(config.plan.spreads for config in configs):
        import_sharding()  # once, for all workers
    shapes = ShapeCache()
    modes = map_in_forks(configs, lambda config: _answer_mode(config, request, shapes), request.workers)
    return {
        "torch": torch.__version__.partition("+")[0],
        "parameters": modes[0]["parameters"],
        "candidates": [candidate for mode in modes for candidate in mode["candidates"]],
    }


def _answer_mode(config: Config, request: Request, shapes: ShapeCache) -> dict[str, Any]:
    predictor = PeakPredictor(config, request.device(), shapes)
    candidates = [
        as_json(predictor.candidate(rows)) | ({"course": predictor.course(rows)} if request.course else {})
        for rows in request.micro_batches
    ]
    return {"parameters": predictor.parameters, "candidates": candidates}
