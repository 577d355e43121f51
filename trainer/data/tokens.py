"""Tokenised rows in memory-mapped files, made once and kept by content: host memory does not grow with the data.

A cache entry is a directory, complete or absent: tokens.bin, targets.bin (one byte a token, SFT only),
offsets.bin (int64), counts.json. Its name is a digest of all that went into it.
"""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from trainer.config import Config
from trainer.data.batches import Row
from trainer.data.rows import Passed, Reader
from trainer.data.tokenizer import Tokenizer, chat_pieces
from trainer.errors import BadData
from trainer.files.storage import new_directory, write_file

FORMAT = 2
ROWS_AT_ONCE = 512
STEADY_SECONDS = 2.0  # a file changed less than this ago may change again within one tick of its clock


class Counts(msgspec.Struct, kw_only=True):
    """What became of the rows of a file; reported at the start of a run."""

    rows: int = 0  # kept
    tokens: int = 0
    targets: int = 0
    truncated_rows: int = 0  # longer than max_seq_len: cut there, as upstream does
    dropped_rows: int = 0  # nothing to learn from, for one of the three reasons below
    empty_rows: int = 0
    unanswered_rows: int = 0  # no words of an assistant
    cut_off_rows: int = 0  # none of an assistant within max_seq_len
    passed: Passed = msgspec.field(default_factory=Passed)  # what never became a row


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """The rows of one data file. Indexing copies one row out of the mapping."""

    key: str
    counts: Counts
    tokens: npt.NDArray[np.integer[Any]]
    offsets: npt.NDArray[np.int64]
    targets: npt.NDArray[np.bool_] | None  # None: all but the first token of each row

    def __len__(self) -> int:
        return self.counts.rows

    def __getitem__(self, index: int) -> Row:
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        every = np.arange(end - start) > 0
        is_target = every if self.targets is None else np.array(self.targets[start:end])
        return Row(tokens=np.array(self.tokens[start:end]), is_target=is_target)

    def length(self, index: int) -> int:
        return int(self.offsets[index + 1] - self.offsets[index])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a file becomes tokens."""

    kind: str
    tokenizer: Tokenizer
    max_seq_len: int
    skips_broken_rows: bool = False

    def key(self, content: str) -> str:
        parts = (FORMAT, content, self.kind, self.tokenizer.digest, self.max_seq_len, self.skips_broken_rows)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    @property
    def dtype(self) -> type[np.integer[Any]]:
        return np.uint16 if self.tokenizer.entries <= 1 << 16 else np.uint32


def recipe_of(config: Config, tokenizer: Tokenizer) -> Recipe:
    return Recipe(
        kind=config.kind,
        tokenizer=tokenizer,
        max_seq_len=config.max_seq_len,
        skips_broken_rows=config.data.broken_rows == "skip",
    )


def open_tokens(path: Path, recipe: Recipe, cache: Path, check_stop: Callable[[], None]) -> TokenFile:
    """Map the tokenised rows of a file, tokenising it first if the cache has nothing of this content."""
    key = recipe.key(_content_digest(path, cache))
    entry = cache / key
    if not entry.exists():
        with new_directory(entry) as directory:
            _tokenise(path, recipe, directory, check_stop)
    counts = msgspec.json.decode((entry / "counts.json").read_bytes(), type=Counts)
    if not counts.rows:
        raise BadData(str(path), None, None, _nothing(counts), "each line is one row in MiniMind's format")
    targets = entry / "targets.bin"
    return TokenFile(
        key=key,
        counts=counts,
        tokens=np.memmap(entry / "tokens.bin", mode="r", dtype=recipe.dtype),
        offsets=np.memmap(entry / "offsets.bin", mode="r", dtype=np.int64),
        targets=np.memmap(targets, mode="r", dtype=np.bool_) if targets.exists() else None,
    )


def _nothing(counts: Counts) -> str:
    """Say why a file has no row to learn from."""
    broken = counts.passed.broken_rows
    if not broken:
        return "no row to learn from" if counts.dropped_rows else "the file is empty"
    return f"no row to learn from: {broken:,} are broken, the first: {counts.passed.first_broken[0]}"


def encode_texts(texts: list[str], recipe: Recipe) -> Iterator[tuple[list[int], None, bool]]:
    """Pretraining: begin + tokens + end, cut to max_seq_len; the last of the triple says whether it was cut."""
    room = recipe.max_seq_len - 2
    for ids in recipe.tokenizer.encode(texts):
        framed = [recipe.tokenizer.begin, *ids[:room], recipe.tokenizer.end] if ids else []
        yield framed, None, len(ids) > room


def encode_conversations(chats: list[Any], recipe: Recipe) -> Iterator[tuple[list[int], list[bool], bool]]:
    """SFT: the ChatML template, in which only the assistant's words and their end are targets."""
    pieces = [list(chat_pieces(messages)) for messages in chats]
    encoded = iter(recipe.tokenizer.encode([text for chat in pieces for text, _ in chat]))
    for chat in pieces:
        ids: list[int] = []
        targets: list[bool] = []
        for _, is_target in chat:
            piece = next(encoded)
            ids += piece
            targets += [is_target] * len(piece)
        yield ids[: recipe.max_seq_len], targets[: recipe.max_seq_len], len(ids) > recipe.max_seq_len


