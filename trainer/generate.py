"""Text from a model: one token after another, the whole context run again for each. Slow, small and plain."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from trainer.batches import Row, input_length
from trainer.config import Config
from trainer.memory.device import Device
from trainer.model import MiniMind
from trainer.rows import Message
from trainer.tokenizer import Tokenizer, chat_pieces, opening

PROMPT_TOKENS = 16  # of a pretraining row, when no prompt is given


def sample_text(model: MiniMind, device: Device, config: Config, tokenizer: Tokenizer, row: Row) -> tuple[str, str]:
    """Give a prompt, CONFIG's or the beginning of `row`, and what the model makes of it."""
    prompt = prompt_ids(config, tokenizer, row)[-config.max_seq_len :]
    made = generate(
        model,
        device,
        prompt,
        end=tokenizer.end,
        max_seq_len=config.max_seq_len,
        max_new_tokens=config.sample.max_new_tokens,
        temperature=config.sample.temperature,
        seed=config.train.seed,
    )
    return tokenizer.decode(prompt), tokenizer.decode(made)


def prompt_ids(config: Config, tokenizer: Tokenizer, row: Row) -> list[int]:
    """Encode the prompt as the training rows are: begun as a text, or as a question waiting for its answer."""
    given = config.sample.prompt
    if given is None:
        first_target = int(row.is_target.argmax())
        length = PROMPT_TOKENS if config.kind == "pretrain" else first_target
        return [int(token) for token in row.tokens[:length] if token != tokenizer.end or config.kind == "sft"]
    if config.kind == "pretrain":
        return [tokenizer.begin, *tokenizer.encode([given])[0]]
    question = [text for text, _ in chat_pieces([Message(role="user", content=given)])]
    return [token for piece in tokenizer.encode([*question, opening("assistant")]) for token in piece]


def generate(
    model: MiniMind,
    device: Device,
    prompt: Sequence[int],
    *,
    end: int,
    max_seq_len: int,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[int]:
    """Continue a prompt until the end token or the limit; temperature 0 takes the likeliest each time."""
    generator = torch.Generator().manual_seed(seed)

    def tokens() -> Iterator[int]:
        context = list(prompt)
        for _ in range(max_new_tokens):
            token = _choose(_logits(model, device, context[-max_seq_len:], max_seq_len), temperature, generator)
            if token == end:
                return
            context.append(token)
            yield token

    with torch.no_grad():
        return list(tokens())


def _logits(model: MiniMind, device: Device, context: list[int], max_seq_len: int) -> Tensor:
    # Padded on the right, which causality hides: few lengths, so kernels made for a length are used again.
    with device.host():
        ids = torch.zeros(1, input_length(len(context) + 1, max_seq_len), dtype=torch.int64)
        ids[0, : len(context)] = torch.tensor(context)
    last = model(device.to_device(ids))[0, len(context) - 1]
    return device.to_host(F.linear(last, model.head_weight.to(last.dtype)).float())


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))
