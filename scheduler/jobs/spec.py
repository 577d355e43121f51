"""What a job is, as stored: every field explicit, paths absolute, sizes in bytes.

The same structs describe the job file (`jobfile.py` fills what a person left out, `schema.py` turns them into
the JSON Schema for editors). A type's title is the phrase its error message uses. Owns shapes; no I/O.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

Count = Annotated[int, Meta(title="a whole number from 1 to 1,000,000,000", ge=1, le=10**9)]
WIDEST = 1 << 20
Width = Annotated[int, Meta(title="a whole number from 1 to 1,048,576", ge=1, le=WIDEST)]
Experts = Annotated[int, Meta(title="a whole number from 1 to 1,024", ge=1, le=1024)]
Seed = Annotated[int, Meta(title="a whole number from 0 to 4,294,967,295", ge=0, lt=1 << 32)]
Priority = Annotated[int, Meta(title="a whole number from -1000 to 1000", ge=-1000, le=1000)]
Tries = Annotated[int, Meta(title="a whole number from 0 to 100", ge=0, le=100)]
Positive = Annotated[float, Meta(title="a number above 0", gt=0)]
NotNegative = Annotated[float, Meta(title="a number, 0 or above", ge=0)]
Switch = Annotated[bool, Meta(title="true or false")]
Text = Annotated[str, Meta(title="text that is not empty", min_length=1, max_length=4096)]
Name = Annotated[
    str,
    Meta(
        title="1 to 64 characters without space, comma or slash, not only digits, first no @ or -",
        pattern=r"^(?!\d+(-\d+)?$)[^\s,/@-][^\s,/]*$",
        min_length=1,
        max_length=64,
    ),
]
Kind = Annotated[Literal["pretrain", "sft"], Meta(title="pretrain or sft")]
Dtype = Annotated[Literal["bfloat16", "float16", "float32"], Meta(title="bfloat16, float16 or float32")]
Weights = Annotated[Literal["float32", "bfloat16"], Meta(title="float32 or bfloat16")]
Optimizer = Annotated[Literal["adamw", "adamw8bit"], Meta(title="adamw or adamw8bit")]
Method = Annotated[Literal["full", "lora"], Meta(title="full or lora")]
Products = Annotated[
    tuple[Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], ...],
    Meta(title="a list of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj", min_length=1),
]
Means = Annotated[Literal["auto", "on", "off"], Meta(title="auto, on or off")]
Checkpointing = Annotated[
    Literal["auto", "off", "selective", "full", "on"],
    Meta(title="auto, off, selective or full (on is full)"),
]
Sharding = Annotated[Literal["auto", "none", "zero2", "zero3"], Meta(title="auto, none, zero2 or zero3")]
MicroBatch = Annotated[Literal["auto"] | Count, Meta(title="auto, or a whole number of at least 1")]
Validation = Annotated[
    NotNegative | Text, Meta(title="a share of the rows (0 or above, below 1), or the path of a file")
]
BrokenRows = Annotated[Literal["refuse", "skip"], Meta(title="refuse or skip")]
LOGGERS = ("tensorboard", "wandb", "swanlab")
Reports = Annotated[
    tuple[Literal["tensorboard", "wandb", "swanlab"], ...],
    Meta(title="a list of tensorboard, wandb and swanlab, or one of them"),
]
Chosen = Annotated[
    tuple[Annotated[int, Meta(ge=0, le=1 << 20)] | Annotated[str, Meta(min_length=1, max_length=256)], ...],
    Meta(title="a list of devices' numbers or ids, or one of them", min_length=1),
]
PresetName = Annotated[
    Literal["minimind-3", "minimind-3-moe", "minimind2-small", "minimind2", "minimind2-moe"],
    Meta(title="minimind-3, minimind-3-moe, minimind2-small, minimind2 or minimind2-moe"),
]
Size = Annotated[
    int,
    Meta(
        title="an amount of memory like 20GiB",
        ge=1,
        le=1 << 60,
        extra_json_schema={"type": ["integer", "string"]},
    ),
]
Duration = Annotated[
    float,
    Meta(
        title="a time like 12h or 90m, above 0",
        gt=0,
        le=10**9,
        extra_json_schema={"type": ["number", "string"]},
    ),
]


class Model(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """MiniMind's own names. `preset` gave what the person left out; nothing reads it again."""

    preset: PresetName
    hidden_size: Width
    num_hidden_layers: Annotated[int, Meta(title="a whole number from 1 to 1,000", ge=1, le=1000)]
    num_attention_heads: Width
    num_key_value_heads: Width
    head_dim: Width
    intermediate_size: Width
    vocab_size: Annotated[
        int,
        # 256 bytes and three special tokens are the least a byte-level tokenizer has.
        Meta(title="a whole number from 259 to 4,194,304", ge=259, le=1 << 22),
    ]
    rms_norm_eps: Positive
    rope_theta: Positive
    max_position_embeddings: Width
    qk_norm: Switch
    tie_word_embeddings: Switch
    use_moe: Switch
    num_experts: Experts = 4
    num_experts_per_tok: Experts = 1
    num_shared_experts: Annotated[int, Meta(title="a whole number from 0 to 1,024", ge=0, le=1024)] = 0
    router_aux_loss_coef: NotNegative = 5e-4


