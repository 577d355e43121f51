"""`python -m trainer.convert RUN_DIR FORMAT OUTPUT`: a run's model as other programs load it.

`minimind`: the .pth that MiniMind's programs look for; `huggingface`: a directory for transformers. Both with the
tokenizer and its chat template. OUTPUT is a new directory, complete or absent.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import BadConfiguration
from trainer.garbage import frozen_imports
from trainer.program import run_program

FORMATS = ("minimind", "huggingface")


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    convert(options.run_dir, options.format, options.output)


def convert(run_dir: Path, form: str, output: Path) -> None:
    """Write the model of a run, its result or else its newest checkpoint, to the new directory `output`."""
    if output.exists():
        raise BadConfiguration(f"{output} exists already\nhint: name another directory")
    with frozen_imports():
        from trainer.files import export, huggingface  # torch, from here on
        from trainer.files.result import find, open_model, open_tokenizer_of
        from trainer.files.storage import new_directory

    trained = find(run_dir)
    config = trained.config(data={"path": "", "max_seq_len": 4})  # nothing runs: the least table of positions will do
    model, _ = open_model(trained, config)
    with new_directory(output) as directory:
        if form == "huggingface":
            huggingface.write_model(directory, config.model, dict(model.named_parameters()))
        else:
            export.write_pth(model.state_dict(), directory / export.pth_name(config))
        huggingface.write_tokenizer(directory, open_tokenizer_of(trained).json, config.model)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.convert", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="of a run; its final/ or its newest checkpoint")
    parser.add_argument("format", metavar="FORMAT", choices=FORMATS, help=" or ".join(FORMATS))
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="a directory that is not there yet")
    return parser


if __name__ == "__main__":
    sys.exit(run_program(main, sys.argv[1:]))
