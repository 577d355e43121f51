"""`docs/data.md` row by row: what is done with each kind of trouble, and under which name it is counted and told."""

import json
from dataclasses import dataclass

import pytest

from scheduler.errors import FileError
from scheduler.jobs import rows as submitted
from tests.unit.pages import page, spans
from trainer.data import rows
from trainer.errors import BadData

TABLE = page("data.md").table("The data")
GOOD = {
    "pretrain": b'{"text": "good words"}\n',
    "sft": b'{"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
}
LONG = "word " * 200


def chat(*turns: tuple[str, str]) -> bytes:
    return json.dumps({"conversations": [{"role": role, "content": text} for role, text in turns]}).encode() + b"\n"


@dataclass(frozen=True)
class Trouble:
    kind: str
    bad: bytes
    before: bytes = b""
    kept: int = 2  # rows, of two good ones and the bad


CASES: dict[str, list[Trouble]] = {
    "a row that is not valid JSON, or is cut short": [
        Trouble("pretrain", b"just words\n"),
        Trouble("pretrain", b'{"text": "cut\n'),
        Trouble("sft", b'{"conversations": [{"role"\n'),
    ],
    "a row of another shape: a missing key, no text where text is required, an unknown role": [
        Trouble("pretrain", b'{"txt": "words"}\n'),
        Trouble("pretrain", b'{"text": 3}\n'),
        Trouble("sft", chat(("robot", "words"))),
        Trouble("sft", b'{"conversations": [{"role": "user"}]}\n'),
    ],
    "bytes that are not UTF-8": [Trouble("pretrain", b'{"text": "\xff"}\n')],
    "a line longer than 64 MiB": [Trouble("pretrain", b'{"text": "' + b"x" * 5000 + b'"}\n')],
    "a byte order mark at the beginning": [Trouble("pretrain", b"", before=b"\xef\xbb\xbf")],
    "a blank line": [Trouble("pretrain", b"\n"), Trouble("sft", b"  \r\n")],
    "an empty text": [Trouble("pretrain", b'{"text": ""}\n')],
    "a conversation without a turn of an assistant": [Trouble("sft", chat(("user", "words"), ("system", "words")))],
    "a row longer than `max_seq_len`": [
        Trouble("pretrain", json.dumps({"text": LONG}).encode() + b"\n", kept=3),
        Trouble("sft", chat(("user", "a"), ("assistant", LONG)), kept=3),
    ],
    "a conversation whose first answer begins after `max_seq_len` tokens": [
        Trouble("sft", chat(("user", LONG), ("assistant", "b")))
    ],
}
NOTHING = [b"", b"\n\n", b"\xef\xbb\xbf", b'{"text": ""}\n']


def test_every_row_of_the_table_is_tried() -> None:
    assert {row[0] for row in TABLE} == {*CASES, "no row to learn from, an empty file above all"}


def outcomes() -> list[tuple[str, str, Trouble, str]]:
    cases = []
    for what, refused, skipped, counted in TABLE:
        name = (spans(counted) or [""])[0]
        for trouble in CASES.get(what, []):
            cases += [("refuse", refused, trouble, name), ("skip", skipped, trouble, name)]
    return cases


