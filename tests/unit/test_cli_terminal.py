"""What a terminal is shown: widths, cuts, wrapping, and nothing that it would obey."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.cli.jobview import memory
from scheduler.cli.terminal import Column, Line, cells, cut, plain, screenful, table, wrap

COLUMNS = (
    Column("id", "ID", right=True),
    Column("name", "NAME", least=6),
    Column("speed", "TOK/S", right=True, drop=2),
    Column("loss", "LOSS", right=True, drop=1),
)
ROW = Line({"id": "7", "name": "a-rather-long-name", "speed": "12.3k", "loss": "2.500"})


def test_a_table_gives_way_in_order() -> None:
    assert table(COLUMNS, [ROW], total=80).splitlines() == [
        "ID  NAME                TOK/S   LOSS",
        " 7  a-rather-long-name  12.3k  2.500",
    ]
    assert table(COLUMNS, [ROW], total=30).splitlines()[1] == " 7  a-rather-lo…  12.3k  2.500"
    assert table(COLUMNS, [ROW], total=20).splitlines() == ["ID  NAME        LOSS", " 7  a-rather…  2.500"]
    assert table(COLUMNS, [ROW], total=12).splitlines() == ["ID  NAME", " 7  a-rathe…"]


def test_empty_columns_are_left_out_and_remarks_stand_below() -> None:
    line = Line({"id": "1", "name": "a"}, remark="needs 9.8 GiB; GPU 0 has 7.1 GiB free")
    shown = table(COLUMNS, [line], total=30).splitlines()
    assert shown == ["ID  NAME", " 1  a", "      needs 9.8 GiB; GPU 0 has", "      7.1 GiB free"]


@given(st.text(max_size=40), st.integers(1, 20))
def test_a_cut_text_fits(text: str, columns: int) -> None:
    assert cells(cut(text, columns)) <= columns


@given(st.lists(st.text(alphabet="ab名", min_size=1, max_size=5), max_size=12), st.integers(10, 40))
def test_wrapping_loses_nothing_and_fits(words: list[str], total: int) -> None:
    lines = wrap(" ".join(words), 0, total)
    assert " ".join(lines).split() == words
    assert all(cells(line) <= total for line in lines)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("a\x07\x08\x7f\x9bb", "ab"),
        ("one\ntwo\tthree", "one\ntwo\tthree"),
        ("\u202egnp.exe", "gnp.exe"),
    ],
)
def test_plain(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(st.text())
def test_plain_leaves_nothing_that_a_terminal_obeys(text: str) -> None:
    assert not any((sign < " " and sign not in "\n\t") or "\x7f" <= sign <= "\x9f" for sign in plain(text))


@pytest.mark.parametrize(
    ("predicted", "measured", "shown"),
    [
        (None, None, ""),
        (92 << 20, None, "92/- MiB"),
        (6 << 30, 5 << 30, "6.00/5.00 GiB"),
        (None, 1 << 30, "-/1.00 GiB"),
    ],
)
def test_memory_is_told_in_one_unit(predicted: int | None, measured: int | None, shown: str) -> None:
    assert memory(predicted, measured) == shown


def test_a_screenful_keeps_the_top_and_a_short_last_section() -> None:
    text = "\n".join([*"abcdefgh", "", "y", "z"])
    assert screenful(text, 11) == text
    assert screenful(text, 8).split("\n") == ["a", "b", "c", "d", "(4 lines more)", "", "y", "z"]
    assert screenful(text, 4).split("\n") == ["a", "b", "c", "(8 lines more)"]
