"""Rows and tokens: MiniMind's formats, counted, kept by content, and refused by line and field."""

import json

import numpy as np
import pytest

from trainer.config import parse_config
from trainer.data.order import RowOrder, hold_out
from trainer.data.run_data import open_data
from trainer.data.tokenizer import open_tokenizer
from trainer.data.tokens import Recipe, open_tokens
from trainer.errors import BadConfiguration, BadData, Stopped


def tokens_of(workshop, kind: str, rows: list[object], max_seq_len: int = 40):
    path = workshop.write("some.jsonl", rows)
    tokenizer = open_tokenizer(parse_config(workshop.config()), workshop.root)
    recipe = Recipe(kind=kind, tokenizer=tokenizer, max_seq_len=max_seq_len)
    return open_tokens(path, recipe, workshop.root / "cache", lambda: None), tokenizer


def test_a_pretraining_row_is_framed_and_all_but_its_first_token_is_a_target(workshop) -> None:
    found, tokenizer = tokens_of(workshop, "pretrain", [{"text": "the model", "source": "ignored"}])
    row = found[0]
    assert row.tokens.tolist() == [1, *tokenizer.encode(["the model"])[0], 2]
    assert row.is_target.tolist() == [False] + [True] * (len(row.tokens) - 1)


def test_only_the_assistant_s_words_and_their_end_are_targets(workshop) -> None:
    chat = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "which word?"},
        {"role": "assistant", "content": "the row"},
        {"role": "user", "content": "and next?"},
        {"role": "assistant", "content": "words"},
    ]
    found, tokenizer = tokens_of(workshop, "sft", [{"conversations": chat}], max_seq_len=200)
    row = found[0]
    template = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in chat)
    assert row.tokens.tolist() == tokenizer.encode([template])[0]
    answer = tokenizer.encode(["the row<|im_end|>\n", "words<|im_end|>\n"])
    assert row.tokens[row.is_target].tolist() == answer[0] + answer[1]


def test_rows_cut_or_dropped_are_counted(workshop) -> None:
    long = [{"role": "user", "content": "word " * 100}, {"role": "assistant", "content": "next"}]
    unanswered = [{"role": "user", "content": "word"}]
    cut = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "word " * 100}]
    found, _ = tokens_of(workshop, "sft", [{"conversations": chat} for chat in (long, unanswered, cut)])
    assert (found.counts.rows, found.counts.dropped_rows, found.counts.truncated_rows) == (1, 2, 2)
    assert len(found[0].tokens) == 40
    found, _ = tokens_of(workshop, "pretrain", [{"text": ""}, {"text": "word " * 100}])
    assert (found.counts.rows, found.counts.dropped_rows, found.counts.truncated_rows) == (1, 1, 1)
    assert len(found[0].tokens) == 40
    assert found[0].tokens[-1] == 2


