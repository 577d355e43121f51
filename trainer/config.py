"""CONFIG.json: what to train, how, and where. Strict: an unknown key or an impossible value is an error.

Owns the fields and their defaults (minimind-3, and MiniMind's own for training); no I/O but reading that
file. Only `kind` and `data.path` must be given.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from trainer.errors import BadConfiguration

Count = Annotated[int, Meta(ge=1, le=1 << 40)]
Amount = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]

EVENTS_BYTES = 64 << 20


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """MiniMind's own names; the defaults are minimind-3's."""

    hidden_size: Count = 768
    num_hidden_layers: Count = 8
    num_attention_heads: Count = 8
    num_key_value_heads: Count = 4
    head_dim: Count | None = None  # None: hidden_size / num_attention_heads
    intermediate_size: Count | None = None  # None: ceil(hidden_size * pi / 64) * 64
    vocab_size: Annotated[int, Meta(ge=259)] = 6400  # 256 bytes and three specials are the least
    rms_norm_eps: Positive = 1e-6
    rope_theta: Positive = 1e6
    max_position_embeddings: Count = 32768
    qk_norm: bool = True
    tie_word_embeddings: bool = True
    use_moe: bool = False
    num_experts: Count = 4  # each of intermediate_size; this and the three below only with use_moe
    num_experts_per_tok: Count = 1
    num_shared_experts: Amount = 0
    router_aux_loss_coef: NotNegative = 5e-4

    @property
    def head_width(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def inner_width(self) -> int:
        return self.intermediate_size or math.ceil(self.hidden_size * math.pi / 64) * 64


class DataConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: str
    tokenizer: str | None = None  # directory or tokenizer.json; None: init_from's, else trained from the data
    max_seq_len: Annotated[int, Meta(ge=4, le=1 << 20)] | None = None  # None: MiniMind's for the kind
    validation: Annotated[float, Meta(ge=0, lt=1)] | str = 0.0  # a share of the rows, or a file
    broken_rows: Literal["refuse", "skip"] = "refuse"
    row_wait_seconds: NotNegative = 0.0  # before each row of a step is handed out: stands for slow storage
    cache: str | None = None  # where tokenised rows are kept; None: in the run directory


Product = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


class TrainConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    method: Literal["full", "lora"] = "full"
    lora_rank: Count = 16  # this and the two below only with method: lora
    lora_alpha: Positive = 16.0  # adapters count alpha / rank times
    lora_targets: Annotated[list[Product], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["q_proj", "o_proj"]
    )
    epochs: Count | None = None
    max_steps: Count | None = None
    batch_size: Count | None = None
    accumulation_steps: Count | None = None
    learning_rate: Positive | None = None
    weight_decay: NotNegative = 0.01
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"  # of products and attention
    weights: Literal["float32", "bfloat16"] = "float32"  # how they are held, with their gradients
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    grad_clip: NotNegative = 1.0  # 0: no clipping
    seed: Annotated[int, Meta(ge=0, lt=1 << 32)] = 42
    log_interval: Count = 10
    save_interval: Count = 500
    eval_interval: Count | None = None  # None: before each save
    sample_interval: Count | None = None  # None: at the end only
    packing: bool = False  # several rows in one sequence: this changes nothing in the result
    compile: bool = False  # by torch's compiler: only rounding differs
    early_stop: Count | None = None  # evaluations without a better loss before the run ends; None: never


Checkpointing = Literal["off", "selective", "full"]
Sharding = Literal["none", "zero2", "zero3"]


class PlanConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the effective batch is split and what is kept in memory: changes nothing in the result."""

    micro_batch: Count | None = None  # None: batch_size
    activation_checkpointing: bool | Checkpointing = False  # true: full
    optimizer_offload: bool = False
    chunked_loss: bool = True
    sharding: Sharding = "none"  # what processes divide among them: gradients and optimizer states, or weights too
    tensor_parallel: Count = 1  # processes that compute each product together

    @property
    def spreads(self) -> bool:
        """Say whether several processes would each hold a part of the model."""
        return self.sharding != "none" or self.tensor_parallel > 1

    @property
    def checkpointing(self) -> Checkpointing:
        asked = self.activation_checkpointing
        return ("full" if asked else "off") if isinstance(asked, bool) else asked


class RankDevice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is otherwise for one process of several: the keys of `device` of the same name."""

    limit_bytes: Count | None = None
    context_bytes: Amount | None = None
    ledger: str | None = None
    total_bytes: Count | None = None


class DeviceConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Literal["auto", "cuda", "cpu", "virtual"] = "auto"
    number: Amount = 0
    limit_bytes: Count | None = None  # the most this process may show on the device, context included
    context_bytes: Amount = 0  # what the process shows there beside its allocator, and is part of the limit
    ledger: str | None = None  # virtual only, as is the one below
    total_bytes: Count | None = None
    ranks: tuple[RankDevice, ...] = ()  # by local rank, where the devices of several processes differ


class SampleConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The text generated from the result."""

    prompt: str | None = None  # None: the beginning of the first validation (else training) row
    max_new_tokens: Amount = 64  # 0: none
    temperature: NotNegative = 0.0  # 0: greedy


class Defaults(NamedTuple):
    """What MiniMind's program for a recipe takes where nothing is said."""

    max_seq_len: int
    epochs: int
    batch_size: int
    accumulation_steps: int
    learning_rate: float


