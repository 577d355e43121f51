"""Checks that involve several fields, and whether the files a job names are there."""

import re
import stat
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from scheduler.jobs.problems import Problems, likely
from scheduler.jobs.spec import WIDEST, InitFrom, JobSpec

WEIGHTS = (".pth", ".safetensors")


def combinations(filled: dict[str, Any], given: dict[str, Any], problems: Problems) -> None:
    """Check the sections whose fields are each valid. `given`: what the person wrote; `filled`: with all defaults."""
    if not problems.touched(("model",)):
        _model(filled["model"], given.get("model", {}), problems)
    if not problems.touched(("train",)):
        _length_of_training(filled["train"], given.get("train", {}), problems)
        _precision(filled["train"], problems)
    if not problems.touched(("train",), ("model",)):
        _method(filled, problems)
    if not problems.touched(("data",), ("model",)):
        _data(filled, problems)
    if not problems.touched(("memory",), ("train",)):
        _micro_batch(filled, problems)
    if not problems.touched(("data",), ("train",)):
        _early_stop(filled, problems)
    if not problems.touched(("memory",), ("resources",), ("train",), ("model",)):
        _sharding(filled, problems)
        _tensor_parallel(filled, problems)


def _model(model: dict[str, Any], given: dict[str, Any], problems: Problems) -> None:
    hidden, heads, kv = model["hidden_size"], model["num_attention_heads"], model["num_key_value_heads"]
    experts, choices = model["num_experts"], model["num_experts_per_tok"]
    if choices > experts:
        reason = f"num_experts_per_tok ({choices}) is more than num_experts ({experts})"
        problems.add(_first(given, "num_experts_per_tok", "num_experts"), reason)
    if "intermediate_size" not in given and model["intermediate_size"] > WIDEST:
        reason = f"is too large: intermediate_size would be {model['intermediate_size']:,}, more than {WIDEST:,}"
        problems.add(("model", "hidden_size"), reason, "or set intermediate_size yourself")
    if "head_dim" not in given and hidden % heads:
        reason = f"num_attention_heads ({heads}) must divide hidden_size ({hidden})"
        problems.add(_first(given, "num_attention_heads", "hidden_size"), reason, "or set head_dim yourself")
    elif model["head_dim"] % 2:
        reason = f"head_dim must be even, got {model['head_dim']}: rotary positions come in pairs"
        problems.add(_first(given, "head_dim", "num_attention_heads", "hidden_size"), reason)
    if heads % kv:
        source = "" if "num_key_value_heads" in given else ", from the preset,"
        reason = f"num_key_value_heads ({kv}{source}) must divide num_attention_heads ({heads})"
        divisor = next(n for n in range(min(kv, heads), 0, -1) if heads % n == 0)
        field = _first(given, "num_key_value_heads", "num_attention_heads")
        problems.add(field, reason, f"num_key_value_heads: {divisor}")


def _first(given: dict[str, Any], *fields: str) -> tuple[str, ...]:
    """The first of the fields that the person wrote, so that the error points to where it can be fixed."""
    return "model", next((field for field in fields if field in given), fields[0])


def _length_of_training(train: dict[str, Any], given: dict[str, Any], problems: Problems) -> None:
    if train["epochs"] is not None and train["max_steps"] is not None:
        problems.add(
            ("train", "max_steps"),
            "stands beside epochs; only one can say when to stop",
            "remove one (or -o train.epochs=null)",
        )
    elif train["epochs"] is None and train["max_steps"] is None:
        where = "epochs" if "epochs" in given else "max_steps"
        problems.add(("train", where), "neither epochs nor max_steps says when to stop", "epochs: 2")


def _precision(train: dict[str, Any], problems: Problems) -> None:
    if train["weights"] == "bfloat16" and train["dtype"] != "bfloat16":
        problems.add(("train", "weights"), f"bfloat16 weights and products in {train['dtype']}", "dtype: bfloat16")
    if train["optimizer"] == "adamw8bit" and train["dtype"] == "float16":
        reason = "adamw8bit can't pass over a step without waiting for the device, as float16 must"
        problems.add(("train", "optimizer"), reason, "dtype: bfloat16")


def _method(filled: dict[str, Any], problems: Problems) -> None:
    train = filled["train"]
    if train["method"] != "lora":
        return
    if filled["kind"] != "sft":
        problems.add(("train", "method"), "lora is for fine-tuning", "kind: sft, or method: full")
    elif filled["init_from"] is None:
        problems.add(("train", "method"), "lora adapts weights, and there are none", "name them with init_from")
    on_experts = [name for name in train["lora_targets"] if name not in ("q_proj", "k_proj", "v_proj", "o_proj")]
    if on_experts and filled["model"]["use_moe"]:
        reason = f"{', '.join(on_experts)} would sit on experts, which take no adapters"
        problems.add(("train", "lora_targets"), reason, "lora_targets: [q_proj, o_proj]")


def _data(filled: dict[str, Any], problems: Problems) -> None:
    length, positions = filled["data"]["max_seq_len"], filled["model"]["max_position_embeddings"]
    if length > positions:
        reason = f"{length} tokens are more than the model's max_position_embeddings ({positions})"
        problems.add(("data", "max_seq_len"), reason)
    share = filled["data"]["validation"]
    if isinstance(share, float) and share >= 1:
        problems.add(
            ("data", "validation"),
            f"a share of {share:g} leaves no rows to train on",
            "write 0.01 for one row in 100",
        )


def _micro_batch(filled: dict[str, Any], problems: Problems) -> None:
    micro, train = filled["memory"]["micro_batch"], filled["train"]
    effective = train["batch_size"] * train["accumulation_steps"]
    if isinstance(micro, int) and micro > effective:
        reason = f"{micro} is more than the effective batch of {effective} (batch_size x accumulation_steps)"
        problems.add(("memory", "micro_batch"), reason, "auto chooses one that fits")


