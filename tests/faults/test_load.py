"""Load: ten thousand submits at once, 64 attempts at once, a day of queue in compressed time; and nothing leaks."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from scheduler.config import Settings
from scheduler.store import audit, heartbeats
from scheduler.store.opening import open_database
from tests.acceptance.workplace import Workplace
from tests.faults.place import FaultPlace, fault_place
from tests.faults.usage import Growth, Held, growth, held, lasting_growth
from tests.processes import kill, until
from tests.running.stage import Stage
from worker.event_listener import EventListener
from worker.reporting import Reporter
from worker.tail import Tail

SUBMITTERS = 8
JOBS = int(os.environ.get("LOAD_JOBS", "10000"))  # submitted at once
AT_ONCE = 64
DAY = int(os.environ.get("LOAD_DAY", "100"))  # jobs of the compressed day
DAY_AT_ONCE = 6
EVENTS_BYTES = 200_000  # of a thousand steps, as the trainer writes them: what a shim that kept them would hold
MOST_GROWTH_BYTES = 20_000  # of a process's memory, by a job or by a thousand steps


def say(**figures: float) -> None:
    """Show what was measured, for whoever runs with -s."""
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}), file=sys.stderr)


def broken(place: Workplace) -> list[str]:
    with closing(open_database(place.settings, lean=True)) as database:
        return audit.violations(database)


def service_on(devices: int) -> Any:
    """A fixture: a home of its own, whose service is up on so many devices."""

    @pytest.fixture
    def up() -> Iterator[FaultPlace]:
        with fault_place(f"virtual:{devices}x256MiB") as faulty:
            faulty.place.up()
            yield faulty

    return up


one_device, day_place, many_devices = service_on(1), service_on(DAY_AT_ONCE), service_on(AT_ONCE)


@pytest.mark.timeout(1800)
def test_ten_thousand_submits_by_eight_processes_at_once_lose_and_double_none(one_device: FaultPlace) -> None:
    place = one_device.place
    one_device.job_file("blocker", steps=100_000, resources={"exclusive": True})
    blocker = place.submit("blocker.yaml")
    place.until_state(blocker, "running")
    began = time.monotonic()
    command = ("-m", "tests.faults.submitter", "job.yaml")
    submitters = [place.start(f"by-{n}", str(JOBS // SUBMITTERS), command=command) for n in range(SUBMITTERS)]
    outputs = [submitter.communicate(timeout=1500) for submitter in submitters]
    took = time.monotonic() - began
    assert [submitter.returncode for submitter in submitters] == [0] * SUBMITTERS, outputs[0][1][-2000:]
    accepted = [int(line) for out, _ in outputs for line in out.split()]
    assert len(accepted) == len(set(accepted)) == JOBS // SUBMITTERS * SUBMITTERS
    rows = place.query("SELECT id FROM jobs WHERE state = 'queued'")
    assert {row["id"] for row in rows} == set(accepted)

    # The controller has gone on, and says of each why it waits.
    until(lambda: place.query("SELECT COUNT(*) AS n FROM jobs WHERE waiting_code = 'new'")[0]["n"] == 0, "a cycle")
    cycle = next(one for one in heartbeats_of(place) if one.component.startswith("controller@"))
    status_began = time.monotonic()
    place.ok("status")
    status_took = time.monotonic() - status_began
    assert broken(place) == []
    seconds = json.loads(cycle.detail)["cycle_seconds"]
    say(jobs=JOBS, submit_s=took, per_s=JOBS / took, cycle_s=seconds, status_s=status_took)


def heartbeats_of(place: Workplace) -> list[heartbeats.Heartbeat]:
    with place.store() as database:
        return heartbeats.all(database)


@pytest.mark.timeout(600)
def test_64_attempts_at_once_outlive_the_service_and_end_well(many_devices: FaultPlace) -> None:
    place = many_devices.place
    gate = place.root / "gate"
    many_devices.job_file("long", steps=6, resources={"exclusive": True})
    (place.root / "long.json").write_text(json.dumps({"pause": 0.05, "until": str(gate)}))
    began = time.monotonic()
    submitter = place.start("long", str(AT_ONCE), command=("-m", "tests.faults.submitter", "long.yaml"))
    out, err = submitter.communicate(timeout=120)
    assert submitter.returncode == 0, err
    jobs = [int(line) for line in out.split()]
    many_devices.accepted = jobs

    def running() -> int:
        return int(place.query("SELECT COUNT(*) AS n FROM jobs WHERE state = 'running'")[0]["n"])

    until(lambda: running() == AT_ONCE, "all run at once", within_seconds=400)
    started = time.monotonic() - began
    for pid in {place.service(), *place.children().values()}:
        kill(pid)
    place.up()
    place.until_ready()
    gate.touch()
    assert place.until_ended(*jobs) == ["succeeded"] * AT_ONCE
    attempts = place.query("SELECT COUNT(*) AS n FROM attempts")[0]["n"]
    assert attempts == AT_ONCE  # each ran once, whatever became of the service
    assert many_devices.violations() == []
    say(attempts=AT_ONCE, all_running_s=started, all_ended_s=time.monotonic() - began)


def ended(place: Workplace) -> int:
    return int(place.query("SELECT COUNT(*) AS n FROM jobs WHERE ended_at IS NOT NULL")[0]["n"])


@pytest.mark.timeout(1800)
def test_a_day_of_queue_leaks_no_memory_no_file_no_socket_no_process(day_place: FaultPlace) -> None:
    place = day_place.place
    place.until_ready()
    day_place.job_file("short", steps=3, pause=0.1, resources={"exclusive": True})
    submitter = place.start("day", str(DAY), command=("-m", "tests.faults.submitter", "short.yaml"))
    pids = {"service": place.service(), **place.children()}
    began, work = time.monotonic(), []
    samples: dict[str, list[Held]] = {name: [] for name in pids}
    while (done := ended(place)) < DAY:
        assert time.monotonic() - began < 1500, f"{done} of {DAY} jobs have ended"
        if done >= DAY // 10:  # what is loaded once has been by then
            work.append(float(done))
            for name, pid in pids.items():
                samples[name].append(held(pid))
        time.sleep(0.2)
    submitter.communicate(timeout=10)
    took = time.monotonic() - began
    grown = {name: lasting_growth(work, found) for name, found in samples.items()}
    for name, found in grown.items():
        say(jobs=DAY, took_s=took, **{f"{name}_{what}_a_job": value for what, value in found._asdict().items()})
        assert_no_leak(name, found)
    until(lambda: place.children() | {"service": place.service()} == pids, "the same parts: none of them has ended")
    assert place.query("SELECT DISTINCT state FROM jobs") == [{"state": "succeeded"}]
    day_place.accepted = [row["id"] for row in place.query("SELECT id FROM jobs")]
    assert day_place.violations() == []
    until(lambda: not place.job_processes(), "no shim and no trainer is left")


@pytest.mark.timeout(600)
def test_a_shim_leaks_nothing_over_a_long_run(day_place: FaultPlace) -> None:
    place = day_place.place
    day_place.job_file("steady", steps=6000, pause=0.004)
    job = day_place.submit("steady.yaml")
    place.until_state(job, "running")
    shim, work, samples = place.shim(job), [], []
    while place.state(job) == "running":
        done = len(place.steps(job))
        if done >= 600:
            with suppress(LookupError, OSError):  # it has just ended
                samples.append(held(shim))
                work.append(done / 1000)
        time.sleep(0.3)
    assert place.until_ended(job) == ["succeeded"]
    found = lasting_growth(work, samples)
    say(**{f"shim_{what}_a_thousand_steps": value for what, value in found._asdict().items()})
    assert_no_leak("shim", found, most_bytes=EVENTS_BYTES)


def test_what_a_shim_does_all_day_needs_no_more_memory_after_12000_steps_more(tmp_path: Path) -> None:
    """Its reading, folding and reporting alone, in this process, so that no start is among it."""
    settings = Settings.from_environment({"MMQ_HOME": str(tmp_path / "home"), "MMQ_HOST": "here"})
    settings.create_home()
    open_database(settings, lean=True, create=True).close()
    with closing(Stage(settings)) as stage:
        attempt = stage.claimed({})
        reporter = Reporter(settings, attempt, pid=os.getpid())
        listener = EventListener(Tail(tmp_path / "events.jsonl", attempt.number), reporter)
        work, samples = [], []
        for beat in range(900):
            with (tmp_path / "events.jsonl").open("a") as file:
                for step in range(20 * beat, 20 * beat + 20):
                    numbers = {"step": step, "loss": 1 / (step + 1), "process_peak_bytes": 70 << 20, "micro_batch": 8}
                    event = {"at": time.time(), "attempt": 1, "event": "checkpoint" if step % 50 == 0 else "step"}
                    file.write(json.dumps(event | numbers) + "\n")
            listener.listen()
            assert reporter.beat(listener.summary.progress(), time.time()) is not None
            if beat >= 300:
                work.append(20 * beat / 1000)
                samples.append(held(os.getpid()))
        assert stage.attempt(attempt).step == 20 * 900 - 1
    found = lasting_growth(work, samples)
    say(**{f"reporting_{what}_a_thousand_steps": value for what, value in found._asdict().items()})
    assert_no_leak("reporting", found)


def assert_no_leak(name: str, found: Growth, *, most_bytes: int = MOST_GROWTH_BYTES) -> None:
    assert found.memory_bytes < most_bytes, (name, found)
    assert max(found.files, found.threads, found.children) < 0.02, (name, found)


@pytest.mark.parametrize(("a_job", "leaks"), [(0, False), (200, False), (50_000, True)])
def test_a_leak_would_be_told(a_job: int, leaks: bool) -> None:
    jobs = [float(n) for n in range(30)]
    samples = [Held(memory_bytes=10**8 + int(n) * a_job, files=9, threads=1, children=0) for n in jobs]
    samples[3] = Held(memory_bytes=10**9, files=99, threads=9, children=9)  # a moment's need is none
    found = growth(jobs, samples)
    assert found.memory_bytes == pytest.approx(a_job, rel=0.1)
    assert (found.memory_bytes >= MOST_GROWTH_BYTES) is leaks
    assert (found.files, found.threads, found.children) == (0, 0, 0)


@pytest.mark.parametrize(("a_job", "at_once", "leaks"), [(0, 10**7, False), (50_000, 0, True), (50_000, 10**7, True)])
def test_what_is_loaded_late_is_no_leak_and_hides_none(a_job: int, at_once: int, leaks: bool) -> None:
    jobs = [float(n) for n in range(30)]
    samples = [
        Held(10**8 + int(n) * a_job + at_once * (n >= 14), files=9 + int(n), threads=1, children=0) for n in jobs
    ]
    found = lasting_growth(jobs, samples)
    assert found.memory_bytes == pytest.approx(a_job, rel=0.1)
    assert (found.memory_bytes >= MOST_GROWTH_BYTES) is leaks
    assert found.files == 1
