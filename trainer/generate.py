"""`python -m trainer.generate RUN_DIR --prompt TEXT`: what a trained model makes of a prompt, printed as it comes.

On the CPU, in float32.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from trainer.errors import BadConfiguration
from trainer.heavy import kept_to_the_end
from trainer.program import run_program, tell

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # the end of a text whose last character is not all there yet


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    tell("loading ...")
    with kept_to_the_end():
        from trainer.decoding import decode
        from trainer.result import find, open_model, open_tokenizer_of
        from trainer.sampling import prompt_ids
    found = find(options.run_dir)
    tokenizer = open_tokenizer_of(found)
    prompt = prompt_ids(options.prompt, found.kind, tokenizer)
    positions = found.model["max_position_embeddings"]
    if len(prompt) >= positions:
        raise BadConfiguration(f"the prompt has {len(prompt):,} tokens; this model can read {positions - 1:,} at most")
    length = max(4, min(positions, len(prompt) + options.max_new_tokens))
    model, device = open_model(found, found.config(data={"path": "", "max_seq_len": length}))
    made = decode(
        model,
        device,
        prompt,
        end=tokenizer.end,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        seed=options.seed,
    )
    tell("")
    for text in in_pieces(_timed(made), tokenizer.decode):
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")


def in_pieces(tokens: Iterable[int], decode: Callable[[list[int]], str]) -> Iterator[str]:
    """Yield a text as its tokens come: whole characters only, though a token may be a part of one."""
    ids: list[int] = []
    told = ""
    for token in tokens:
        ids.append(token)
        text = decode(ids)
        if not text.endswith(UNFINISHED):
            yield text[len(told) :]
            told = text
    yield decode(ids)[len(told) :]


def _timed(tokens: Iterable[int]) -> Iterator[int]:
    """Pass tokens on, and say at the end how fast they came."""
    began_at, count = time.monotonic(), 0
    for token in tokens:
        count += 1
        yield token
    seconds = max(time.monotonic() - began_at, 1e-9)
    print(f"{count} tokens in {seconds:.1f} s, {count / seconds:.1f} a second", file=sys.stderr)


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
