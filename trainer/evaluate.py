"""`python -m trainer.evaluate RUN_DIR DATA`: loss and perplexity of a trained model on rows of one's choice, as JSON.

On the CPU, in float32. Nothing is written but a temporary directory of tokens.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import BadData
from trainer.garbage import frozen_imports
from trainer.program import run_program, show_progress


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    if not options.data.is_file():
        raise BadData(str(options.data), None, None, "no such file", "name a file of rows like those it was trained on")
    show_progress("loading ...")
    with frozen_imports():
        import msgspec

        from trainer.data.tokens import open_tokens, recipe_of
        from trainer.evaluation import Evaluation
        from trainer.files.result import find, open_model, open_tokenizer_of
        from trainer.reporting.events import EventLog
        from trainer.stopping import StopRequest
    trained = find(options.run_dir)
    data = {"path": str(options.data), "max_seq_len": options.max_seq_len, "broken_rows": options.broken_rows}
    config = trained.config(data=data, plan={"micro_batch": options.batch_size})
    model, device = open_model(trained, config)
    with tempfile.TemporaryDirectory(prefix="mmq-evaluate-") as cache:
        file = open_tokens(options.data, recipe_of(config, open_tokenizer_of(trained)), Path(cache), lambda: None)
        rows = sorted(range(len(file)), key=lambda row: -file.length(row))
        evaluation = Evaluation(config, device, EventLog(None), file, rows)
        loss = evaluation.run(model, 0, StopRequest(), lambda done: show_progress(f"{done:,} of {len(rows):,} rows"))
    show_progress("")
    assert loss is not None
    counts = msgspec.to_builtins(file.counts)
    result = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), **counts.pop("passed"), **counts}
    print(json.dumps(result | {"max_seq_len": config.max_seq_len, "weights": str(trained.place)}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.evaluate", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="of a run; its final/ or its newest checkpoint")
    parser.add_argument("data", metavar="DATA", type=Path, help="rows as the model was trained on")
    parser.add_argument("--max-seq-len", type=int, help="tokens of a row; by default MiniMind's for the kind")
    parser.add_argument("--batch-size", type=int, default=8, help="rows at once")
    parser.add_argument("--broken-rows", choices=["refuse", "skip"], default="refuse")
    return parser


if __name__ == "__main__":
    sys.exit(run_program(main, sys.argv[1:]))
