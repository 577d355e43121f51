"""Host memory stays flat while a file is tokenised, however long it is; what is mapped is no memory of ours."""

import json
import random
from pathlib import Path

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
    del lines
    config = parse_config({"kind": "pretrain", "data": {"path": str(sample)}, "model": {"vocab_size": 1024}})
    recipe = Recipe(kind="pretrain", tokenizer=open_tokenizer(config, tmp_path), max_seq_len=340)
    seen: list[float] = []
    open_tokens(rows, recipe, tmp_path / "cache", lambda: seen.append(anonymous_mib()))
    early, late = seen[len(seen) // 3], seen[-1]
    assert late - early < GROWTH_LIMIT_MIB
