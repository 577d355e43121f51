"""Any file of rows is rows, or is refused with file and line: by submit and by the trainer, and by both or neither."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.errors import FileError
from scheduler.jobs import rows
from trainer.data.rows import Reader
from trainer.errors import BadData

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "conversations", "role", "content"]) | st.text(), inner, max_size=3)
    ),
    max_leaves=10,
)
lines = st.one_of(
    anything.map(lambda value: json.dumps(value).encode()),
    anything.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.binary(),
    st.sampled_from([b'{"text": "good"}', b"\xef\xbb\xbf", b"", b"[" * 50_000, b'{"text": "\\ud800"}']),
)


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
@given(content=st.lists(lines, max_size=6).map(b"\n".join))
@example(content=b'{"text": "\\u0000\x7f"}\n')
@example(content=b'{"text": ' + b"9" * 10_000 + b"}")
def test_any_file_of_rows(tmp_path: Path, kind: str, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    refused = said = None
    try:
        checked = rows.check(path, kind).rows
    except FileError as error:
        refused = error
    reader = Reader(path, kind)
    try:
        read = len(list(reader.texts() if kind == "pretrain" else reader.conversations()))
    except BadData as error:
        said = str(error)
    if refused is None:
        assert said is None
        assert read == checked
    elif refused.line is not None and refused.reason != "is empty":
        field = f"{refused.field}: " if refused.field else ""
        assert said is not None
        assert said.startswith(f"{path}:{refused.line}: {field}{refused.reason}\nhint: ")
    passing = Reader(path, kind, skips=True)
    kept = list(passing.texts() if kind == "pretrain" else passing.conversations())
    assert len(kept) + passing.passed.broken_rows + passing.passed.blank_lines <= content.count(b"\n") + 1
