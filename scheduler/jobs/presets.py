"""Defaults for what a job file leaves out: models by name, MiniMind's defaults for each kind. Pure values."""

import math
from collections.abc import Mapping
from typing import Any

DEFAULT_PRESET = "minimind-3"

_MINIMIND_3 = {
    "hidden_size": 768,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 6400,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "qk_norm": True,
    "tie_word_embeddings": True,
    "use_moe": False,
    "num_experts": 4,
    "num_experts_per_tok": 1,
    "num_shared_experts": 0,
    "router_aux_loss_coef": 5e-4,
}
_MINIMIND_2 = _MINIMIND_3 | {"num_key_value_heads": 2, "rms_norm_eps": 1e-5, "qk_norm": False}

MODELS: dict[str, dict[str, Any]] = {
    "minimind-3": _MINIMIND_3,
    "minimind-3-moe": _MINIMIND_3 | {"use_moe": True},
    "minimind2-small": _MINIMIND_2 | {"hidden_size": 512},
    "minimind2": _MINIMIND_2 | {"num_hidden_layers": 16},
    "minimind2-moe": _MINIMIND_2
    | {
        "hidden_size": 640,
        "use_moe": True,
        "num_experts_per_tok": 2,
        "num_shared_experts": 1,
        "router_aux_loss_coef": 0.1,
    },
}

_TRAIN = {
    "method": "full",
    "lora_rank": 16,
    "lora_alpha": 16.0,
    "lora_targets": ["q_proj", "o_proj"],
    "max_steps": None,
    "weight_decay": 0.01,  # torch's AdamW
    "dtype": "bfloat16",
    "weights": "float32",
    "optimizer": "adamw",
    "grad_clip": 1.0,
    "seed": 42,
    "log_interval": 10,
    "save_interval": 500,
    "eval_interval": None,
    "sample_interval": None,
    "early_stop": None,
    "packing": False,
    "compile": False,
}
TRAIN: dict[str, dict[str, Any]] = {
    "pretrain": _TRAIN | {"epochs": 2, "batch_size": 32, "accumulation_steps": 8, "learning_rate": 5e-4},
    "sft": _TRAIN | {"epochs": 2, "batch_size": 16, "accumulation_steps": 1, "learning_rate": 1e-5},
    "lora": _TRAIN | {"epochs": 10, "batch_size": 32, "accumulation_steps": 1, "learning_rate": 1e-4},
}
DATA = {"path": "", "tokenizer": None, "validation": 0.0, "broken_rows": "refuse", "row_wait_seconds": 0.0}
MAX_SEQ_LEN = {"pretrain": 340, "sft": 768, "lora": 340}

SECTIONS: dict[str, dict[str, Any]] = {
    "memory": {
        "micro_batch": "auto",
        "chunked_loss": "auto",
        "activation_checkpointing": "auto",
        "optimizer_offload": "auto",
        "sharding": "auto",
        "tensor_parallel": 1,
    },
    "resources": {"gpus": 1, "max_memory": None, "exclusive": False, "time_limit": None, "devices": None},
    "retries": {"out_of_memory": 6, "crash": 2},
}

_EXAMPLES: dict[str, Any] = {
    "kind": "sft",
    "name": "my-job",
    "init_from": "pretrain-1",
    "priority": 0,
    "report": "tensorboard",
    "preset": DEFAULT_PRESET,
    "head_dim": 96,
    "intermediate_size": 2432,
    "path": "rows.jsonl",
    "tokenizer": "tokenizer/",
    "max_seq_len": MAX_SEQ_LEN["pretrain"],
    "validation": 0.01,
    "broken_rows": "skip",
    "row_wait_seconds": 0.02,
    "max_steps": 1000,
    "lora_targets": "[q_proj, o_proj]",
    "eval_interval": 100,
    "sample_interval": 1000,
    "early_stop": 3,
    "max_memory": "20GiB",
    "time_limit": "12h",
}


def example(section: str | None, key: str) -> Any:
    """Give a value that a field may have, for a person whose own was refused; None if we know none."""
    sections = {"model": _MINIMIND_3, "train": TRAIN["pretrain"], **SECTIONS}
    return _EXAMPLES.get(key, sections.get(section or "", {}).get(key))


def fill_model(given: Mapping[str, Any]) -> dict[str, Any]:
    """Add what the preset says, then what follows from the widths; the given values win."""
    preset = given.get("preset", DEFAULT_PRESET)
    model = {"preset": preset} | MODELS.get(preset, _MINIMIND_3) | dict(given)
    hidden, heads = model["hidden_size"], model["num_attention_heads"]
    model.setdefault("head_dim", max(1, hidden // heads))
    model.setdefault("intermediate_size", intermediate_size(preset, hidden))
    return model


def intermediate_size(preset: str, hidden: int) -> int:
    """Round up to 64 as upstream does: hidden x pi since minimind-3, hidden x 8/3 before."""
    if preset.startswith("minimind2"):
        return 64 * math.ceil(int(8 * hidden / 3) / 64)
    return 64 * math.ceil(hidden * math.pi / 64)


def recipe(kind: str, train: Mapping[str, Any]) -> str:
    """Name the set of defaults: fine-tuning by LoRA has its own."""
    return "lora" if kind == "sft" and train.get("method") == "lora" else kind


def fill_train(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Add the recipe's defaults; a job with `max_steps` has no default `epochs`."""
    defaults = TRAIN[recipe(kind, given)]
    if given.get("max_steps") is not None:
        defaults = defaults | {"epochs": None}
    return defaults | dict(given)
