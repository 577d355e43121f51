"""`mmq why`: what it says of a queue that a controller has looked at, and where there is nothing to say."""

import json
from pathlib import Path

import pytest

from tests.acceptance.conftest import Mmq
from tests.controller.bench import Bench


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMQ_HOME", str(tmp_path))
    return tmp_path


def test_the_whole_reasoning_about_a_job(mmq: Mmq, home: Path) -> None:
    bench = Bench(home)
    bench.tracer.base_mib, bench.tracer.row_mib = 900, 0
    bench.submit("memory.optimizer_offload=off")
    waiting = bench.submit("memory.optimizer_offload=off")
    bench.cycles(3)
    told = mmq("why", str(waiting)).out
    assert "it is number 1 of 1 in the queue" in told
    assert "virtual device 0 has 124 MiB free, job 1 holds 900 MiB" in told
    assert "so it waits: needs 900 MiB" in told
    (first, second) = json.loads(mmq("why", "1-2", "--json").out)["jobs"]
    assert first["lines"] == ["it is admitted, and was not in the queue of that cycle"]
    assert (second["id"], second["state"]) == (waiting, "queued")
    story = mmq("status", str(waiting)).out
    assert "number 1 in the queue, may start in about" in story
    bench.close()


def test_without_a_cycle_it_names_the_command(mmq: Mmq, store: object) -> None:
    done = mmq("why", "1")
    assert done.code == 1
    assert "no record of a cycle yet" in done.err
    assert "mmq up" in done.err
