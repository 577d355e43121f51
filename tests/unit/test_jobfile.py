"""Job files: what is accepted, and what each mistake is told."""

from typing import Any

import msgspec
import pytest

from scheduler.errors import FileError, UsageError
from scheduler.jobs import document, jobfile, parameters, spec

BASE = "kind: sft\ndata: {path: rows.jsonl}\n"


def parse(text: str, *overrides: str) -> spec.JobSpec:
    return jobfile.parse(text, file="job.yaml", overrides=overrides)[0]


def refused(text: str, *overrides: str) -> list[tuple[str, str | None]]:
    """Each error as (message, hint)."""
    with pytest.raises(UsageError) as caught:
        parse(text, *overrides)
    return [(error.message, error.hint) for error in getattr(caught.value, "errors", (caught.value,))]


def test_defaults_are_minimind_s_own() -> None:
    job = parse(BASE)
    assert (job.train.batch_size, job.train.accumulation_steps, job.train.learning_rate) == (16, 1, 1e-5)
    assert (job.data.max_seq_len, job.train.epochs, job.name, job.effective_batch) == (768, 2, "job", 16)
    job = parse("kind: pretrain\ndata: {path: x}\n")
    assert (job.effective_batch, job.train.learning_rate, job.data.max_seq_len) == (256, 5e-4, 340)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("minimind-3", 63_912_192),
        ("minimind-3-moe", 198_416_640),
        ("minimind2-small", 25_829_888),
        ("minimind2", 104_030_976),
        ("minimind2-moe", 145_029_760),
    ],
)
def test_presets_have_the_published_parameter_counts(preset: str, expected: int) -> None:
    model = parse(BASE + f"model: {{preset: {preset}}}\n").model
    assert parameters.count(model) == expected


def test_widths_follow_the_fields_given() -> None:
    model = parse(BASE + "model: {hidden_size: 64, num_attention_heads: 4, num_key_value_heads: 2}\n").model
    assert (model.head_dim, model.intermediate_size) == (16, 256)
    assert parse(BASE + "model: {intermediate_size: 100}\n").model.intermediate_size == 100


def test_resolved_job_survives_its_stored_form() -> None:
    job = parse(BASE + "init_from: out/final\nresources: {max_memory: 20GiB, time_limit: 1h30m}\n")
    assert (job.resources.max_memory_bytes, job.resources.time_limit_seconds) == (20 * 2**30, 5400.0)
    assert spec.decode(spec.encode(job)) == job
    stored = msgspec.json.decode(spec.encode(job))
    assert stored["init_from"] == {"path": "out/final"}
    assert stored["resources"] == {
        "gpus": 1,
        "max_memory": 20 * 2**30,
        "exclusive": False,
        "time_limit": 5400.0,
        "devices": None,
    }


def test_yaml_1_2_scalars() -> None:
    job = parse(BASE + "train: {learning_rate: 1e-4, seed: 010, grad_clip: .5}\nmemory: {chunked_loss: off}\n")
    assert (job.train.learning_rate, job.train.seed, job.train.grad_clip) == (1e-4, 10, 0.5)
    assert job.memory.chunked_loss == "off"
    assert document.plain_scalar("no") == "no"
    assert document.plain_scalar("0x1F") == 31


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("trian: {}", "job.yaml:3: trian: unknown key", "did you mean train?"),
        ("batch_size: 3", "job.yaml:3: batch_size: unknown key", "it belongs under 'train:'"),
        (
            "train: {priority: 3}",
            "job.yaml:3: train.priority: unknown key",
            "priority belongs at the top level",
        ),
        (
            "train: {dtype: bf16}",
            "job.yaml:3: train.dtype: must be bfloat16, float16 or float32, got 'bf16'",
            "did you mean bfloat16?",
        ),
        (
            "train: {grad_clip: -1}",
            "job.yaml:3: train.grad_clip: must be a number, 0 or above, got -1",
            "for example grad_clip: 1.0",
        ),
        (
            "train: {learning_rate: .nan}",
            "job.yaml:3: train.learning_rate: must be a number above 0, got nan",
            "for example learning_rate: 0.0005",
        ),
        (
            "train: {learning_rate: 1e999}",
            "job.yaml:3: train.learning_rate: must be a number above 0, got inf",
            "for example learning_rate: 0.0005",
        ),
        (
            "resources: {exclusive: yes}",
            "job.yaml:3: resources.exclusive: must be true or false, got 'yes'",
            "for example exclusive: false",
        ),
        (
            "model: {num_attention_heads: 7, num_key_value_heads: 7}",
            "job.yaml:3: model.num_attention_heads: num_attention_heads (7) must divide hidden_size (768)",
            "or set head_dim yourself",
        ),
        (
            "model: {num_key_value_heads: 3}",
            "job.yaml:3: model.num_key_value_heads: num_key_value_heads (3) must divide num_attention_heads",
            "num_key_value_heads: 2",
        ),
        (
            "train: {epochs: 1, max_steps: 5}",
            "job.yaml:3: train.max_steps: stands beside epochs; only one can say when to stop",
            "remove one (or -o train.epochs=null)",
        ),
        (
            "memory: {micro_batch: 17}",
            "job.yaml:3: memory.micro_batch: 17 is more than the effective batch of 16 "
            "(batch_size x accumulation_steps)",
            "auto chooses one that fits",
        ),
        (
            "model: {preset: minimind2-moe, num_experts: 1}",
            "job.yaml:3: model.num_experts: num_experts_per_tok (2) is more than num_experts (1)",
            None,
        ),
        ("train: {method: lora}", "job.yaml:3: train.method: lora adapts weights, and there are none", "init_from"),
        (
            "train: {lora_targets: [q_prj]}",
            "job.yaml:3: train.lora_targets: must be a list of q_proj, k_proj",
            "did you mean q_proj?",
        ),
        ("train: 3", "job.yaml:3: train: must be a group of keys, got 3", "its keys are epochs"),
        ('name: "\\e[31mred"', "job.yaml:3: name: has a control character in '\\x1b[31mred'", "remove it"),
        ("name: 3-9", "job.yaml:3: name: must be 1 to 64 characters", "for example name: my-job"),
        ("kind: sft", "job.yaml:3: has the key 'kind' twice (first on line 1)", "keep one of them"),
        ("name: &a x", "job.yaml:3: uses an anchor or alias (& or *)", "write the value out"),
        ("name: !!python/name:os.system x", "job.yaml:3: uses a tag", "write the plain value"),
        ("name: [", "job.yaml:4: is not YAML", "'key: value' lines"),
        ("--- {}", "job.yaml:3: holds more than one document", "one job a file"),
    ],
)
def test_each_mistake_is_named_with_its_remedy(line: str, message: str, hint: str | None) -> None:
    ((shown, remedy),) = refused(BASE + line + "\n")
    assert message in shown
    assert remedy is None if hint is None else hint in str(remedy)


