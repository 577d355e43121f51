"""A run's events in less room: a curve with fewer points from its first to its last, and all that is rare."""

import json
from itertools import count, pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from trainer.reporting.events import EventLog
from trainer.reporting.thinning import thinned


def line(event: str, step: int | None = None) -> bytes:
    return json.dumps({"at": 1.5, "attempt": 1, "event": event, "step": step}).encode() + b"\n"


def steps(lines: list[bytes]) -> list[int]:
    told = [json.loads(one) for one in lines]
    return [one["step"] for one in told if one["event"] == "step"]


def test_what_is_rare_stays_and_steps_are_spread_over_the_run() -> None:
    rare = [line("started", 0), line("checkpoint", 500), line("finished", 1000)]
    lines = [rare[0], *(line("step", step) for step in range(500)), rare[1]]
    lines += [*(line("step", step) for step in range(500, 1001)), rare[2]]
    kept = thinned(lines, sum(map(len, lines)) // 10)
    assert [one for one in kept if b'"step", "step"' not in one] == rare
    left = steps(kept)
    assert (left[0], left[-1]) == (0, 1000)
    gaps = [after - before for before, after in pairwise(left)]
    assert 8 <= min(gaps[:-1]) <= max(gaps) <= 12
    assert sum(map(len, kept)) < sum(map(len, lines)) // 9


def test_thinned_again_and_again_no_part_of_a_run_fades(tmp_path: Path) -> None:
    clock = count(1_700_000_000.5)  # so that lines are always as long, and the same are chosen each time
    events = EventLog(tmp_path / "events.jsonl", clock=lambda: next(clock))
    events.limit_bytes = 60_000
    last = 20_000
    for step in range(1, last + 1):
        events.write("step", step=step, loss=1.0)
        if step % 1000 == 0:
            events.write("checkpoint", step=step)
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    assert (tmp_path / "events.jsonl").stat().st_size <= 60_000
    left = steps(lines)
    assert (left[0], left[-1]) == (1, last)
    assert max(after - before for before, after in pairwise(left)) < last / 40
    assert sum(b'"checkpoint"' in one for one in lines) == 20
    assert sum(b'"thinned"' in one for one in lines) > 10


def test_a_run_that_was_set_back_keeps_all_its_ways() -> None:
    way = [*range(100), *range(50, 150), *range(100, 200)]
    lines = [line("step", step) for step in way]
    left = steps(thinned(lines, sum(map(len, lines)) // 3))
    backs = [after for before, after in pairwise(left) if after < before]
    assert len(backs) == 2


@given(
    raw=st.lists(st.one_of(st.binary(max_size=20), st.builds(line, st.sampled_from("abc"), st.integers(0, 9)))),
    most=st.integers(0, 500),
)
def test_any_lines_come_out_in_order(raw: list[bytes], most: int) -> None:
    kept = thinned(raw, most)
    places = iter(raw)
    assert all(any(one == other for other in places) for one in kept)


def test_a_disk_without_room_for_the_shorter_file_ends_nothing(tmp_path: Path) -> None:
    events = EventLog(tmp_path / "events.jsonl")
    events.limit_bytes = 1_000
    (tmp_path / ".tmp-events.jsonl").mkdir()  # so it can't be written
    for step in range(100):
        events.write("step", step=step)
    assert steps((tmp_path / "events.jsonl").read_bytes().splitlines()) == list(range(100))