def _tokenise(path: Path, recipe: Recipe, directory: Path, check_stop: Callable[[], None]) -> None:
    counts, end = Counts(), 0
    pretrain = recipe.kind == "pretrain"
    reader = Reader(path, recipe.kind, skips=recipe.skips_broken_rows)
    rows: Iterator[Any] = reader.texts() if pretrain else reader.conversations()
    encode: Any = encode_texts if pretrain else encode_conversations
    with (
        (directory / "tokens.bin").open("wb") as tokens,
        (directory / "offsets.bin").open("wb") as offsets,
        (directory / ("unused" if pretrain else "targets.bin")).open("wb") as masks,
    ):
        offsets.write(np.int64(0).tobytes())
        while batch := list(itertools.islice(rows, ROWS_AT_ONCE)):
            check_stop()
            for ids, is_target, cut in encode(batch, recipe):
                learned = (len(ids) - 1 if is_target is None else sum(is_target)) if ids else 0
                counts.truncated_rows += cut
                if not learned:
                    _drop(counts, is_empty=not ids, is_cut=cut)
                    continue
                end += len(ids)
                counts.rows, counts.tokens, counts.targets = counts.rows + 1, end, counts.targets + learned
                tokens.write(np.array(ids, dtype=recipe.dtype).tobytes())
                offsets.write(np.int64(end).tobytes())
                if is_target is not None:
                    masks.write(np.array(is_target, dtype=np.bool_).tobytes())
    (directory / "unused").unlink(missing_ok=True)
    counts.passed = reader.passed
    (directory / "counts.json").write_bytes(msgspec.json.encode(counts))


def _drop(counts: Counts, *, is_empty: bool, is_cut: bool) -> None:
    counts.dropped_rows += 1
    if is_empty:
        counts.empty_rows += 1
    elif is_cut:
        counts.cut_off_rows += 1
    else:
        counts.unanswered_rows += 1


def _content_digest(path: Path, cache: Path) -> str:
    """Digest a file's bytes; what was found is noted by path, size and times, so that a second start is quick."""
    try:
        stat = path.stat()
        identity = (str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        note = cache / f"digest-{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}"
        if note.exists():
            return note.read_text()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        remedy = "check data.path and data.validation; they are read at the start of each attempt"
        raise BadData(str(path), None, None, error.strerror or str(error), remedy) from None
    if time.time() - max(stat.st_mtime, stat.st_ctime) > STEADY_SECONDS:
        cache.mkdir(parents=True, exist_ok=True)
        write_file(note, digest.encode())
    return digest
