"""The loop: rings and timers, signals, one controller a home. In processes of its own where that is the point."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.broker.doorbell import Doorbell, ring
from scheduler.controller.loop import Stop, run
from scheduler.controller.service import Controller
from scheduler.store import attempts, heartbeats, jobs
from scheduler.store.opening import open_database
from tests.controller.bench import MIB, Bench, settings_at
from tests.processes import PATIENCE_SECONDS, until


class Counts:
    """A controller that counts, and works if it has a real one."""

    def __init__(self, real: Controller | None = None, *, busy: bool = False) -> None:
        self.cycled = self.reconciled = 0
        self.real = real
        self.busy = busy

    def cycle(self) -> bool:
        if self.real is not None:
            self.real.cycle()
        self.cycled += 1
        return self.busy

    def reconcile(self) -> None:
        self.reconciled += 1


@pytest.fixture
def timeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No timer goes off within a test: what comes, comes by event."""
    for name in ("IDLE_SECONDS", "RECONCILE_SECONDS"):
        monkeypatch.setattr(f"scheduler.controller.loop.{name}", 1000.0)


@contextlib.contextmanager
def running(controller: Counts, bell: Doorbell) -> Iterator[None]:
    stop = Stop()
    thread = threading.Thread(target=run, args=(controller, bell, stop))
    thread.start()
    try:
        yield
    finally:
        stop.request()
        thread.join(timeout=PATIENCE_SECONDS)
    assert not thread.is_alive()
    stop.close()


def test_works_at_once_and_then_by_event(tmp_path: Path, timeless: None) -> None:
    settings, controller = settings_at(tmp_path), Counts()
    with Doorbell.listen(settings) as bell, running(controller, bell):
        until(lambda: controller.cycled == 1, "first cycle")
        assert controller.reconciled == 1
        assert ring(settings)
        until(lambda: controller.cycled == 2, "cycle after a ring")


def test_many_rings_are_few_cycles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.controller.loop.GAP_SECONDS", 0.2)
    settings, controller = settings_at(tmp_path), Counts()
    with Doorbell.listen(settings) as bell, running(controller, bell):
        begun = time.monotonic()
        for _ in range(200):
            ring(settings)
        until(lambda: controller.cycled >= 2, "cycle after the rings")
        cycled = controller.cycled
        assert cycled <= 2 + (time.monotonic() - begun) / 0.2


def test_a_busy_controller_comes_back_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.controller.loop.BUSY_SECONDS", 0.05)
    monkeypatch.setattr("scheduler.controller.loop.RECONCILE_SECONDS", 0.1)
    controller = Counts(busy=True)
    with Doorbell.listen(settings_at(tmp_path)) as bell, running(controller, bell):
        until(lambda: controller.cycled > 4 and controller.reconciled > 1, "cycles by the timer")


def start(home: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scheduler.controller"],
        env={**os.environ, "MMQ_HOME": str(home), "MMQ_DEVICES": "virtual:1x1GiB", "MMQ_HOST": "here"} | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def beats(home: Path) -> list[heartbeats.Heartbeat]:
    if not (home / "mmq.db").exists():
        return []
    try:
        with contextlib.closing(open_database(settings_at(home), lean=True)) as db:
            return heartbeats.all(db)
    except Exception:  # the schema is being made
        return []


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    child = start(tmp_path)
    until(lambda: beats(tmp_path), "heartbeat")
    yield child
    if child.poll() is None:
        child.kill()
    child.communicate(timeout=PATIENCE_SECONDS)


def test_one_controller_a_home_and_a_clean_end(tmp_path: Path, process: subprocess.Popen[str]) -> None:
    second = start(tmp_path)
    _, said = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 1
    assert f"a controller is already running for {tmp_path}: pid {process.pid}" in said
    assert "Traceback" not in said

    other_home = tmp_path / "other"
    third = start(other_home, MMQ_DATABASE_URL=f"sqlite:///{tmp_path / 'mmq.db'}")
    _, said = third.communicate(timeout=PATIENCE_SECONDS)
    assert third.returncode == 1
    assert f"pid {process.pid}" in said

    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    assert "ended" in said
    assert "Traceback" not in said


def test_a_controller_killed_hard_leaves_nothing_in_the_way(tmp_path: Path, process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=PATIENCE_SECONDS)
    again = start(tmp_path)
    try:
        until(lambda: any(beat.pid == again.pid for beat in beats(tmp_path)), "heartbeat of the new one")
    finally:
        again.terminate()
        again.communicate(timeout=PATIENCE_SECONDS)
    assert again.returncode == 0


def test_neither_torch_nor_the_trainer_is_loaded() -> None:
    code = (
        "import sys, json, scheduler.controller.__main__, scheduler.controller.estimate;"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert not {"torch", "trainer", "numpy"} & set(json.loads(out))


def test_a_submit_with_a_known_footprint_is_admitted_by_its_ring(bench: Bench, timeless: None) -> None:
    bench.submit()
    bench.cycles()
    controller = Counts(bench.controller)
    with Doorbell.listen(bench.settings) as bell, running(controller, bell):
        until(lambda: controller.cycled == 1, "its first look")
        job_id = bench.submit()
        ring(bench.settings)
        until(lambda: jobs.get(bench.db, job_id).attempt_id is not None, "admission")
    assert attempts.of_job(bench.db, job_id)[0].reserved_bytes == 180 * MIB
