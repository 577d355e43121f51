"""A model as Hugging Face's transformers loads it, without code of its own: the stock architecture that is the same.

Owns which that is, its config.json and names, and what goes with the tokenizer. Weights stay float32.

| our model | theirs |
|---|---|
| dense, with qk-norm (minimind-3) | Qwen3ForCausalLM |
| dense, without (minimind2) | LlamaForCausalLM |
| experts, with qk-norm (minimind-3-moe) | Qwen3MoeForCausalLM |
| experts, without, shared ones or none (minimind2-moe) | GraniteMoeSharedForCausalLM |
| experts, with qk-norm and shared ones | none |
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.config import ModelConfig
from trainer.data.tokenizer import BEGIN, END, PAD
from trainer.errors import BadConfiguration
from trainer.files.tensors import save_tensors

Weights = Mapping[str, Tensor]

# As `trainer.data.tokenizer.chat_pieces` writes a conversation.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{BEGIN}' + message['role'] + '\\n' + message['content'] + '{END}\\n' }}}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{BEGIN}assistant\\n' }}}}{{% endif %}}"
)
_SPECIALS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


class Architecture(NamedTuple):
    """One of transformers' own: what its config.json says beside what all have, and what it calls the weights."""

    name: str
    model_type: str
    config: Callable[[ModelConfig], dict[str, Any]]
    weights: Callable[[ModelConfig, Weights], Weights] = lambda model, weights: weights


def architecture(model: ModelConfig) -> Architecture:
    """Choose the stock architecture with the same arithmetic; BadConfiguration if there is none."""
    if not model.use_moe:
        return _QWEN3 if model.qk_norm else _LLAMA
    if not model.qk_norm:
        return _GRANITE
    if model.num_shared_experts:
        raise BadConfiguration(
            "no architecture of transformers' own has shared experts beside qk-norm: this model can't be one"
            "\nhint: --format minimind"
        )
    return _QWEN3_MOE


def write_model(directory: Path, model: ModelConfig, weights: Weights) -> None:
    """Write config.json, generation_config.json and model.safetensors."""
    chosen = architecture(model)
    config = {
        "architectures": [chosen.name],
        "model_type": chosen.model_type,
        "dtype": "float32",
        "torch_dtype": "float32",  # the name of it before transformers 5, as is rope_theta
        "hidden_act": "silu",
        "attention_bias": False,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.inner_width,
        "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        "head_dim": model.head_width,
        "vocab_size": model.vocab_size,
        "rms_norm_eps": model.rms_norm_eps,
        "rope_theta": model.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "max_position_embeddings": model.max_position_embeddings,
        "tie_word_embeddings": model.tie_word_embeddings,
        **_SPECIALS,
        **chosen.config(model),
    }
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", _SPECIALS)
    # Without this mark transformers before 5 would not take the file for torch's.
    save_tensors(chosen.weights(model, weights), directory / "model.safetensors", {"format": "pt"})


def write_tokenizer(directory: Path, tokenizer_json: str, model: ModelConfig) -> None:
    """Write tokenizer.json, and its settings with the chat template."""
    (directory / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PAD,
        "unk_token": PAD,
        "model_max_length": model.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    _write_json(directory / "tokenizer_config.json", settings)
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _qwen3_moe_config(model: ModelConfig) -> dict[str, Any]:
    return {
        "num_experts": model.num_experts,
        "num_experts_per_tok": model.num_experts_per_tok,
        "moe_intermediate_size": model.inner_width,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "router_aux_loss_coef": model.router_aux_loss_coef,
        "output_router_logits": False,
        "use_sliding_window": False,
    }


def _granite_config(model: ModelConfig) -> dict[str, Any]:
    """Its softmax over the chosen scores is ours over all, renormalised; its own multipliers stay out of the way."""
    return {
        "num_local_experts": model.num_experts,
        "num_experts_per_tok": model.num_experts_per_tok,
        "shared_intermediate_size": model.num_shared_experts * model.inner_width,
        "attention_multiplier": model.head_width**-0.5,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
        "router_aux_loss_coef": model.router_aux_loss_coef,
        "output_router_logits": False,
    }


def _granite_weights(model: ModelConfig, weights: Weights) -> Weights:
    """Stack the experts; several shared ones are one that is wider."""
    renamed = {name: tensor for name, tensor in weights.items() if ".mlp." not in name}
    for number in range(model.num_hidden_layers):
        layer = f"model.layers.{number}"
        gates, ups, downs = _projections(weights, f"{layer}.mlp.experts", model.num_experts)
        inputs = [torch.cat(pair) for pair in zip(gates, ups, strict=True)]
        renamed[f"{layer}.block_sparse_moe.router.layer.weight"] = weights[f"{layer}.mlp.gate.weight"]
        renamed[f"{layer}.block_sparse_moe.input_linear.weight"] = torch.stack(inputs)
        renamed[f"{layer}.block_sparse_moe.output_linear.weight"] = torch.stack(downs)
        if model.num_shared_experts:
            gates, ups, downs = _projections(weights, f"{layer}.mlp.shared_experts", model.num_shared_experts)
            renamed[f"{layer}.shared_mlp.input_linear.weight"] = torch.cat([*gates, *ups])
            renamed[f"{layer}.shared_mlp.output_linear.weight"] = torch.cat(downs, dim=1)
    return renamed


def _projections(weights: Weights, group: str, count: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    gates, ups, downs = (
        [weights[f"{group}.{number}.{name}_proj.weight"] for number in range(count)] for name in ("gate", "up", "down")
    )
    return gates, ups, downs


_QWEN3 = Architecture("Qwen3ForCausalLM", "qwen3", lambda model: {"use_sliding_window": False})
_LLAMA = Architecture("LlamaForCausalLM", "llama", lambda model: {"mlp_bias": False})
_QWEN3_MOE = Architecture("Qwen3MoeForCausalLM", "qwen3_moe", _qwen3_moe_config)
_GRANITE = Architecture("GraniteMoeSharedForCausalLM", "granitemoeshared", _granite_config, _granite_weights)
