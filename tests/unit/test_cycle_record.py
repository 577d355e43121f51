"""The record of a cycle holds all that the decision was made from, whatever that was."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.controller import record
from scheduler.controller.record import Cycle
from tests.unit.admission_worlds import World, worlds


@settings(max_examples=25, deadline=None)
@given(world=worlds(), left=st.sampled_from([0.0, 0.1 + 0.2, 9.0]))
def test_whatever_was_written_decides_the_same_once_it_is_read(
    tmp_path_factory: pytest.TempPathFactory, world: World, left: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "cycle.json"
    cycle = Cycle(
        at=1e9 + 0.1,
        jobs=tuple(world.queue),
        running=tuple(world.running),
        devices=tuple(world.devices),
        preemptions_left=left,
        more_seconds=1 / 3,
    ).decided()
    record.write(path, cycle)
    read = record.read(path)
    assert read is not None
    assert (read.running, read.devices, read.decisions) == (cycle.running, cycle.devices, cycle.decisions)
    assert read.decided().decisions == cycle.decisions
