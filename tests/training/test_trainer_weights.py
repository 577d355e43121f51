"""What goes out as weights comes in again, from every format, and nothing else does."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.config import parse_config
from trainer.errors import BadConfiguration
from trainer.files.weights import load_weights, read_weights
from trainer.model.minimind import MiniMind, initialise


@pytest.fixture(scope="module")
def result(shared_workshop):
    return shared_workshop.train("result", shared_workshop.config(data={"validation": 0.1}))


def test_the_result_is_whole(result) -> None:
    final = result.run_dir / "final"
    assert {path.name for path in final.iterdir()} == {
        "model.safetensors",
        "config.json",
        "pretrain_32.pth",
        "tokenizer.json",
        "generated.txt",
    }
    pth = torch.load(final / "pretrain_32.pth", weights_only=True)
    assert len(pth) == 25
    assert {tensor.dtype for tensor in pth.values()} == {torch.float16}
    assert torch.equal(pth["lm_head.weight"], pth["model.embed_tokens.weight"])
    exact = load_file(final / "model.safetensors")
    assert torch.equal(exact["model.norm.weight"].half(), pth["model.norm.weight"])
    config = json.loads((final / "config.json").read_text(encoding="utf-8"))
    assert (config["head_dim"], config["intermediate_size"], config["qk_norm"]) == (8, 64, True)
    (sample,) = result.events("sample")
    assert (final / "generated.txt").read_text(encoding="utf-8") == f"{sample['prompt']}\n---\n{sample['text']}\n"


@pytest.mark.parametrize("source", ["", "final", "final/model.safetensors", "final/pretrain_32.pth"])
def test_a_run_starts_from_another_s_weights_and_tokenizer(workshop, result, source) -> None:
    path = result.run_dir / source
    config = workshop.config("sft", init_from=str(path), train={"max_steps": 1, "learning_rate": 1e-9})
    outcome = workshop.train("next", config)
    assert (outcome.run_dir / "tokenizer.json").read_text(encoding="utf-8") == (
        result.run_dir / "tokenizer.json"
    ).read_text(encoding="utf-8")
    given, kept = (load_file(run.run_dir / "final/model.safetensors") for run in (result, outcome))
    for name, tensor in given.items():
        torch.testing.assert_close(kept[name], tensor, rtol=1e-3, atol=1e-4)


def test_weights_of_another_shape_are_refused_by_name(workshop, result) -> None:
    config = workshop.config("sft", init_from=str(result.run_dir), model={"intermediate_size": 128})
    with pytest.raises(BadConfiguration) as caught:
        workshop.train("other", config)
    message = str(caught.value)
    assert "model.layers.0.mlp.gate_proj.weight: the model has [128, 32], the file [64, 32]" in message
    assert message.endswith("and 1 more")


@pytest.mark.parametrize("change", ["missing", "extra", "untied"])
def test_weights_are_loaded_strictly(workshop, result, change) -> None:
    directory = workshop.root / "changed"
    shutil.copytree(result.run_dir / "final", directory)
    weights = load_file(directory / "model.safetensors")
    if change == "missing":
        del weights["model.layers.1.self_attn.q_norm.weight"]
        expected = r"q_norm\.weight \[8\] is missing in the file"
    elif change == "extra":
        weights["model.layers.2.mlp.gate_proj.weight"] = torch.ones(2)
        expected = r"layers\.2\.mlp\.gate_proj\.weight \[2\] is not in the model"
    else:
        weights["lm_head.weight"] = torch.ones(512, 32)
        expected = r"lm_head\.weight differs from model\.embed_tokens\.weight"
    save_file(weights, directory / "model.safetensors")
    with pytest.raises(BadConfiguration, match=expected):
        workshop.train("strict", workshop.config(init_from=str(directory)))


def test_a_file_with_code_in_it_is_refused(workshop, result) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("never run",)

    path = workshop.root / "payload.pth"
    torch.save({"model.norm.weight": Payload()}, path)
    config = workshop.config(init_from=str(path), data={"tokenizer": str(result.run_dir / "tokenizer.json")})
    with pytest.raises(BadConfiguration, match="is not a weights file"):
        workshop.train("payload", config)


def test_a_run_without_a_result_is_said(workshop, result) -> None:
    shutil.copy(result.run_dir / "tokenizer.json", workshop.root / "tokenizer.json")
    with pytest.raises(BadConfiguration, match="is a run without a result"):
        workshop.train("early", workshop.config(init_from=str(workshop.root)))


def test_weights_without_their_tokenizer_are_refused(workshop, result) -> None:
    path = workshop.root / "alone.safetensors"
    shutil.copy(result.run_dir / "final" / "model.safetensors", path)
    with pytest.raises(BadConfiguration, match="need the tokenizer they were trained with"):
        workshop.train("alone", workshop.config(init_from=str(path)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_learns_the_same(workshop, result, dtype) -> None:
    outcome = workshop.train("low", workshop.config(data={"validation": 0.1}, train={"dtype": dtype}))
    assert outcome.losses() == pytest.approx(result.losses(), rel=0.02)


EXPERTS = {"use_moe": True, "num_experts_per_tok": 2, "num_shared_experts": 1}


def model_of(workshop, **changes: object) -> MiniMind:
    made = MiniMind(parse_config(workshop.config(model=changes)), torch.device("cpu"))
    initialise(made, seed=2)
    return made


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("family", [{}, EXPERTS], ids=["dense", "experts"])
def test_every_dtype_and_format_of_file_is_read(workshop, dtype, name, family) -> None:
    given = {key: tensor.to(dtype) for key, tensor in model_of(workshop, **family).state_dict().items()}
    path = workshop.root / name
    if path.suffix == ".pth":
        torch.save(given, path)
    else:
        del given["lm_head.weight"]  # as safetensors keeps tied weights
        save_file(given, path)
    model = MiniMind(parse_config(workshop.config(model=family)), torch.device("cpu"))
    load_weights(model, read_weights(path), "it")
    for key, tensor in given.items():
        assert torch.equal(model.state_dict()[key], tensor.float())


@pytest.mark.parametrize(
    ("there", "here", "told"),
    [
        (EXPERTS, {}, "layers.0.mlp.gate_proj.weight [64, 32] is missing in the file"),
        ({}, EXPERTS, "layers.0.mlp.gate.weight [4, 32] is missing in the file"),
        (EXPERTS, EXPERTS | {"num_experts": 8}, "mlp.gate.weight: the model has [8, 32], the file [4, 32]"),
        ({"qk_norm": False}, {}, "layers.0.self_attn.q_norm.weight [8] is missing in the file"),
    ],
)
def test_another_family_s_weights_are_refused_by_name(workshop, there, here, told) -> None:
    with pytest.raises(BadConfiguration) as caught:
        load_weights(model_of(workshop, **here), model_of(workshop, **there).state_dict(), "it")
    assert told in str(caught.value)


def test_quantised_weights_are_refused(workshop) -> None:
    given = {name: tensor.to(torch.int8) for name, tensor in model_of(workshop).state_dict().items()}
    with pytest.raises(BadConfiguration, match=r"embed_tokens\.weight is torch\.int8, and not floating point"):
        load_weights(model_of(workshop), given, "it")
