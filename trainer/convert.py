"""`python -m trainer.convert RUN_DIR FORMAT OUTPUT`: a run's result as other programs load it.

`minimind`: the .pth that MiniMind's programs look for; `huggingface`: a directory for transformers. Both with the
tokenizer and its chat template. OUTPUT is a new directory, complete or absent. Exit 2 and a sentence if it can't be.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec

from trainer.config import ModelConfig
from trainer.errors import BadConfiguration, ExitCode, TrainerError
from trainer.heavy import kept_to_the_end

FORMATS = ("minimind", "huggingface")
USAGE = f"usage: python -m trainer.convert RUN_DIR {'|'.join(FORMATS)} OUTPUT"


def main(arguments: list[str]) -> int:
    if len(arguments) != 3 or arguments[1] not in FORMATS:
        print(USAGE, file=sys.stderr)
        return ExitCode.BAD_CONFIGURATION
    try:
        convert(Path(arguments[0]), arguments[1], Path(arguments[2]))
    except (TrainerError, OSError) as error:
        print(error, file=sys.stderr)
        return error.exit_code if isinstance(error, TrainerError) else ExitCode.FAILED
    return ExitCode.DONE


def convert(run_dir: Path, form: str, output: Path) -> None:
    """Write the result in `run_dir` to the new directory `output`."""
    final = run_dir / "final"
    if not final.is_dir():
        raise BadConfiguration(f"{run_dir} has no result yet: there is no {final}")
    if output.exists():
        raise BadConfiguration(f"{output} exists already\nhint: name another with --output")
    with kept_to_the_end():
        from trainer import huggingface  # torch, from here on
        from trainer.storage import new_directory
        from trainer.weights import read_weights

    model = read_model(final / "config.json")
    with new_directory(output) as directory:
        if form == "huggingface":
            huggingface.write_model(directory, model, read_weights(final))
        else:
            for path in final.glob("*.pth"):
                shutil.copyfile(path, directory / path.name)
        huggingface.write_tokenizer(directory, (final / "tokenizer.json").read_text(encoding="utf-8"), model)


def read_model(path: Path) -> ModelConfig:
    """Read a model's shape as `final/config.json` has it."""
    value: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    try:
        return msgspec.convert({k: v for k, v in value.items() if k not in ("model_type", "kind")}, ModelConfig)
    except msgspec.ValidationError as error:
        raise BadConfiguration(f"{path}: {error}") from None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
