"""Reads exported directories with transformers, in a process of its own: its imports are slow, and warn.

Arguments: a conversation as JSON, then directories, each with `expected.safetensors` (ids, logits) beside it. Prints
what it found as JSON.
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file

warnings.simplefilter("ignore")
torch.set_num_threads(1)

from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

CONVERSATION = json.loads(sys.argv[1])


def read(directory: Path) -> dict[str, object]:
    model, info = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, dtype=torch.float32)
    expected = load_file(directory.with_name("expected.safetensors"))
    with torch.no_grad():
        logits = model(expected["ids"]).logits
    tokenizer = AutoTokenizer.from_pretrained(directory)
    chat = tokenizer.apply_chat_template(CONVERSATION, tokenize=False)
    text = model.generate(expected["ids"][:1], max_new_tokens=1, do_sample=False)
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    return {
        "class": type(model).__name__,
        "differing": [str(key) for kind in kinds for key in info[kind]],
        "difference": float((logits - expected["logits"]).abs().max()),
        "spread": float(expected["logits"].std()),
        "chat": chat,
        "prompt": tokenizer.apply_chat_template(CONVERSATION[:2], tokenize=False, add_generation_prompt=True),
        "ids": tokenizer(chat)["input_ids"],
        "specials": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        "generates": bool(text[0, -1] == expected["logits"][0, -1].argmax()),
    }


print(json.dumps([read(Path(argument)) for argument in sys.argv[2:]]))
