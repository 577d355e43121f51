"""The rows of a data file: each kind of bad line is named with its number, field and reason."""

import json
from pathlib import Path

import pytest

from scheduler.errors import FileError
from scheduler.jobs import rows
from trainer.data.rows import Reader
from trainer.errors import BadData

GOOD = {
    "pretrain": b'{"text": "one"}\n',
    "sft": b'{"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n',
}


def refusal(tmp_path: Path, kind: str, content: bytes) -> FileError:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(FileError) as caught:
        rows.check(path, kind)
    return caught.value


def said_by_trainer(tmp_path: Path, kind: str) -> str:
    """The same in the words of the trainer, which reads the file again at the start of each attempt."""
    reader = Reader(tmp_path / "rows.jsonl", kind)
    with pytest.raises(BadData) as caught:
        list(reader.texts() if kind == "pretrain" else reader.conversations())
    return str(caught.value).partition("\nhint: ")[0]


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n \n"])
def test_good_rows_are_counted(tmp_path: Path, kind: str, end: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD[kind] * 3 + GOOD[kind].rstrip() + end)
    checked = rows.check(path, kind)
    assert checked.rows == 4
    assert checked.sentence == "all 4 rows are good"


@pytest.mark.parametrize(
    ("line", "field", "reason"),
    [
        (b'{"txt": "a"}', "text", "is missing; the row has 'txt'"),
        (b"{}", "text", "is missing; the row is empty"),
        (b'{"text": 3}', "text", "must be text, got a number"),
        (b'{"text": null}', "text", "must be text, got null"),
        (b'["a"]', None, "must be an object, got a list"),
        (b'{"text": "a"', None, "is cut short: no complete JSON object"),
        (b"a text", None, "is not JSON at byte 1"),
        (b'{"text": "a\xffb"}', None, "is not UTF-8 text (byte 0xff at 12)"),
        (b'{"a":' * 9000, None, "is nested too deeply"),
    ],
)
def test_a_bad_pretrain_row(tmp_path: Path, line: bytes, field: str | None, reason: str) -> None:
    error = refusal(tmp_path, "pretrain", GOOD["pretrain"] * 2 + line + b"\n")
    assert (error.line, error.field, error.reason) == (3, field, reason)
    assert error.hint
    assert said_by_trainer(tmp_path, "pretrain") == f"{tmp_path}/rows.jsonl:3: {field + ': ' if field else ''}{reason}"


def test_a_huge_line_is_refused_without_being_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "LINE_BYTES", 1 << 20)
    error = refusal(tmp_path, "pretrain", GOOD["pretrain"] + b'{"text": "' + b"x" * (1 << 21) + b'"}\n')
    assert (error.line, error.reason) == (2, "is longer than 1.0 MiB")


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"text": "a"}, "conversations", "is missing; the row has 'text'"),
        ({"conversations": []}, "conversations", "is empty"),
        ({"conversations": [{"role": "user"}]}, "conversations[0].content", "is missing"),
        ({"conversations": ["a"]}, "conversations[0]", "must be an object, got text"),
        (
            {"conversations": [{"role": "asistant", "content": "a"}]},
            "conversations[0].role",
            "must be system, user, assistant or tool, got 'asistant'",
        ),
    ],
)
def test_a_bad_sft_row(tmp_path: Path, row: object, field: str, reason: str) -> None:
    error = refusal(tmp_path, "sft", GOOD["sft"] + json.dumps(row).encode())
    assert (error.line, error.field, error.reason) == (2, field, reason)
    if reason != "is empty":  # which the trainer passes over: it has nothing to learn from
        assert said_by_trainer(tmp_path, "sft") == f"{tmp_path}/rows.jsonl:2: {field}: {reason}"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_rows(tmp_path: Path, content: bytes) -> None:
    assert refusal(tmp_path, "pretrain", content).reason == "has no rows"


def test_rows_without_anything_to_learn(tmp_path: Path) -> None:
    row = b'{"conversations": [{"role": "user", "content": "q"}]}\n'
    assert "nothing to learn from" in refusal(tmp_path, "sft", row * 2).reason
    assert "nothing to learn from" in refusal(tmp_path, "pretrain", b'{"text": ""}\n').reason


def test_a_large_file_is_sampled_from_head_to_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "WHOLE_BYTES", 10_000)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 500)
    monkeypatch.setattr(rows, "BLOCKS", 4)
    path = tmp_path / "rows.jsonl"
    lines = [GOOD["pretrain"]] * 5000
    path.write_bytes(b"".join(lines))
    checked = rows.check(path, "pretrain")
    assert 100 < checked.rows < 300
    assert "a sample" in checked.sentence
    for bad in (0, 1000, 4999):  # the head, the first block between, the tail
        path.write_bytes(b"".join([*lines[:bad], b"{}\n", *lines[bad + 1 :]]))
        with pytest.raises(FileError) as caught:
            rows.check(path, "pretrain")
        assert caught.value.line == bad + 1
