"""What a model is asked, as its training rows are: a text begun, or a question that waits for its answer."""

from trainer.config import Config
from trainer.data.batches import Row
from trainer.data.rows import Message
from trainer.data.tokenizer import Tokenizer, chat_pieces, opening
from trainer.inference.decoding import decode
from trainer.memory.device import Device
from trainer.model.minimind import MiniMind

PROMPT_TOKENS = 16  # of a pretraining row, when no prompt is given


def sample_text(model: MiniMind, device: Device, config: Config, tokenizer: Tokenizer, row: Row) -> tuple[str, str]:
    """Give a prompt, CONFIG's or the beginning of `row`, and what the model makes of it."""
    text, max_new_tokens = config.sample.prompt, config.sample.max_new_tokens
    prompt = beginning_of(row, config.kind, tokenizer) if text is None else prompt_ids(text, config.kind, tokenizer)
    prompt = prompt[-max(1, config.max_seq_len - max_new_tokens) :]
    tokens = decode(
        model,
        device,
        prompt,
        end=tokenizer.end,
        max_new_tokens=max_new_tokens,
        temperature=config.sample.temperature,
        seed=config.train.seed,
    )
    return tokenizer.decode(prompt), tokenizer.decode(tokens)


def prompt_ids(text: str, kind: str, tokenizer: Tokenizer) -> list[int]:
    """Encode a prompt: the beginning of a text for a pretrained model, a user's words for one that was fine-tuned."""
    if kind == "pretrain":
        return [tokenizer.begin, *tokenizer.encode([text])[0]]
    question = [piece for piece, _ in chat_pieces([Message(role="user", content=text)])]
    return [token for piece in tokenizer.encode([*question, opening("assistant")]) for token in piece]


def beginning_of(row: Row, kind: str, tokenizer: Tokenizer) -> list[int]:
    """Take so much of a row that there is something to continue: up to the first answer in a conversation."""
    length = PROMPT_TOKENS if kind == "pretrain" else int(row.is_target.argmax())
    return [int(token) for token in row.tokens[:length] if token != tokenizer.end or kind == "sft"]
