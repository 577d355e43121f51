"""A trainer that the kernel really kills for host memory, in a control group of its own with a limit.

It is known by the group's count and by the kernel's log, it is no shortage of the device, the job goes on from its
checkpoint as it was, and its neighbour sees nothing.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.processes.liveness import process_started
from tests.acceptance.workplace import REPOSITORY
from tests.faults import curve
from tests.faults.memory_group import memory_group, take_in
from tests.faults.place import STANDIN, FaultPlace, fault_place
from tests.processes import gone, kill, until
from worker.oomkiller import KernelFiles, OomKiller, named_in_log

LIMIT_BYTES = 64 << 20
LOG = KernelFiles().log
STEPS = 120
SLOWLY = ("-o", "data.row_wait_seconds=0.01")  # of the real trainer's rows, so that its steps take as long as a beat
# Lies on the path of every process of the place; the trainer that `eat` names eats, and no more than it says.
EATER = """
import os, pathlib, sys, threading, time
order = pathlib.Path(__file__).with_name("eat")
def eat():
    while not order.exists() or order.read_text() != str(os.getpid()):
        time.sleep(0.05)
    eaten = []
    for _ in range(512):
        eaten.append(b"x" * (1 << 20))
        time.sleep(0.002)
if "trainer" in sys.orig_argv:
    threading.Thread(target=eat, daemon=True).start()
"""


class Greedy:
    """A place whose trainers eat host memory when told to."""

    def __init__(self, faulty: FaultPlace, plant: Path) -> None:
        self.faulty, self.place, self.plant = faulty, faulty.place, plant

    def eat(self, pid: int) -> None:
        """Have a trainer eat, and see it killed."""
        aside = self.plant / "new"
        aside.write_text(str(pid))
        aside.rename(self.plant / "eat")
        until(lambda: gone(pid), f"the end of trainer {pid}")

    def beats(self, job: int, number: int) -> None:
        """Let the shim look so often."""
        for _ in range(number):
            before = self._heartbeat(job)
            until(lambda before=before: self._heartbeat(job) != before, "a heartbeat")

    def _heartbeat(self, job: int) -> float:
        rows = self.place.query("SELECT heartbeat_at FROM attempts WHERE job_id = :job ORDER BY number DESC", job=job)
        return float(rows[0]["heartbeat_at"] or 0)


@pytest.fixture(scope="module")
def lasting_greedy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Greedy]:
    plant = tmp_path_factory.mktemp("plant")
    (plant / "sitecustomize.py").write_text(EATER)
    scripted = request.param == "a stand-in"
    source = f"{plant}:{STANDIN}:{REPOSITORY}" if scripted else f"{plant}:{REPOSITORY}"
    with fault_place(scripted=scripted, PYTHONPATH=source) as faulty:
        yield Greedy(faulty, plant)


@pytest.fixture
def greedy(lasting_greedy: Greedy) -> Iterator[Greedy]:
    lasting_greedy.place.up()
    yield lasting_greedy
    lasting_greedy.place.up()
    lasting_greedy.place.end_jobs()
    assert lasting_greedy.faulty.violations() == []


@pytest.fixture
def group() -> Iterator[Path]:
    with memory_group(LIMIT_BYTES) as group:
        yield group


@pytest.mark.parametrize(
    ("lasting_greedy", "watched"),
    [
        ("a stand-in", "by its shim"),
        ("a stand-in", "by an adopting shim"),
        ("a stand-in", "by nobody"),
        ("the real trainer", "by its shim"),
    ],
    indirect=["lasting_greedy"],
)
def test_a_trainer_that_the_kernel_kills_for_host_memory_is_known_and_goes_on(
    greedy: Greedy, group: Path, watched: str
) -> None:
    place = greedy.place
    expected = curve.undisturbed(STEPS) if greedy.faulty.scripted else place.undisturbed
    if greedy.faulty.scripted:
        greedy.faulty.job_file("tiny", steps=STEPS, lingers=True)
    neighbour = greedy.faulty.submit("tiny.yaml", "-o", "train.max_steps=100000", *SLOWLY)
    beside = place.until_steps(neighbour, more=1)
    job = greedy.faulty.submit("tiny.yaml", "-o", "train.save_interval=10", *SLOWLY)
    until(lambda: place.events(job, "checkpoint"), "a checkpoint")
    trainer = place.trainer(job)
    take_in(group, trainer)
    started = process_started(trainer)
    assert started is not None
    by_count = OomKiller(trainer, started, KernelFiles(log=group / "no log"))
    if watched == "by an adopting shim":
        shim = place.shim(job)
        kill(shim)
        until(lambda: place.known_shim(job) != shim, "another shim")
    if watched == "by nobody":
        place.ok("down")
        kill(place.shim(job))
    else:
        greedy.beats(job, 2)
    greedy.eat(trainer)
    greedy.faulty.hurry()

    told = by_count.evidence()
    assert told is not None
    assert told.startswith(str(group)), told
    held_bytes = named_in_log(LOG, trainer, started)
    assert held_bytes is None or held_bytes > LIMIT_BYTES // 2
    place.up()
    assert place.until_ended(job) == ["succeeded"], place.story(job)
    story = place.story(job)
    first, last = story["attempts"]
    if held_bytes is None and watched == "by nobody":
        assert first["reason"] == "lost"  # for nobody can know
    else:
        assert first["reason"] == "host_out_of_memory"
        assert "killed by the kernel, which ran out of host memory" in first["message"]
        assert (told if held_bytes is None else f"its log names process {trainer}, which held") in first["message"]
    assert first["exit_signal"] == (9 if watched == "by its shim" else None)
    assert last["reason"] == "done"
    assert (last["micro_batch"], last["plan"]) == (first["micro_batch"], first["plan"])
    assert "out_of_memory" not in {event["kind"] for event in story["events"]}
    retries = place.query("SELECT crash_retries, out_of_memory_retries FROM jobs WHERE id = :job", job=job)
    assert retries == [{"crash_retries": 1, "out_of_memory_retries": 0}]
    assert place.events(job, "started")[-1]["step"] >= 10
    assert place.losses(job) == expected

    place.until_steps(neighbour, more=1)
    assert (place.state(neighbour), place.trainer(neighbour)) == ("running", beside)
    steps = place.steps(neighbour)
    assert steps == list(range(1, len(steps) + 1))
    assert place.events(neighbour, "out_of_memory") == []
