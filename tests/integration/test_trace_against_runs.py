"""The proof: what the tracer predicts is what the trainer's own loop takes on a virtual device."""

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file

from trainer.config import Config, parse_config
from trainer.data.tokenizer import open_tokenizer
from trainer.errors import OutOfDeviceMemory
from trainer.model import loss
from trainer.model.minimind import MiniMind, initialise
from trainer.reporting.events import EventLog
from trainer.session import run_session
from trainer.stopping import StopRequest
from trainer.trace.footprint import Candidate, PeakPredictor
from trainer.trace.rehearsal import Target

GIB = 1024**3
CONTEXT_BYTES = 3 * 1024**2
TARGET = Target(kind="virtual")
SEQUENCE = 40
VALIDATION_ROWS = 9


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows that all fill the sequence, so that every micro-batch is as large as it can be."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    draw = random.Random(5)
    texts = ("".join(draw.choices("abcdefghij klmnop", k=300)) for _ in range(40))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    validation = path.with_name("validation.jsonl")
    validation.write_text("".join(path.read_text().splitlines(keepends=True)[:VALIDATION_ROWS]))
    return path


def configured(rows: Path, ledger: Path, **draw: Any) -> Config:
    limit = draw.get("limit_bytes")
    return parse_config(
        {
            "kind": "pretrain",
            "data": {
                "path": str(rows),
                "max_seq_len": draw.get("max_seq_len", SEQUENCE),
                "validation": str(rows.with_name("validation.jsonl")),
                "cache": str(rows.with_name("cache")),
            },
            "model": {"vocab_size": 300, "num_attention_heads": 4, **draw["model"]},
            "train": {
                "dtype": draw["dtype"],
                "batch_size": draw["effective_batch"],
                "accumulation_steps": 1,
                "max_steps": 4,
                "save_interval": 2,
                "log_interval": 2,
                **draw.get("train", {}),
            },
            "plan": {"micro_batch": draw["micro_batch"], **draw["plan"]},
            "device": {
                "kind": "virtual",
                "ledger": str(ledger),
                "total_bytes": GIB,
                "context_bytes": CONTEXT_BYTES,
                **({} if limit is None else {"limit_bytes": limit}),
            },
            "sample": {"max_new_tokens": 3},
            "on_out_of_memory": "exit",
        }
    )


def drawn(seed: int) -> dict[str, Any]:
    """Draw a small configuration; the seed names it."""
    draw = random.Random(seed)
    effective_batch = draw.choice([4, 6, 8])
    return {
        "model": {
            "hidden_size": draw.choice([32, 64, 96]),
            "num_hidden_layers": draw.choice([1, 2, 3]),
            "num_key_value_heads": draw.choice([1, 2, 4]),
            "qk_norm": draw.random() < 0.7,
            "tie_word_embeddings": draw.random() < 0.7,
        },
        "dtype": ("float32", "bfloat16")[seed % 2],
        "effective_batch": effective_batch,
        "micro_batch": draw.randint(1, effective_batch),
        "plan": {
            "activation_checkpointing": ("selective", "full", "off", "off")[int(4 * draw.random())],
            "optimizer_offload": draw.random() < 0.5,
            "chunked_loss": draw.random() < 0.5,
        },
    }


def predicted(config: Config) -> Candidate:
    return PeakPredictor(config, TARGET).candidate(config.micro_batch)