@pytest.mark.parametrize(("mode", "outcome", "trouble", "counted"), outcomes())
def test_it_is_handled_counted_and_told(workshop, monkeypatch, capsys, mode, outcome, trouble, counted) -> None:
    monkeypatch.setattr(rows, "LINE_LIMIT_BYTES", 4000)
    monkeypatch.setattr(submitted, "LINE_BYTES", 4000)
    path = workshop.root / "trouble.jsonl"
    path.write_bytes(trouble.before + GOOD[trouble.kind] + trouble.bad + GOOD[trouble.kind])
    data = {"path": str(path), "broken_rows": mode}
    config = workshop.config(trouble.kind, data=data, train={"max_steps": 1}, sample={"max_new_tokens": 0})
    if outcome == "refused":
        with pytest.raises(BadData, match=r"trouble\.jsonl:2: .*\nhint: "):
            workshop.train("run", config)
        with pytest.raises(FileError, match=r"trouble\.jsonl:2: "):
            submitted.check(path, trouble.kind)
        return
    event = workshop.train("run", config).events("data")[0]
    assert event["rows"] == trouble.kept
    assert event[counted] == 1
    others = {"broken_rows", "blank_lines", "byte_order_mark", "truncated_rows", "dropped_rows"} - {counted}
    dropped = {"dropped_rows"} if outcome == "dropped" else set()
    cut = {"truncated_rows"} if counted == "cut_off_rows" else set()
    assert {name for name in others if event[name]} == dropped | cut
    log = capsys.readouterr().out
    assert "; 1 " in log
    if counted == "broken_rows":
        assert event["first_broken"][0].startswith(f"{path}:2: ")
        assert event["first_broken"][0] in log
        assert (
            submitted.check(path, trouble.kind, skips=True).sentence
            == "2 rows are good, 1 is broken and will be skipped"
        )


@pytest.mark.parametrize("mode", ["refuse", "skip"])
@pytest.mark.parametrize("content", NOTHING)
def test_a_file_without_anything_to_learn_is_refused(workshop, mode, content) -> None:
    path = workshop.root / "nothing.jsonl"
    path.write_bytes(content)
    tokenizer = {"tokenizer": str(workshop.train("first", workshop.config()).run_dir / "tokenizer.json")}
    with pytest.raises(BadData, match=r"nothing\.jsonl: (the file is empty|no row to learn from)\nhint: "):
        workshop.train("run", workshop.config(data={"path": str(path), "broken_rows": mode, **tokenizer}))
    with pytest.raises(FileError):
        submitted.check(path, "pretrain", skips=mode == "skip")


def test_a_file_of_broken_rows_alone_is_refused_even_where_they_are_skipped(workshop) -> None:
    path = workshop.root / "broken.jsonl"
    path.write_bytes(b"none of\nthem is\na row\n")
    tokenizer = {"tokenizer": str(workshop.train("first", workshop.config()).run_dir / "tokenizer.json")}
    with pytest.raises(BadData, match=r"3 are broken, the first: .*broken\.jsonl:1"):
        workshop.train("run", workshop.config(data={"path": str(path), "broken_rows": "skip", **tokenizer}))
    with pytest.raises(FileError, match="no good row: 3 are broken"):
        submitted.check(path, "pretrain", skips=True)


def test_a_line_of_100_mb_is_refused_by_its_number_and_never_held_whole(workshop) -> None:
    path = workshop.root / "huge.jsonl"
    with path.open("wb") as file:
        file.write(GOOD["pretrain"] + b'{"text": "')
        file.truncate(100_000_000)  # a hole: zeros to read, and no room on the disk
        file.seek(0, 2)
        file.write(b'"}\n' + GOOD["pretrain"])
    with pytest.raises(BadData, match=r"huge\.jsonl:2: is longer than 64.0 MiB"):
        list(rows.Reader(path, "pretrain").texts())
    reader = rows.Reader(path, "pretrain", skips=True)
    assert list(reader.texts()) == ["good words"] * 2
    assert reader.passed.broken_rows == 1


def test_a_validation_file_is_told_of_too(workshop) -> None:
    path = workshop.root / "validation.jsonl"
    path.write_bytes(b"\n" + GOOD["pretrain"])
    run = workshop.train("run", workshop.config(data={"validation": str(path)}))
    training, validation = run.events("data")
    assert (training["path"], training["blank_lines"]) == (str(workshop.pretrain), 0)
    assert (validation["path"], validation["blank_lines"], validation["rows"]) == (str(path), 1, 1)
    assert run.events("started")[0]["validation_rows"] == 1
