"""The tokenizer of a run: Hugging Face's tokenizer.json, given, inherited with the weights, or trained from the data.

Owns the special tokens, the chat template and the choice. It is kept in the run directory from the first attempt
on, so that every later one reads the same.
"""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer as Encoder
from tokenizers import decoders, models, pre_tokenizers, trainers

from trainer.config import Config
from trainer.data.rows import Message, Reader
from trainer.errors import BadConfiguration
from trainer.files.storage import write_file

PAD, BEGIN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TRAINING_SAMPLE_BYTES = 64 * 1024**2  # enough text for 6400 entries; a larger file is sampled evenly


class Tokenizer:
    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        _, self.begin, self.end = (_special(encoder, token) for token in (PAD, BEGIN, END))
        self.entries = encoder.get_vocab_size()
        self.json = encoder.to_str()
        self.digest = hashlib.sha256(self.json.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts at once, in parallel; special tokens are added by nobody but the caller."""
        return [encoding.ids for encoding in self._encoder.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._encoder.decode(list(ids), skip_special_tokens=True))


def open_tokenizer(config: Config, run_dir: Path) -> Tokenizer:
    """Give the run's own tokenizer, making it at the first attempt."""
    kept = run_dir / "tokenizer.json"
    if kept.exists():
        return read_tokenizer(kept, config.model.vocab_size)
    source = _given(config)
    tokenizer = read_tokenizer(source, config.model.vocab_size) if source else _train(config)
    write_file(kept, tokenizer.json.encode())
    return tokenizer


def chat_pieces(messages: Iterable[Message]) -> Iterator[tuple[str, bool]]:
    """Write a conversation in the ChatML template: pieces of text, and whether each is a target."""
    for message in messages:
        yield opening(message.role), False
        yield f"{message.content}{END}\n", message.role == "assistant"


def opening(role: str) -> str:
    return f"{BEGIN}{role}\n"


def _given(config: Config) -> Path | None:
    if config.data.tokenizer:
        path = Path(config.data.tokenizer)
        return path / "tokenizer.json" if path.is_dir() else path
    if not config.init_from:
        return None
    weights = Path(config.init_from)
    places = (weights, weights / "final") if weights.is_dir() else (weights.parent,)
    for place in places:
        if (place / "tokenizer.json").exists():
            return place / "tokenizer.json"
    raise BadConfiguration(
        f"data.tokenizer: the weights of init_from {weights} need the tokenizer they were trained with"
        "\nhint: set data.tokenizer to its tokenizer.json"
    )


def read_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """Read a tokenizer.json; BadConfiguration if it is none, or has more entries than the model."""
    try:
        encoder = Encoder.from_file(str(path))
    except Exception as error:  # noqa: BLE001 (the library raises bare Exception for any file it can't read)
        raise BadConfiguration(f"data.tokenizer: {path}: {error}") from None
    if encoder.get_vocab_size() > vocab_size:
        raise BadConfiguration(
            f"data.tokenizer: {path} has {encoder.get_vocab_size()} entries, model.vocab_size is {vocab_size}"
        )
    return Tokenizer(encoder)


def _special(encoder: Encoder, token: str) -> int:
    number = encoder.token_to_id(token)
    if number is None:
        raise BadConfiguration(f"data.tokenizer: it lacks the token {token}, which MiniMind's format needs")
    return number


def _train(config: Config) -> Tokenizer:
    """Train byte-level BPE on the data: deterministic, all bytes known, specials at 0, 1 and 2."""
    encoder = Encoder(models.BPE())
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.model.vocab_size,
        special_tokens=[PAD, BEGIN, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    encoder.train_from_iterator(_sample(config), trainer)
    return Tokenizer(encoder)


def _sample(config: Config) -> Iterator[str]:
    path = Path(config.data.path)
    stride = 1 + (path.stat().st_size // TRAINING_SAMPLE_BYTES if path.exists() else 0)
    reader = Reader(path, config.kind, skips=config.data.broken_rows == "skip")
    if config.kind == "pretrain":
        yield from itertools.islice(reader.texts(), 0, None, stride)
        return
    for messages in itertools.islice(reader.conversations(), 0, None, stride):
        yield from (message.content for message in messages)


os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