def measured(config: Config, run_dir: Path) -> dict[str, int]:
    """Run the trainer's loop and read the peaks that it reports."""
    run_dir.mkdir()
    run_session(config, run_dir, EventLog(run_dir / "events.jsonl"), StopRequest())
    last = json.loads((run_dir / "events.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "finished"
    return {name: last[f"{name}_peak_bytes"] for name in ("allocated", "reserved", "process")}


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 6, 11, 13])
def test_a_prediction_is_what_the_run_takes(
    seed: int, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", 300 * 50)  # several chunks even of a small batch
    config = configured(rows, tmp_path / "ledger", **drawn(seed))
    forecast, run = predicted(config), measured(config, tmp_path / "run")
    assert run["allocated"] == forecast.outcome.allocated_bytes
    assert run["reserved"] == forecast.outcome.reserved_bytes
    assert run["process"] == run["reserved"] + CONTEXT_BYTES


EXPERTS = {"hidden_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 2, "use_moe": True}
TWO_AND_SHARED = EXPERTS | {"num_experts_per_tok": 2, "num_shared_experts": 1, "qk_norm": False}


def to_the_first(scores: torch.Tensor, choices: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The worst routing there can be: all tokens to the same experts."""
    chosen = torch.arange(choices).expand(len(scores), choices).contiguous()
    return scores.gather(1, chosen), chosen


@pytest.mark.parametrize("worst", [False, True])
@pytest.mark.parametrize(
    ("model", "dtype", "plan"),
    [
        (EXPERTS, "bfloat16", {"activation_checkpointing": False, "optimizer_offload": False}),
        (EXPERTS, "float32", {"activation_checkpointing": True, "optimizer_offload": True}),
        (TWO_AND_SHARED, "float32", {"activation_checkpointing": False, "optimizer_offload": False}),
        (TWO_AND_SHARED, "bfloat16", {"activation_checkpointing": True, "optimizer_offload": False}),
    ],
)
def test_a_prediction_holds_for_experts_whatever_the_routing(
    worst: bool,
    model: dict[str, Any],
    dtype: str,
    plan: dict[str, bool],
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = {"model": model, "dtype": dtype, "effective_batch": 8, "micro_batch": 3, "plan": plan}
    config = configured(rows, tmp_path / "ledger", **draw)
    forecast = predicted(config)
    if worst:
        monkeypatch.setattr("trainer.model.experts.choose", to_the_first)
    run = measured(config, tmp_path / "run")
    assert run["allocated"] == forecast.outcome.allocated_bytes
    assert run["reserved"] == forecast.outcome.reserved_bytes


@pytest.mark.parametrize(("dtype", "weights"), [("float32", "float32"), ("bfloat16", "bfloat16")])
@pytest.mark.parametrize(
    "plan",
    [
        {"activation_checkpointing": False, "optimizer_offload": False, "chunked_loss": True},
        {"activation_checkpointing": True, "optimizer_offload": True, "chunked_loss": True},
        {"activation_checkpointing": True, "optimizer_offload": False, "chunked_loss": False},
    ],
)
def test_a_prediction_holds_for_lora(
    dtype: str, weights: str, plan: dict[str, bool], rows: Path, tmp_path: Path
) -> None:
    """On rows of pretraining, whose tokens are all targets, as the prediction has them."""
    model = {"hidden_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 2}
    draw = {"model": model, "dtype": dtype, "effective_batch": 8, "micro_batch": 3, "plan": plan}
    config = configured(rows, tmp_path / "ledger", train={"weights": weights}, **draw)
    base = MiniMind(config, torch.device("cpu"))
    initialise(base, seed=1)
    save_file(dict(base.named_parameters()), tmp_path / "base.safetensors")
    open_tokenizer(config, tmp_path)
    adapting = msgspec.structs.replace(config.train, method="lora", lora_targets=["q_proj", "down_proj"])
    config = msgspec.structs.replace(config, train=adapting, init_from=str(tmp_path / "base.safetensors"))
    forecast, run = predicted(config), measured(config, tmp_path / "run")
    assert run["allocated"] == forecast.outcome.allocated_bytes
    assert run["reserved"] == forecast.outcome.reserved_bytes
    assert forecast.outcome.parts["gradients"] < forecast.outcome.parts["weights"] / 4


@pytest.mark.parametrize(
    ("train", "plan"),
    [
        ({"optimizer": "adamw8bit"}, {}),
        ({"weights": "bfloat16"}, {}),
        ({"weights": "bfloat16"}, {"optimizer_offload": True}),
        ({"weights": "bfloat16", "optimizer": "adamw8bit"}, {"activation_checkpointing": "selective"}),
    ],
)
def test_a_prediction_holds_for_narrow_weights_and_moments(
    train: dict[str, str], plan: dict[str, Any], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", 300 * 50)
    model = {"hidden_size": 96, "num_hidden_layers": 2, "num_key_value_heads": 2}
    draw = {"model": model, "dtype": "bfloat16", "effective_batch": 8, "micro_batch": 3, "plan": plan}
    config = configured(rows, tmp_path / "ledger", train=train, **draw)
    forecast, run = predicted(config), measured(config, tmp_path / "run")
    assert run["allocated"] == forecast.outcome.allocated_bytes
    assert run["reserved"] == forecast.outcome.reserved_bytes
    usual = predicted(configured(rows, tmp_path / "ledger", **draw))
    assert forecast.outcome.allocated_bytes < usual.outcome.allocated_bytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", ["off", "selective", "full"])
@pytest.mark.parametrize("experts", [False, True])
def test_a_prediction_holds_for_packed_rows(
    experts: bool, checkpointing: str, dtype: str, rows: Path, tmp_path: Path
) -> None:
    """Rows of 33 tokens fill the 32 places of a sequence, so every micro-batch is as large as it can be."""
    draw = {
        "model": EXPERTS if experts else {"hidden_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 2},
        "dtype": dtype,
        "effective_batch": 8,
        "micro_batch": 3,
        "max_seq_len": 33,
        "train": {"packing": True},
        "plan": {"activation_checkpointing": checkpointing},
    }
    config = configured(rows, tmp_path / "ledger", **draw)
    forecast, run = predicted(config), measured(config, tmp_path / "run")
    assert run["allocated"] == forecast.outcome.allocated_bytes
    assert run["reserved"] == forecast.outcome.reserved_bytes


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_largest_that_fits_runs_and_the_next_is_refused(checkpointing: bool, rows: Path, tmp_path: Path) -> None:
    draw = {
        "model": {"hidden_size": 128, "num_hidden_layers": 2, "num_key_value_heads": 2},
        "dtype": "float32",
        "effective_batch": 12,
        "plan": {"activation_checkpointing": checkpointing, "chunked_loss": False},
    }
    predictor = PeakPredictor(configured(rows, tmp_path / "unused", micro_batch=1, **draw), TARGET)
    largest, following = 4, 12
    limit = predictor.candidate(largest).process_bytes + CONTEXT_BYTES
    assert limit < predictor.candidate(following).process_bytes + CONTEXT_BYTES

    config = configured(rows, tmp_path / "ledger", micro_batch=largest, limit_bytes=limit, **draw)
    assert measured(config, tmp_path / "fits")["process"] == limit
    config = configured(rows, tmp_path / "ledger", micro_batch=following, limit_bytes=limit, **draw)
    with pytest.raises(OutOfDeviceMemory, match=r"in (forward|backward)"):
        measured(config, tmp_path / "refused")


def test_a_refused_run_halves_to_what_fits(rows: Path, tmp_path: Path) -> None:
    """The limit of the smaller micro-batch suffices for a run that had to find it the hard way."""
    draw = {
        "model": {"hidden_size": 128, "num_hidden_layers": 2, "num_key_value_heads": 2},
        "dtype": "float32",
        "effective_batch": 12,
        "plan": {"chunked_loss": False},
    }
    predictor = PeakPredictor(configured(rows, tmp_path / "unused", micro_batch=1, **draw), TARGET)
    limit = predictor.candidate(4).process_bytes + CONTEXT_BYTES
    config = configured(rows, tmp_path / "ledger", micro_batch=8, limit_bytes=limit, **draw)
    run_dir = tmp_path / "run"
    assert measured(msgspec.structs.replace(config, on_out_of_memory="halve"), run_dir)["process"] <= limit
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    shrunk = [event["new_micro_batch"] for event in events if event["event"] == "out_of_memory"]
    assert shrunk == [4]
