"""How much arithmetic training needs, and how much a device could do: together, the model FLOPs utilisation.

Counted is what the model's mathematics asks for: 2 for each multiply-add, backward as twice forward, attention to what
came before only, the head at target positions only. Not counted: padding, activations computed again, norms and other
elementwise work (some percent). Pure.
"""

from collections.abc import Iterable

from trainer.config import ModelConfig
from trainer.data.batches import Row

TRAINING = 3  # forward, and the gradients of inputs and of weights

# Dense, as NVIDIA's data sheets and architecture papers have them: matrix products in 16 bits with 32-bit sums, and
# in float32 outside the tensor cores (torch's default). The first name found in the device's own counts.
_PEAKS = {
    "H200": (989e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "A10": (125e12, 31.2e12),
    "RTX 4090 D": None,  # slower than the one below, and no figure of NVIDIA's is known to us
    "RTX 4090": (165.2e12, 82.6e12),
    "RTX 3090 Ti": (80e12, 40e12),
    "RTX 3090": (71e12, 35.6e12),
}


def peak_flops(device_name: str, dtype: str) -> float | None:
    """Give a device's operations a second, None where they are not known."""
    words = f"{device_name} ".replace("-", " ")
    flops = next((peaks for name, peaks in _PEAKS.items() if f"{name} " in words), None)
    return None if flops is None else flops[1 if dtype == "float32" else 0]


def training_flops(model: ModelConfig, rows: Iterable[Row], *, frozen: bool = False) -> float:
    """Count what one optimizer step over these rows needs; with frozen weights, without their gradients."""
    tokens = targets = pairs = 0
    for row in rows:
        inputs = len(row.tokens) - 1
        tokens, targets, pairs = tokens + inputs, targets + row.targets, pairs + inputs * (inputs + 1) // 2
    width = model.num_attention_heads * model.head_width
    attention = 4 * width * pairs  # scores, and their sums of values
    matrices = 2 * matrix_parameters_of_layer(model) * tokens
    head = 2 * model.hidden_size * model.vocab_size * targets
    products = TRAINING - 1 if frozen else TRAINING
    return float(model.num_hidden_layers * (products * matrices + TRAINING * attention) + products * head)


def matrix_parameters_of_layer(model: ModelConfig) -> int:
    """Count the weights that each token is multiplied by in one layer."""
    width = model.head_width
    attention = 2 * width * (model.num_attention_heads + model.num_key_value_heads)
    experts = model.num_experts_per_tok + model.num_shared_experts if model.use_moe else 1
    gate = model.num_experts if model.use_moe else 0
    return model.hidden_size * (attention + gate + experts * 3 * model.inner_width)
