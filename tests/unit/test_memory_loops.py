"""Loops that a trace can see."""

from trainer.memory.loops import chunks, listening


class LoopLog:
    def __init__(self, size: int) -> None:
        self.size = size
        self.events: list[object] = []

    def loop_begins(self, total: int, size: int) -> int:
        self.events.append((total, size))
        return self.size

    def chunk_begins(self, rows: int) -> None:
        self.events.append(rows)

    def loop_ends(self) -> None:
        self.events.append("end")


def test_chunks_cover_all_rows_once() -> None:
    assert list(chunks(7, 3)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(chunks(0, 3)) == []


def test_a_listener_chooses_the_size_and_is_told_of_each_chunk() -> None:
    log = LoopLog(4)
    with listening(log):
        assert list(chunks(7, 3)) == [slice(0, 4), slice(4, 7)]
    assert log.events == [(7, 3), 4, 3, "end"]
    assert len(list(chunks(7, 3))) == 3
