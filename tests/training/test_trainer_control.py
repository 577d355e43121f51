"""The control file: another micro-batch on the way, which no loss shows, and memory that is really given back."""

import itertools
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.test_trainer_processes import Processes
from trainer.control import NAME
from trainer.errors import ExitCode
from trainer.memory.choice import open_device
from trainer.memory.cpu import CpuDevice
from trainer.memory.virtual import VirtualDevice
from trainer.reporting.pace import Pace
from trainer.stopping import StopRequest

runs = itertools.count()
MIB = 1024**2


class Asking(StopRequest):
    """Looked at once after each step but the last: writes what is to be asked after that step."""

    def __init__(self, run_dir: Path, after: dict[int, object], *, look=lambda step: None) -> None:
        super().__init__()
        self._path = run_dir / NAME
        self._after = after
        self._look = look
        self._step = 0

    def __bool__(self) -> bool:
        self._step += 1
        self._look(self._step)
        if self._step in self._after:
            ask(self._path, self._after[self._step])
        return False


def ask(path: Path, what: object) -> None:
    path.parent.mkdir(exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(what if isinstance(what, str) else json.dumps(what))
    new.replace(path)


@pytest.fixture(scope="module")
def expected(shared_workshop):
    return shared_workshop.train("whole", shared_workshop.config()).losses()


@settings(max_examples=10, deadline=None)
@given(
    asked=st.dictionaries(st.integers(1, 7), st.integers(1, 12), min_size=1, max_size=5),
    first=st.integers(1, 8),
)
def test_resizes_at_any_steps_give_the_same_curve(shared_workshop, expected, asked, first) -> None:
    name = f"run-{next(runs)}"
    after = {step: {"number": step, "micro_batch": size} for step, size in asked.items()}
    config = shared_workshop.config(plan={"micro_batch": first})
    stop = Asking(shared_workshop.root / name, after)
    outcome = shared_workshop.train(name, config, stop=stop)
    assert outcome.losses() == pytest.approx(expected, rel=1e-6)
    told = [(event["number"], event["step"], event["micro_batch"]) for event in outcome.events("resized")]
    assert told == [(step, step + 1, min(size, 8)) for step, size in sorted(asked.items())]
    for step, event in zip(range(1, 9), outcome.events("step"), strict=True):
        asked_before = [size for at, size in sorted(asked.items()) if at < step]
        assert event["micro_batch"] == min(8, ([first, *asked_before])[-1])
        assert event["accumulation_steps"] == -(-8 // event["micro_batch"])


LARGE = {"model": {"hidden_size": 64, "intermediate_size": 1024}, "train": {"max_steps": 6, "batch_size": 32}}


def virtual(workshop, name: str, *, limit_bytes: int | None = None) -> VirtualDevice:
    ledger = str(workshop.root / f"ledger-{name}")
    told = {"kind": "virtual", "ledger": ledger, "total_bytes": 4096 * MIB, "context_bytes": 8 * MIB}
    device = open_device(told | {"limit_bytes": limit_bytes})
    assert isinstance(device, VirtualDevice)
    return device


def held_bytes(workshop, name: str) -> int:
    (entry,) = (workshop.root / f"ledger-{name}").glob(f"{os.getpid()}-*")
    return int(entry.read_text())


def test_what_a_shrink_gives_back_is_there_for_others(workshop) -> None:
    """The device then shows what a run shows that had the small micro-batch from the beginning."""
    small, large = (virtual(workshop, name) for name in ("small", "large"))
    for size, device in ((2, small), (32, large)):
        workshop.train(f"at-{size}", workshop.config(**LARGE, plan={"micro_batch": size}), device)
    footprint = small.peaks().process_bytes
    assert large.peaks().process_bytes > footprint + 32 * MIB

    held: dict[int, int] = {}
    stop = Asking(
        workshop.root / "shrunk",
        {3: {"number": 1, "micro_batch": 2, "limit_bytes": footprint + 2 * MIB}},
        look=lambda step: held.update({step: held_bytes(workshop, "shrunk")}),
    )
    device = virtual(workshop, "shrunk", limit_bytes=large.peaks().process_bytes)
    outcome = workshop.train("shrunk", workshop.config(**LARGE, plan={"micro_batch": 32}), device, stop)
    assert held[3] >= large.peaks().process_bytes - 2 * MIB
    assert max(held[4], held[5]) <= footprint + 2 * MIB
    assert outcome.events("out_of_memory") == []
    (resized,) = outcome.events("resized")
    assert resized["limit_bytes"] == footprint + 2 * MIB
    # Peaks begin anew, so that what is told is what the new micro-batch needs.
    assert outcome.events("finished")[0]["process_peak_bytes"] <= footprint + 2 * MIB
    assert outcome.losses() == pytest.approx(workshop.outcome("at-2").losses(), rel=1e-6)


def test_a_growth_beyond_the_old_limit_raises_it_first(workshop) -> None:
    small, large = (virtual(workshop, name) for name in ("small", "large"))
    for size, device in ((2, small), (32, large)):
        workshop.train(f"at-{size}", workshop.config(**LARGE, plan={"micro_batch": size}), device)
    wanted = large.peaks().process_bytes
    stop = Asking(workshop.root / "grown", {2: {"number": 4, "micro_batch": 32, "limit_bytes": wanted + 2 * MIB}})
    device = virtual(workshop, "grown", limit_bytes=small.peaks().process_bytes + MIB)
    outcome = workshop.train("grown", workshop.config(**LARGE, plan={"micro_batch": 2}), device, stop)
    assert outcome.events("out_of_memory") == []
    assert outcome.events("step")[-1]["micro_batch"] == 32
    assert device.limit_bytes == wanted + 2 * MIB


def test_a_resize_that_does_not_fit_is_halved_until_it_does(workshop) -> None:
    peaks = {}
    for size in (1, 2, 8):
        device = CpuDevice(None)
        workshop.train(f"at-{size}", workshop.config(plan={"micro_batch": size}), device)
        peaks[size] = device.peaks().process_bytes
    assert peaks[1] < peaks[2] < peaks[8]
    asked = {2: {"number": 1, "micro_batch": 8, "limit_bytes": (peaks[2] + peaks[8]) // 2}}
    outcome = workshop.train(
        "optimist",
        workshop.config(plan={"micro_batch": 1}),
        CpuDevice(peaks[1]),
        Asking(workshop.root / "optimist", asked),
    )
    assert outcome.events("resized")[0]["micro_batch"] == 8
    assert outcome.events("out_of_memory")[0]["step"] == 3
    assert outcome.events("step")[-1]["micro_batch"] < 8
    assert outcome.losses() == pytest.approx(workshop.outcome("at-1").losses(), rel=1e-6)


@pytest.mark.parametrize(
    "request_text",
    [
        "{",
        "[]",
        '{"number": 1}',
        '{"number": 1, "micro_batch": 0}',
        '{"number": 1, "micro_batch": 2, "limit": 5}',
        '{"number": 0, "micro_batch": 2}',
        '{"number": 1, "micro_batch": "2"}',
    ],
)
def test_what_is_no_request_is_told_once_and_changes_nothing(workshop, request_text) -> None:
    stop = Asking(workshop.root / "run", {1: request_text, 4: {"number": 9, "micro_batch": 2}})
    outcome = workshop.train("run", workshop.config(), stop=stop)
    assert len(outcome.events("control_refused")) == 1
    assert [event["micro_batch"] for event in outcome.events("step")] == [8] * 4 + [2] * 4


def test_a_number_counts_once_and_holds_for_the_next_process(workshop) -> None:
    same = {"number": 7, "micro_batch": 2}
    stop = Asking(workshop.root / "run", {1: same, 3: same | {"micro_batch": 4}})
    outcome = workshop.train("run", workshop.config(), stop=stop)
    assert [event["micro_batch"] for event in outcome.events("resized")] == [2]
    again = workshop.root / "again"
    again.mkdir()
    ask(again / NAME, same)
    outcome = workshop.train("again", workshop.config())
    assert {event["micro_batch"] for event in outcome.events("step")} == {2}


def test_evaluation_takes_as_many_rows_as_training_does(workshop, monkeypatch) -> None:
    from trainer import evaluation

    sizes = []
    true_loss = evaluation.evaluation_loss

    def watch(model, batch, *, chunked_loss):
        sizes.append(len(batch.ids))
        return true_loss(model, batch, chunked_loss=chunked_loss)

    monkeypatch.setattr(evaluation, "evaluation_loss", watch)
    config = workshop.config(data={"validation": 0.2})
    stop = Asking(workshop.root / "run", {4: {"number": 1, "micro_batch": 2}})
    workshop.train("run", config, stop=stop)
    assert (sizes[0], sizes[-1]) == (8, 2)


def test_the_share_of_time_in_which_the_device_computes(workshop) -> None:
    now = 0.0
    pace = Pace(clock=lambda: now)
    with pace.fetching():
        now += 1.0
    now += 2.0
    pace.step_done(100)
    with pace.aside("save"):
        now += 1.0
    assert pace.report().busy_share == pytest.approx(0.5)
    now += 3.0
    assert pace.report().busy_share == 1.0  # of each report its own time
    steps = workshop.train("run", workshop.config()).events("step")
    assert all(0 < step["busy_share"] < 1 for step in steps)  # rows are fetched and batches made, in no time


def test_all_processes_of_a_run_take_it_at_the_same_step(workshop) -> None:
    run = workshop.root / "run"
    ask(run / NAME, {"number": 3, "micro_batch": 1})
    expected = workshop.train("alone", workshop.config()).losses()
    processes = Processes(run, workshop.config())
    ended = processes.wait()
    assert [code for code, _ in ended] == [ExitCode.DONE] * 2, ended
    (resized,) = processes.events("resized")
    assert (resized["micro_batch"], resized["accumulation_steps"], resized["step"]) == (1, 4, 1)
    assert processes.losses() == pytest.approx(expected, rel=1e-6)
