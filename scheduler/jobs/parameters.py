"""How many parameters a model has, exactly, from its shape alone. Pure."""

from scheduler.jobs.spec import Model


def count(model: Model) -> int:
    """Count every trained parameter once; tied embeddings are one matrix. Dense models only."""
    embeddings = model.vocab_size * model.hidden_size * (1 if model.tie_word_embeddings else 2)
    return embeddings + model.num_hidden_layers * layer(model) + model.hidden_size


def layer(model: Model) -> int:
    """One block: attention (grouped queries, no biases), gated feed-forward, its norms."""
    queries = model.num_attention_heads * model.head_dim
    keys = model.num_key_value_heads * model.head_dim
    attention = model.hidden_size * (2 * queries + 2 * keys) + (2 * model.head_dim if model.qk_norm else 0)
    feed_forward = 3 * model.hidden_size * model.intermediate_size
    return attention + feed_forward + 2 * model.hidden_size
