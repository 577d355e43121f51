"""Loops that a trace can see."""

from trainer.memory.loops import listening, pieces


class Ear:
    def __init__(self, size: int) -> None:
        self.size = size
        self.heard: list[object] = []

    def loop_begins(self, count: int, size: int) -> int:
        self.heard.append((count, size))
        return self.size

    def piece_begins(self, rows: int) -> None:
        self.heard.append(rows)

    def loop_ends(self) -> None:
        self.heard.append("end")


def test_pieces_cover_all_rows_once() -> None:
    assert list(pieces(7, 3)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(pieces(0, 3)) == []


def test_a_listener_chooses_the_size_and_hears_each_turn() -> None:
    ear = Ear(4)
    with listening(ear):
        assert list(pieces(7, 3)) == [slice(0, 4), slice(4, 7)]
    assert ear.heard == [(7, 3), 4, 3, "end"]
    assert len(list(pieces(7, 3))) == 3
