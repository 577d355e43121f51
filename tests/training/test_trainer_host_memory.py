"""Host memory stays flat while a file is tokenised, however long it is; what is mapped is no memory of ours.

Measured in a process of its own, by `python -m tests.training.test_trainer_host_memory DIRECTORY`: in one that has run
other tests, what they gave back would hide it.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from tests.training.conftest import REPOSITORY
from trainer.config import parse_config
from trainer.data.tokenizer import open_tokenizer
from trainer.data.tokens import Recipe, open_tokens

ROWS = 6000  # about 4 MB: kept as lists of numbers they would be 10 MiB at least
GROWTH_LIMIT_MIB = 6


def anonymous_mib() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) / 1024


def test_tokenising_a_longer_file_takes_no_more_memory(tmp_path: Path) -> None:
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(2000)]
    lines = [json.dumps({"text": " ".join(draw.choices(words, k=100))}) for _ in range(ROWS)]
    sample, rows = tmp_path / "sample.jsonl", tmp_path / "rows.jsonl"
    sample.write_text("\n".join(lines[:200]) + "\n")
    rows.write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen[-1] - seen[len(seen) // 3] < GROWTH_LIMIT_MIB


def measure(folder: Path) -> list[float]:
    config = {"kind": "pretrain", "data": {"path": str(folder / "sample.jsonl")}, "model": {"vocab_size": 1024}}
    tokenizer = open_tokenizer(parse_config(config), folder)
    recipe = Recipe(kind="pretrain", tokenizer=tokenizer, max_seq_len=340)
    seen: list[float] = []
    open_tokens(folder / "rows.jsonl", recipe, folder / "cache", lambda: seen.append(anonymous_mib()))
    return seen


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
