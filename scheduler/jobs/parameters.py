"""How many parameters a model has, exactly, from its shape alone. Pure."""

from scheduler.jobs.spec import Model, Train


def count(model: Model) -> int:
    """Count every trained parameter once; tied embeddings are one matrix."""
    return _around(model) + model.num_hidden_layers * _layer(model, model.num_experts)


def active(model: Model) -> int:
    """Count the parameters active for one token: of a mixture of experts only those it is routed to."""
    return _around(model) + model.num_hidden_layers * _layer(model, model.num_experts_per_tok)


def adapters(model: Model, train: Train) -> int:
    """Count those of LoRA's adapters; 0 where the weights themselves are trained."""
    if train.method != "lora":
        return 0
    hidden, inner = model.hidden_size, model.intermediate_size
    queries, keys = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    widths = {"q_proj": hidden + queries, "k_proj": hidden + keys, "v_proj": hidden + keys, "o_proj": queries + hidden}
    sums = widths | dict.fromkeys(("gate_proj", "up_proj", "down_proj"), hidden + inner)
    return model.num_hidden_layers * train.lora_rank * sum(sums[name] for name in set(train.lora_targets))


def _around(model: Model) -> int:
    """Embedding, head and the last norm."""
    return model.vocab_size * model.hidden_size * (1 if model.tie_word_embeddings else 2) + model.hidden_size


def _layer(model: Model, experts: int) -> int:
    """One block: attention (grouped queries, no biases), gated feed-forward or so many experts, its norms."""
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_key_value_heads * model.head_dim
    attention = model.hidden_size * (2 * queries + 2 * keys) + (2 * model.head_dim if model.qk_norm else 0)
    feed_forward = 3 * model.hidden_size * model.intermediate_size
    if model.use_moe:
        gate = model.num_experts * model.hidden_size
        feed_forward = (experts + model.num_shared_experts) * feed_forward + gate
    return attention + feed_forward + 2 * model.hidden_size
