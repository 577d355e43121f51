"""Exports: transformers loads them by itself, and says what our model says; MiniMind's .pth has all its names."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from trainer.config import Config, parse_config
from trainer.convert import convert
from trainer.data.rows import Message
from trainer.data.tokenizer import Tokenizer, chat_pieces, open_tokenizer, opening
from trainer.errors import BadConfiguration
from trainer.files.export import write_final
from trainer.files.weights import load_weights, read_weights
from trainer.model.minimind import MiniMind, initialise

OLDER = {"num_key_value_heads": 2, "qk_norm": False, "rms_norm_eps": 1e-5}
FAMILIES: dict[str, dict[str, Any]] = {
    "Qwen3ForCausalLM": {},
    "LlamaForCausalLM": OLDER | {"tie_word_embeddings": False},
    "Qwen3MoeForCausalLM": {"use_moe": True},
    "GraniteMoeSharedForCausalLM": OLDER | {"use_moe": True, "num_experts_per_tok": 2, "num_shared_experts": 2},
}
CONVERSATION = [
    Message(role="system", content="be brief"),
    Message(role="user", content="the model  reads"),
    Message(role="assistant", content="a row\n"),
]


@pytest.fixture(scope="module")
def tokenizer(shared_workshop) -> Tokenizer:
    return open_tokenizer(parse_config(shared_workshop.config()), shared_workshop.root)


def finished(run_dir: Path, config: Config, tokenizer: Tokenizer) -> MiniMind:
    """Leave a run's result behind, of weights that let every part show."""
    run_dir.mkdir()
    model = MiniMind(config, torch.device("cpu"))
    initialise(model, seed=5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 2.0 if parameter.dim() > 1 else torch.rand(parameter.shape, generator=generator) + 0.5
            parameter.mul_(scale)
    write_final(run_dir, config, model, tokenizer, "")
    return model


@pytest.fixture(scope="module")
def exported(shared_workshop, tokenizer) -> dict[str, dict[str, Any]]:
    """What transformers says of one model of each family."""
    torch.set_num_threads(1)
    generator, directories = torch.Generator().manual_seed(8), []
    for name, family in FAMILIES.items():
        run_dir = shared_workshop.root / name
        config = shared_workshop.config(model=family | {"head_dim": 16})  # not hidden_size / heads
        model = finished(run_dir, parse_config(config), tokenizer)
        ids = torch.randint(3, tokenizer.entries, (2, 33), generator=generator)
        with torch.no_grad():
            logits = F.linear(model(ids), model.head_weight)
        save_file({"ids": ids, "logits": logits}, run_dir / "expected.safetensors")
        directories.append(run_dir / "exported")
        convert(run_dir, "huggingface", directories[-1])
    conversation = json.dumps([{"role": each.role, "content": each.content} for each in CONVERSATION])
    command = [sys.executable, str(Path(__file__).with_name("transformers_reader.py")), conversation]
    done = subprocess.run([*command, *map(str, directories)], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return dict(zip(FAMILIES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_says_what_our_model_says(exported, name: str) -> None:
    found = exported[name]
    assert found["class"] == name
    assert found["differing"] == []
    assert found["difference"] < 1e-4
    assert found["spread"] > 0.1  # logits worth comparing
    assert found["generates"]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_tokenizer_and_its_chat_template_are_those_of_training(exported, tokenizer, name: str) -> None:
    found = exported[name]
    pieces = [text for text, _ in chat_pieces(CONVERSATION)]
    assert found["chat"] == "".join(pieces)
    assert found["ids"] == [token for ids in tokenizer.encode(pieces) for token in ids]
    assert found["prompt"] == "".join(text for text, _ in chat_pieces(CONVERSATION[:2])) + opening("assistant")
    assert found["specials"] == [1, 2, 0]


def test_what_no_stock_architecture_is_is_refused(workshop, tokenizer) -> None:
    config = parse_config(workshop.config(model={"use_moe": True, "num_shared_experts": 1}))
    finished(workshop.root / "run", config, tokenizer)
    with pytest.raises(BadConfiguration, match="shared experts beside qk-norm"):
        convert(workshop.root / "run", "huggingface", workshop.root / "out")
    assert not (workshop.root / "out").exists()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_minimind_s_file_is_the_whole_model_under_its_names(workshop, tokenizer, family) -> None:
    config = parse_config(workshop.config("sft", model=family))
    model = finished(workshop.root / "run", config, tokenizer)
    convert(workshop.root / "run", "minimind", workshop.root / "out")
    name = "full_sft_32_moe.pth" if config.model.use_moe else "full_sft_32.pth"
    assert {path.name for path in (workshop.root / "out").iterdir()} == {
        name,
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    state = torch.load(workshop.root / "out" / name, weights_only=True)
    assert {key: tensor.dtype for key, tensor in state.items()} == dict.fromkeys(model.state_dict(), torch.float16)
    again = MiniMind(config, torch.device("cpu"))
    load_weights(again, read_weights(workshop.root / "out" / name), "it")
    for key, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key].half().float())


def test_a_mistake_is_told_and_nothing_written(workshop, tokenizer) -> None:
    finished(workshop.root / "run", parse_config(workshop.config()), tokenizer)
    with pytest.raises(BadConfiguration, match="has no result, and no checkpoint yet"):
        convert(workshop.root / "nowhere", "minimind", workshop.root / "out")
    with pytest.raises(BadConfiguration, match="exists already"):
        convert(workshop.root / "run", "minimind", workshop.root / "run")
    assert not (workshop.root / "out").exists()
