"""`python -m trainer.generate RUN_DIR --prompt TEXT`: what a trained model makes of a prompt, printed as it comes.

On the CPU, in float32.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from trainer.errors import BadConfiguration
from trainer.garbage import frozen_imports
from trainer.program import run_program, show_progress

LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.01, 100.0
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # the end of a text whose last character is not all there yet


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    _check(options)
    show_progress("loading ...")
    with frozen_imports():
        from trainer.files.result import find, open_model, open_tokenizer_of
        from trainer.inference.decoding import decode
        from trainer.inference.sampling import prompt_ids
    trained = find(options.run_dir)
    tokenizer = open_tokenizer_of(trained)
    prompt = prompt_ids(options.prompt, trained.kind, tokenizer)
    positions = trained.model["max_position_embeddings"]
    if len(prompt) >= positions:
        raise BadConfiguration(f"the prompt has {len(prompt):,} tokens; this model can read {positions - 1:,} at most")
    length = max(4, min(positions, len(prompt) + options.max_new_tokens))
    model, device = open_model(trained, trained.config(data={"path": "", "max_seq_len": length}))
    tokens = decode(
        model,
        device,
        prompt,
        end=tokenizer.end,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        seed=options.seed,
    )
    show_progress("")
    began_at, counted = time.monotonic(), _Counted(tokens)
    for text in in_pieces(counted, tokenizer.decode):
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
    seconds = max(time.monotonic() - began_at, 1e-9)
    print(f"{counted.count} tokens in {seconds:.1f} s, {counted.count / seconds:.1f} a second", file=sys.stderr)


class _Counted:
    """Passes tokens on, and counts them."""

    def __init__(self, tokens: Iterable[int]) -> None:
        self._tokens = tokens
        self.count = 0

    def __iter__(self) -> Iterator[int]:
        for token in self._tokens:
            self.count += 1
            yield token


def _check(options: argparse.Namespace) -> None:
    if not (options.temperature == 0 or LEAST_TEMPERATURE <= options.temperature <= MOST_TEMPERATURE):
        reason = f"must be 0, or from {LEAST_TEMPERATURE} to {MOST_TEMPERATURE:g}, is {options.temperature}"
        raise BadConfiguration(f"--temperature: {reason}")
    if not 0 <= options.seed < 1 << 63:
        raise BadConfiguration(f"--seed: must be from 0 to 2**63 - 1, is {options.seed}")


def in_pieces(tokens: Iterable[int], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """Yield a text as its tokens come: whole characters only, though a token may be a part of one."""
    ids: list[int] = []
    yielded = ""
    for token in tokens:
        ids.append(token)
        text = decode(ids)
        if not text.endswith(UNFINISHED):
            yield text[len(yielded) :]
            yielded = text
    yield decode(ids)[len(yielded) :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.generate", description=__doc__)
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="of a run; its final/ or its newest checkpoint")
    parser.add_argument("--prompt", required=True, help="the beginning of a text, or (sft) what a user says")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest token each time")
    parser.add_argument("--seed", type=int, default=42)
    return parser


if __name__ == "__main__":
    sys.exit(run_program(main, sys.argv[1:]))