def _early_stop(filled: dict[str, Any], problems: Problems) -> None:
    if filled["train"]["early_stop"] is not None and not filled["data"]["validation"]:
        problems.add(("train", "early_stop"), "has no validation loss to judge by", "data: {validation: 0.01}")


def _sharding(filled: dict[str, Any], problems: Problems) -> None:
    memory, gpus = filled["memory"], filled["resources"]["gpus"]
    asked, ways = memory["sharding"], memory["tensor_parallel"]
    if asked in ("auto", "none"):
        return
    if gpus == 1:
        reason = f"{asked} divides what several devices hold, but resources.gpus is 1"
        problems.add(("memory", "sharding"), reason, "resources: {gpus: 2}, or sharding: auto")
    elif gpus == ways:
        reason = f"{asked} divides what devices hold alike, and all {gpus} split each product"
        problems.add(("memory", "sharding"), reason, "tensor_parallel: 1, or sharding: auto")
    if filled["train"]["optimizer"] == "adamw8bit":
        reason = f"{asked} cannot divide the moments of adamw8bit: their scales are of whole blocks"
        problems.add(("memory", "sharding"), reason, "train: {optimizer: adamw}, or sharding: none")
    if filled["train"]["compile"]:
        reason = f"{asked} cannot divide what train.compile compiles: it takes whole weights"
        problems.add(("memory", "sharding"), reason, "train: {compile: false}, or sharding: none")


def _tensor_parallel(filled: dict[str, Any], problems: Problems) -> None:
    ways, gpus, model, train = (
        filled["memory"]["tensor_parallel"],
        filled["resources"]["gpus"],
        filled["model"],
        filled["train"],
    )
    if ways == 1:
        return
    instead = "sharding: zero3 in its place"
    heads, width = model["num_key_value_heads"], model["intermediate_size"]
    refused = (
        (bool(gpus % ways), f"{ways} devices split each product, but resources.gpus is {gpus}", f"gpus: {ways}"),
        (model["use_moe"], "experts are not split", instead),
        (train["method"] == "lora", "adapters of lora are not split", instead),
        (train["optimizer"] == "adamw8bit", "moments of adamw8bit are not split", "train: {optimizer: adamw}"),
        (train["compile"], "what train.compile compiles is not split", "train: {compile: false}"),
        (bool(heads % ways), f"{heads} key-value heads cannot be split {ways} ways", instead),
        (bool(width % ways), f"an intermediate size of {width} cannot be split {ways} ways", instead),
    )
    for wrong, reason, hint in refused:
        if wrong:
            problems.add(("memory", "tensor_parallel"), reason, hint)


def name_from(stem: str) -> str:
    """A job name from the job file's own."""
    name = re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:56]
    return name if re.search(r"[^\W\d]", name) else f"job-{name}".rstrip("-")


def resolve_paths(spec: JobSpec, base: Path) -> JobSpec:
    """Make every path absolute, read from the job file's directory."""

    def absolute(path: str) -> str:
        return str((base / Path(path).expanduser()).absolute())

    data = msgspec.structs.replace(
        spec.data,
        path=absolute(spec.data.path),
        tokenizer=spec.data.tokenizer and absolute(spec.data.tokenizer),
        validation=absolute(spec.data.validation) if isinstance(spec.data.validation, str) else spec.data.validation,
    )
    start = spec.init_from
    if start is not None and start.path is not None:
        start = InitFrom(path=absolute(start.path))
    return msgspec.structs.replace(spec, data=data, init_from=start)


def files(spec: JobSpec, problems: Problems) -> None:
    """Check that the libraries named are installed and the files can be opened; their rows are `rows.py`'s."""
    for name in spec.report or ():
        if find_spec(name) is None:
            problems.add(("report",), f"{name} is not installed where mmq is", f"pip install {name}")
    if spec.train.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None:
        reason = "adamw8bit needs bitsandbytes, which is not installed where mmq is"
        problems.add(("train", "optimizer"), reason, "pip install 'mmq[8bit]'")
    _readable(Path(spec.data.path), ("data", "path"), problems)
    if isinstance(spec.data.validation, str):
        _readable(Path(spec.data.validation), ("data", "validation"), problems)
    if spec.data.tokenizer is not None:
        where = Path(spec.data.tokenizer)
        _readable(where / "tokenizer.json" if where.is_dir() else where, ("data", "tokenizer"), problems)
    if spec.init_from is not None and spec.init_from.path is not None:
        where = Path(spec.init_from.path)
        if not where.is_dir():
            _readable(where, ("init_from",), problems)
            if where.suffix not in WEIGHTS and not problems.touched(("init_from",)):
                reason = f"{where.name} is not a weights file: its name ends in neither {' nor '.join(WEIGHTS)}"
                problems.add(("init_from",), reason, "a job, a run directory, a .pth or a .safetensors file")


def _readable(path: Path, field: tuple[str, ...], problems: Problems) -> None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for its writer
            problems.add(field, f"{path} is {'a directory' if path.is_dir() else 'not a file'}")
            return
        with path.open("rb"):
            pass
    except FileNotFoundError:
        hint = neighbour(path) or "a path begins at the job file's directory, or with /"
        problems.add(field, f"there is no file {path}", hint)
    except (OSError, ValueError) as error:
        problems.add(field, f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")


def neighbour(path: Path) -> str | None:
    """A hint naming the file in the same directory that was probably meant."""
    try:
        beside = [entry.name for entry in path.parent.iterdir() if entry.suffix == path.suffix]
        return likely(path.name, beside[:1000])
    except OSError:
        return f"there is no directory {path.parent}"