@pytest.mark.parametrize(
    ("kind", "content", "line", "field", "reason"),
    [
        ("pretrain", b'{"text": "good"}\n{"text": 3}\n', 2, "text", "must be text, got a number"),
        ("pretrain", b'{"text": "good"}\n\n{"txt": ""}\n', 3, "text", "is missing; the row has 'txt'"),
        ("pretrain", b'{"text": "cut', 1, "", "is cut short: no complete JSON object"),
        ("pretrain", b'{"text": "\xff"}\n', 1, "", "is not UTF-8 text (byte 0xff at 11)"),
        ("pretrain", b'[1]\n', 1, "", "must be an object, got a list"),
        ("sft", b'{"conversations": [{"role": "user"}]}\n', 1, "conversations[0].content", "is missing"),
        ("sft", b'{"conversations": [{"role": "bot", "content": ""}]}\n', 1, "conversations[0].role", "'bot'"),
        ("pretrain", b'{"text": "x", "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 1, "", "nested too deeply"),
        ("pretrain", b"", None, "", "empty"),
        ("pretrain", b"\n \n", None, "", "empty"),
    ],
)  # fmt: skip
def test_a_broken_line_is_refused_with_its_place(workshop, kind, content, line, field, reason) -> None:
    config = parse_config(workshop.config())
    tokenizer = open_tokenizer(config, workshop.root)
    path = workshop.root / "broken.jsonl"
    path.write_bytes(content)
    recipe = Recipe(kind=kind, tokenizer=tokenizer, max_seq_len=40)
    with pytest.raises(BadData) as caught:
        open_tokens(path, recipe, workshop.root / "cache", lambda: None)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: {field}" if line else f"{path}: ")
    assert reason in message
    assert "\nhint: " in message
    left = [entry.name for entry in (workshop.root / "cache").glob(".tmp*")]
    assert left == []


def test_a_byte_order_mark_is_passed_over(workshop) -> None:
    path = workshop.root / "marked.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"text": "word"}).encode())
    tokenizer = open_tokenizer(parse_config(workshop.config()), workshop.root)
    recipe = Recipe(kind="pretrain", tokenizer=tokenizer, max_seq_len=40)
    assert len(open_tokens(path, recipe, workshop.root / "cache", lambda: None)) == 1


def test_a_line_without_end_is_refused(workshop, monkeypatch) -> None:
    monkeypatch.setattr("trainer.data.rows.LINE_LIMIT_BYTES", 1000)
    with pytest.raises(BadData, match=r"some\.jsonl:2: is longer than"):
        tokens_of(workshop, "pretrain", [{"text": "word"}, {"text": "word" * 300}])


def test_tokens_are_made_once_for_a_content_wherever_it_lies(workshop, monkeypatch) -> None:
    rows = [{"text": "word"}]
    first, _ = tokens_of(workshop, "pretrain", rows)
    monkeypatch.setattr("trainer.data.tokens._tokenise", lambda *_: pytest.fail("tokenised again"))
    again, _ = tokens_of(workshop, "pretrain", rows)
    assert again.key == first.key
    assert again[0].tokens.tolist() == first[0].tokens.tolist()


def test_tokenising_stops_when_asked(workshop) -> None:
    config = parse_config(workshop.config())
    tokenizer = open_tokenizer(config, workshop.root)

    def stop() -> None:
        raise Stopped("now")

    with pytest.raises(Stopped):
        open_data(config, workshop.root, tokenizer, stop)


def test_a_tokenizer_trained_from_the_data_is_the_same_each_time(workshop) -> None:
    config = parse_config(workshop.config())
    texts = []
    for name in ("one", "two"):
        (workshop.root / name).mkdir()
        texts.append(open_tokenizer(config, workshop.root / name).json)
    assert texts[0] == texts[1]
    encoder = json.loads(texts[0])
    assert [token["content"] for token in encoder["added_tokens"]] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = open_tokenizer(config, workshop.root / "one")
    text = "any text: \u00e9, \u4e2d\u6587, \U0001f600 and\n\ttabs"
    assert tokenizer.decode(tokenizer.encode([text])[0]) == text


def test_a_tokenizer_too_large_for_the_model_is_refused(workshop) -> None:
    open_tokenizer(parse_config(workshop.config()), workshop.root)
    config = workshop.config(model={"vocab_size": 300}, data={"tokenizer": str(workshop.root)})
    (workshop.root / "run").mkdir()
    with pytest.raises(BadConfiguration, match=r"entries, model\.vocab_size is 300"):
        open_tokenizer(parse_config(config), workshop.root / "run")


def test_each_epoch_has_each_row_once_in_another_order() -> None:
    order = RowOrder(np.arange(10), seed=1, effective_batch=4, epochs=2, max_steps=None)
    assert order.total_steps == 5
    taken = [row for step in range(5) for row in order.step(step)]
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10))
    assert taken[:10] != taken[10:]
    again = RowOrder(np.arange(10), seed=1, effective_batch=4, epochs=2, max_steps=None)
    assert again.step(3) == taken[12:16]


def test_held_out_rows_are_not_trained_on() -> None:
    training, held = hold_out(100, 0.07, seed=3)
    assert len(held) == 7
    assert sorted([*training, *held]) == list(range(100))
    assert hold_out(100, 0.07, seed=4)[1].tolist() != held.tolist()
    assert [len(part) for part in hold_out(50, 0.001, seed=3)] == [49, 1]
    assert [len(part) for part in hold_out(50, 0, seed=3)] == [50, 0]
