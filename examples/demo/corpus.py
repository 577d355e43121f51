"""Real text that every Python brings along: the language reference for pretraining, docstrings for SFT.

Writes JSON lines in MiniMind's formats. Deterministic for one Python version; reads no network.
"""

import builtins
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

MODULES = (
    "argparse array ast bisect calendar codecs collections copy csv datetime decimal difflib enum fractions functools "
    "glob gzip hashlib heapq inspect io ipaddress itertools json logging math operator os os.path pathlib pickle queue "
    "random re shutil socket sqlite3 statistics string struct subprocess sys tarfile tempfile textwrap threading time "
    "tokenize traceback types typing unittest urllib.parse uuid weakref zipfile"
).split()
ROW_CHARACTERS = 450  # enough to fill the demo's 128 positions in most rows
ANSWER_CHARACTERS = 400


def write_pretrain(path: Path) -> int:
    """Write `{"text"}` rows from the language reference; return how many."""
    return _write(path, ({"text": text} for topic in sorted(topics) for text in _pieces(topics[topic])))


def write_sft(path: Path) -> int:
    """Write `{"conversations"}` rows, a question and an answer from each public docstring; return how many."""
    rows = (
        [{"role": "user", "content": f"What does {name} do?"}, {"role": "assistant", "content": answer}]
        for name, answer in _documented()
    )
    return _write(path, ({"conversations": row} for row in rows))


def _write(path: Path, rows: Iterator[dict[str, object]]) -> int:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def _pieces(text: str) -> Iterator[str]:
    """Cut a topic at blank lines into rows of about ROW_CHARACTERS."""
    piece = ""
    for paragraph in text.split("\n\n"):
        piece = f"{piece}\n\n{paragraph}" if piece else paragraph.strip("\n")
        if len(piece) >= ROW_CHARACTERS:
            yield piece
            piece = ""
    if len(piece) > 80:
        yield piece


def _documented() -> Iterator[tuple[str, str]]:
    for module_name in ("builtins", *MODULES):
        module = builtins if module_name == "builtins" else importlib.import_module(module_name)
        for name in sorted(n for n in vars(module) if not n.startswith("_")):
            member = getattr(module, name)
            summary = _summary(member) if callable(member) else ""
            if summary:
                yield (name if module is builtins else f"{module_name}.{name}"), summary


def _summary(member: object) -> str:
    """The docstring's prose, without a leading signature; empty where there is too little."""
    paragraphs = re.split(r"\n\s*\n", inspect.getdoc(member) or "")
    prose = [" ".join(p.split()) for p in paragraphs if not re.match(r"[\w.]+\(.*\)( ->.*)?$", p.strip())]
    text = " ".join(prose)[:ANSWER_CHARACTERS]
    return text if len(text) >= 40 else ""
