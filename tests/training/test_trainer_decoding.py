"""Text from a model: the cache changes nothing, the prompt is put as training rows are, and it ends where it must."""

import json

import pytest
import torch
from torch.nn import functional as F  # noqa: N812 (torch's own habit)

from trainer.config import parse_config
from trainer.data.tokenizer import open_tokenizer
from trainer.errors import BadConfiguration
from trainer.evaluate import main as evaluate
from trainer.files.result import find
from trainer.generate import in_pieces
from trainer.generate import main as generate
from trainer.inference.decoding import Context, decode
from trainer.inference.sampling import prompt_ids
from trainer.memory.cpu import CpuDevice
from trainer.model.minimind import MiniMind, initialise


def model_of(config: dict) -> MiniMind:
    model = MiniMind(parse_config(config), torch.device("cpu"))
    initialise(model, seed=3)
    return model


@pytest.mark.parametrize("shape", [{}, {"qk_norm": False}, {"use_moe": True, "num_shared_experts": 1}])
def test_what_is_kept_gives_the_logits_of_the_whole(workshop, shape) -> None:
    model = model_of(workshop.config(model=shape))
    ids = torch.randint(0, 512, (1, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = F.linear(model(ids)[0], model.head_weight)
    context = Context(model, CpuDevice(None))
    read = [context.logits(ids[0, :7].tolist()), *(context.logits([token]) for token in ids[0, 7:].tolist())]
    torch.testing.assert_close(torch.stack(read), whole[6:], rtol=1e-5, atol=1e-5)


def test_it_ends_at_the_end_token_the_limit_or_the_last_position(workshop) -> None:
    model, device = model_of(workshop.config(data={"max_seq_len": 12})), CpuDevice(None)

    def made(prompt: list[int], end: int = -1, limit: int = 100, temperature: float = 0.0, seed: int = 1) -> list[int]:
        return list(decode(model, device, prompt, end=end, max_new_tokens=limit, temperature=temperature, seed=seed))

    assert len(made([1, 5, 9], limit=4)) == 4
    assert len(made([1, 5, 9])) == 9  # 12 positions
    likeliest = made([1, 5, 9])
    assert made([1, 5, 9], end=likeliest[2]) == likeliest[: likeliest.index(likeliest[2])]
    drawn = made([1, 5, 9], temperature=2.0)
    assert drawn == made([1, 5, 9], temperature=2.0)
    assert drawn != made([1, 5, 9], temperature=2.0, seed=2)


def test_a_prompt_is_put_as_a_training_row(workshop) -> None:
    tokenizer = open_tokenizer(parse_config(workshop.config()), workshop.root)
    assert prompt_ids("the model", "pretrain", tokenizer) == [1, *tokenizer.encode(["the model"])[0]]
    asked = prompt_ids("the model", "sft", tokenizer)
    chat = "<|im_start|>user\nthe model<|im_end|>\n<|im_start|>assistant\n"
    assert asked == tokenizer.encode([chat])[0]


def test_a_character_of_several_tokens_comes_whole(workshop) -> None:
    tokenizer = open_tokenizer(parse_config(workshop.config()), workshop.root)
    text = "words \u4e2d\u6587 \U0001f600!"
    pieces = list(in_pieces(tokenizer.encode([text])[0], tokenizer.decode))
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    cut = tokenizer.encode(["\u4e2d"])[0][:1]  # a text that ends within a character is told to its end
    assert "".join(in_pieces(cut, tokenizer.decode)) == "\N{REPLACEMENT CHARACTER}"


def test_an_evaluation_is_that_of_the_run(workshop, capsys) -> None:
    held = workshop.write("held.jsonl", [json.loads(line) for line in workshop.sft.read_text().splitlines()[:9]])
    run = workshop.train("run", workshop.config("sft", data={"validation": str(held)}))
    capsys.readouterr()
    evaluate([str(run.run_dir), str(held), "--max-seq-len", "40", "--batch-size", "2"])
    told = json.loads(capsys.readouterr().out)
    assert told["loss"] == pytest.approx(run.events("evaluation")[-1]["loss"], rel=1e-6)
    assert (told["rows"], told["weights"]) == (9, str(run.run_dir / "final"))


def test_a_run_without_a_result_shows_its_newest_checkpoint(workshop, capsys) -> None:
    run = workshop.train("run", workshop.config())
    (run.run_dir / "final").rename(workshop.root / "elsewhere")
    assert find(run.run_dir).place == run.run_dir / "checkpoints/step-8"
    assert find(workshop.root / "elsewhere").place == workshop.root / "elsewhere"
    capsys.readouterr()
    generate([str(run.run_dir), "--prompt", "the model", "--max-new-tokens", "5"])
    first = capsys.readouterr().out
    generate([str(workshop.root / "elsewhere"), "--prompt", "the model", "--max-new-tokens", "5"])
    assert capsys.readouterr().out == first != "\n"
    with pytest.raises(BadConfiguration, match="has no result, and no checkpoint yet"):
        find(workshop.root)


def test_adapters_of_a_checkpoint_are_merged(workshop, capsys) -> None:
    first = workshop.train("first", workshop.config())
    run = workshop.train("lora", workshop.config("sft", init_from=str(first.run_dir), train={"method": "lora"}))
    capsys.readouterr()
    generate([str(run.run_dir), "--prompt", "the model", "--max-new-tokens", "5"])
    expected = capsys.readouterr().out
    (run.run_dir / "final").rename(workshop.root / "elsewhere")
    generate([str(run.run_dir), "--prompt", "the model", "--max-new-tokens", "5"])
    assert capsys.readouterr().out == expected


def test_a_prompt_longer_than_the_model_reads_is_refused(workshop) -> None:
    run = workshop.train("run", workshop.config(model={"max_position_embeddings": 40}))
    with pytest.raises(BadConfiguration, match="this model can read 39 at most"):
        generate([str(run.run_dir), "--prompt", "word " * 100])