_DEFAULTS = {
    "pretrain": Defaults(340, 2, 32, 8, 5e-4),
    "sft": Defaults(768, 2, 16, 1, 1e-5),
    "lora": Defaults(340, 10, 32, 1, 1e-4),
}


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Literal["pretrain", "sft"]
    data: DataConfig
    model: ModelConfig = msgspec.field(default_factory=ModelConfig)
    init_from: str | None = None  # a run's final directory, a MiniMind .pth, or a .safetensors file
    train: TrainConfig = msgspec.field(default_factory=TrainConfig)
    plan: PlanConfig = msgspec.field(default_factory=PlanConfig)
    device: DeviceConfig = msgspec.field(default_factory=DeviceConfig)
    sample: SampleConfig = msgspec.field(default_factory=SampleConfig)
    on_out_of_memory: Literal["halve", "exit"] = "halve"
    time_limit_seconds: Positive | None = None  # of the whole run, over its attempts
    report: tuple[Literal["tensorboard", "wandb", "swanlab"], ...] = ()  # where else the numbers of a run go
    attempt: Count = 1
    events_bytes: Annotated[int, Meta(ge=1 << 12, le=1 << 40)] = EVENTS_BYTES  # that events.jsonl may take

    @property
    def defaults(self) -> Defaults:
        return _DEFAULTS["lora" if self.adapts else self.kind]

    @property
    def adapts(self) -> bool:
        return self.train.method == "lora"

    @property
    def max_seq_len(self) -> int:
        return self.data.max_seq_len or self.defaults.max_seq_len

    @property
    def learning_rate(self) -> float:
        return self.train.learning_rate or self.defaults.learning_rate

    @property
    def batch_size(self) -> int:
        return self.train.batch_size or self.defaults.batch_size

    @property
    def effective_batch(self) -> int:
        """Sequences in one optimizer step: kept whatever the split into micro-batches."""
        return self.batch_size * (self.train.accumulation_steps or self.defaults.accumulation_steps)

    @property
    def micro_batch(self) -> int:
        return min(self.plan.micro_batch or self.batch_size, self.effective_batch)

    @property
    def epochs(self) -> int | None:
        return self.train.epochs or (None if self.train.max_steps else self.defaults.epochs)


def read_config(path: Path) -> Config:
    """Read and check CONFIG.json."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BadConfiguration(f"{path}: {error.strerror}") from None
    try:
        return parse_config(msgspec.json.decode(text))
    except (BadConfiguration, msgspec.DecodeError) as error:
        raise BadConfiguration(f"{path}: {error}") from None


def parse_config(value: Any) -> Config:
    """Check a decoded CONFIG; the message of the error names the field."""
    try:
        config = msgspec.convert(value, Config)
    except msgspec.ValidationError as error:
        raise BadConfiguration(str(error)) from None
    for wrong in _contradictions(config):
        raise BadConfiguration(wrong)
    return config


def _contradictions(config: Config) -> list[str]:
    model, device = config.model, config.device
    on_experts = [name for name in config.train.lora_targets if model.use_moe and name not in ATTENTION]
    checks = {
        "train.method: lora is for fine-tuning, kind: sft": config.adapts and config.kind != "sft",
        f"train.lora_targets: {', '.join(on_experts)} would sit on experts, which take no adapters": config.adapts
        and bool(on_experts),
        f"model.num_experts_per_tok: {model.num_experts_per_tok} is more than model.num_experts "
        f"{model.num_experts}": model.num_experts_per_tok > model.num_experts,
        f"model.num_attention_heads: {model.num_attention_heads} is not a multiple of num_key_value_heads "
        f"{model.num_key_value_heads}": model.num_attention_heads % model.num_key_value_heads != 0,
        f"model.head_dim: must be even for rotary positions, is {model.head_width}": model.head_width % 2 != 0,
        f"data.max_seq_len: {config.max_seq_len} is more than model.max_position_embeddings "
        f"{model.max_position_embeddings}": config.max_seq_len > model.max_position_embeddings,
        "train.early_stop: needs a validation loss to judge by\nhint: set data.validation": bool(
            config.train.early_stop and not config.data.validation
        ),
        "train.weights: bfloat16 goes with dtype: bfloat16 alone": config.train.weights == "bfloat16"
        and config.train.dtype != "bfloat16",
        "train.optimizer: adamw8bit can't pass over a step without waiting for the device, as dtype: float16 must"
        "\nhint: dtype: bfloat16": config.train.optimizer == "adamw8bit" and config.train.dtype == "float16",
        "train.compile: not for a model that is divided among processes"
        "\nhint: train.compile: false": config.train.compile and config.plan.spreads,
        **_indivisible(config),
        "device: a virtual device needs ledger and total_bytes": device.kind == "virtual"
        and not (device.ledger and device.total_bytes),
    }
    return [message for message, wrong in checks.items() if wrong]


def _indivisible(config: Config) -> dict[str, bool]:
    """Say what keeps processes from splitting the products of this model."""
    model, parallel = config.model, config.plan.tensor_parallel
    split = "plan.tensor_parallel: "
    return {
        "train.optimizer: adamw8bit has scales of blocks that cannot be divided among processes": config.plan.spreads
        and config.train.optimizer == "adamw8bit",
        f"{split}experts are not split\nhint: plan.sharding: zero3": parallel > 1 and model.use_moe,
        f"{split}adapters are not split\nhint: plan.sharding: zero3": parallel > 1 and config.adapts,
        f"{split}{model.num_key_value_heads} key-value heads cannot be split {parallel} ways": bool(
            model.num_key_value_heads % parallel
        ),
        f"{split}an intermediate size of {model.inner_width} cannot be split {parallel} ways": bool(
            model.inner_width % parallel
        ),
    }