@pytest.mark.parametrize("share", ["1", "1.5", "-0.1"])
def test_a_validation_share_leaves_rows_to_train_on(share: str) -> None:
    ((message, _),) = refused(f"kind: sft\ndata:\n  path: x\n  validation: {share}\n")
    assert message.startswith("job.yaml:4: data.validation: ")


def test_every_error_is_told_at_once_in_the_file_s_order() -> None:
    errors = refused("kind: sfft\nmodel: {hiden_size: 3}\ntrain:\n  batch_size: 0\n  seed: x\n")
    assert [message.split(" ")[0] for message, _ in errors] == [
        "job.yaml:1:",
        "job.yaml:1:",
        "job.yaml:2:",
        "job.yaml:4:",
        "job.yaml:5:",
    ]


def test_overrides_pass_the_same_checks() -> None:
    assert parse(BASE, "train.batch_size=4", "memory.micro_batch=2").train.batch_size == 4
    assert refused(BASE, "train.batch_sise=4") == [("-o train.batch_sise: unknown key", "did you mean batch_size?")]
    ((message, _),) = refused(BASE, "train.batch_size=-4")
    assert message.startswith("-o train.batch_size: must be a whole number")
    assert refused(BASE, "nothing")[0][0] == "-o nothing: is not of the form key.sub=value"
    assert refused(BASE, "priority\nname=7")[0][0] == "-o 'priority\\nname=7': is not of the form key.sub=value"


def test_missing_files_are_named(tmp_path: Any) -> None:
    (tmp_path / "sft.jsonl").write_text("{}\n")
    job = tmp_path / "job.yaml"
    job.write_text("kind: sft\ndata:\n  path: stf.jsonl\n  tokenizer: tok\ninit_from: a/b.pth\n")
    with pytest.raises(FileError) as caught:
        jobfile.load(job)
    errors = [(error.line, error.field, error.hint) for error in getattr(caught.value, "errors", ())]
    assert (3, "data.path", "did you mean sft.jsonl?") in errors
    assert {field for _, field, _ in errors} == {"data.path", "data.tokenizer", "init_from"}


def test_first_weights_are_a_file_of_weights(tmp_path: Any) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "job.yaml").write_text(BASE)
    with pytest.raises(FileError) as caught:
        jobfile.load(tmp_path / "job.yaml", [f"init_from={tmp_path}/rows.jsonl"])
    assert "rows.jsonl is not a weights file" in str(caught.value)


def test_paths_are_read_from_the_job_file_s_directory(tmp_path: Any) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "my job.yaml").write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    job, source = jobfile.load(tmp_path / "my job.yaml", ["train.seed=7"])
    assert job.data.path == str(tmp_path / "rows.jsonl")
    assert job.name == "my-job"
    assert source.endswith("# submitted with -o train.seed=7\n")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"- 1\n", b"x" * 300_000, b"a: " + b"[" * 5000, b"\x00"])
def test_what_is_no_job_file_is_a_file_error(tmp_path: Any, content: bytes) -> None:
    job = tmp_path / "job.yaml"
    job.write_bytes(content)
    with pytest.raises(FileError):
        jobfile.load(job)


@pytest.mark.parametrize("text", ["kind: sft\ndata:\n\tpath: x\n", "kind: sft\ndata:\n \t path: x\n  b: 1\n"])
def test_a_tab_in_the_indent_is_called_one(text: str) -> None:
    ((message, hint),) = refused(text)
    assert "is not YAML" in message
    assert hint == "indent with spaces, not with tabs"
    assert refused("kind: sft: pretrain\n")[0][1] == document.NOT_YAML


def test_a_file_that_is_no_job_file_does_not_fill_the_screen() -> None:
    errors = refused("".join(f"user{number}: x\n" for number in range(300)))
    assert len(errors) == 21
    assert errors[-1] == ("job.yaml: has 282 more errors", "is this a job file? mmq init writes one to start from")


LORA = "init_from: a/final\n"


def test_lora_has_defaults_of_its_own() -> None:
    job = parse(BASE + LORA + "train: {method: lora}\n")
    assert (job.effective_batch, job.train.learning_rate, job.train.epochs) == (32, 1e-4, 10)
    assert (job.data.max_seq_len, job.train.lora_targets) == (340, ("q_proj", "o_proj"))
    assert parameters.adapters(job.model, job.train) == 8 * 2 * 16 * 2 * 768
    assert parameters.adapters(job.model, parse(BASE).train) == 0
    assert parse(BASE + LORA, "train.method=lora", "train.lora_targets=v_proj, up_proj").train.lora_targets == (
        "v_proj",
        "up_proj",
    )