class InitFrom(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the first weights come from: exactly one of the three. `ref` is a job not looked up yet."""

    path: str | None = None
    job: int | None = None
    ref: str | None = None


Start = Annotated[InitFrom, Meta(title="a job (id or name), a run directory, or a weights file")]


class Data(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: Text
    tokenizer: Text | None
    max_seq_len: Annotated[int, Meta(title="a whole number from 4 to 1,048,576", ge=4, le=1 << 20)]
    validation: Validation
    broken_rows: BrokenRows = "refuse"
    row_wait_seconds: NotNegative = 0.0


class Train(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    epochs: Count | None
    max_steps: Count | None
    batch_size: Annotated[int, Meta(title="a whole number from 1 to 1,048,576", ge=1, le=1 << 20)]
    accumulation_steps: Annotated[int, Meta(title="a whole number from 1 to 1,048,576", ge=1, le=1 << 20)]
    learning_rate: Positive
    weight_decay: NotNegative
    dtype: Dtype
    grad_clip: NotNegative
    seed: Seed
    log_interval: Count
    save_interval: Count
    eval_interval: Count | None = None
    sample_interval: Count | None = None
    early_stop: Count | None = None
    packing: Switch = False
    compile: Switch = False
    method: Method = "full"
    lora_rank: Annotated[int, Meta(title="a whole number from 1 to 65,536", ge=1, le=1 << 16)] = 16
    lora_alpha: Positive = 16.0
    lora_targets: Products = ("q_proj", "o_proj")
    weights: Weights = "float32"
    optimizer: Optimizer = "adamw"


class Memory(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    micro_batch: MicroBatch
    chunked_loss: Means
    activation_checkpointing: Checkpointing
    optimizer_offload: Means
    sharding: Sharding = "auto"
    tensor_parallel: Annotated[int, Meta(title="a whole number from 1 to 1,024", ge=1, le=1024)] = 1


class Resources(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    gpus: Annotated[int, Meta(title="a whole number from 1 to 1,024", ge=1, le=1024)]
    max_memory_bytes: Size | None = msgspec.field(name="max_memory")
    exclusive: Switch
    time_limit_seconds: Duration | None = msgspec.field(name="time_limit")
    devices: Chosen | None = None


class Retries(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    out_of_memory: Tries
    crash: Tries


class JobSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kind: Kind
    name: Name
    model: Model
    init_from: Start | None
    data: Data
    train: Train
    memory: Memory
    resources: Resources
    priority: Priority
    retries: Retries
    report: Reports | None = None

    @property
    def effective_batch(self) -> int:
        """Sequences in one optimizer step: kept whatever the split into micro-batches."""
        return self.train.batch_size * self.train.accumulation_steps


_ENCODER = msgspec.json.Encoder()


def encode(spec: JobSpec) -> str:
    """Write the form that `jobs.spec` holds."""
    return _ENCODER.encode(spec).decode()


def decode(text: str | bytes) -> JobSpec:
    """Read what `encode` wrote; msgspec.ValidationError if it is something else."""
    return msgspec.json.decode(text, type=JobSpec)
