"""A model of Hugging Face's transformers, built from its configuration: nothing is downloaded.

    mmq estimate --entry examples/loops/hugging_face.py:build --set batch=8 --set checkpointing=true --gpu A100

Needs `pip install transformers` beside mmq; mmq itself does without.
"""

from collections.abc import Callable

import torch
from torch import nn


def build(
    batch: int = 8, length: int = 1024, layers: int = 24, checkpointing: bool = False
) -> tuple[nn.Module, Callable[[], None]]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(  # of Qwen2.5-0.5B
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=151936,
        tie_word_embeddings=True,
        use_cache=False,
    )
    model = Qwen2ForCausalLM(config).to("cuda", torch.bfloat16).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        ids = torch.randint(0, config.vocab_size, (batch, length)).to("cuda")
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return model, step
