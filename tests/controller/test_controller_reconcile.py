"""What the reconcile pass does about lost messages, dead shims and reboots."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scheduler.controller.dispatch import AGAIN_SECONDS, Dispatch
from scheduler.controller.reconcile import CLAIM_GRACE_SECONDS, Remedy, remedy
from scheduler.processes.liveness import boot_id, process_started
from scheduler.store import attempts
from scheduler.store.records import Attempt
from tests.controller.bench import Bench, WritesDown


@pytest.fixture
def admitted(bench: Bench) -> Attempt:
    job_id = bench.submit()
    bench.cycles()
    bench.publisher.started.clear()
    return attempts.of_job(bench.db, job_id)[0]


def claimed(bench: Bench, attempt: Attempt, *, at: float | None = None) -> Attempt:
    won = attempts.claim(bench.db, attempt.id, at=time.time() if at is None else at)
    assert won is not None
    return won


def with_shim(bench: Bench, attempt: Attempt, pid: int, ticks: int, boot: str) -> Attempt:
    claimed(bench, attempt)
    attempts.shim_alive(bench.db, attempt.id, shim_pid=pid, shim_started=ticks, boot_id=boot, at=1.0)
    return attempts.get(bench.db, attempt.id)


def test_the_figures_are_written_where_they_are_wanted(bench: Bench, tmp_path: Path) -> None:
    bench.settings = dataclasses.replace(bench.settings, metrics_file=tmp_path / "mmq.prom")
    controller = bench.new_controller()
    controller.cycle()
    controller.cycle()
    controller.reconcile()
    text = (tmp_path / "mmq.prom").read_text()
    assert 'mmq_cycles_total{component="controller@here"} 1\n' in text  # the second is told of by the third
    assert 'mmq_device_total_bytes{device="virtual:0"' in text


def test_figures_that_can_t_be_written_are_said_once(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "nowhere"
    bench.settings = dataclasses.replace(bench.settings, metrics_file=folder / "mmq.prom")
    controller = bench.new_controller()
    for _ in range(2):
        controller.reconcile()
    told = f"the metrics can't be written: {folder / 'mmq.prom'}: No such file or directory"
    assert caplog.messages.count(told) == 1
    folder.mkdir()
    controller.reconcile()
    (folder / "mmq.prom").unlink()
    folder.rmdir()
    controller.reconcile()
    assert caplog.messages.count(told) == 2


def my_ticks() -> int:
    return process_started(os.getpid()) or 0


def test_a_restarted_controller_publishes_what_no_worker_has_claimed(bench: Bench, admitted: Attempt) -> None:
    bench.controller.reconcile()
    assert bench.publisher.started == []  # told a moment ago
    bench.new_controller().reconcile()
    assert bench.publisher.started == [admitted.id]


def test_a_message_that_was_lost_is_sent_again_in_time(bench: Bench, admitted: Attempt) -> None:
    now = [100.0]
    publisher = WritesDown()
    dispatch = Dispatch(bench.db, publisher, monotonic=lambda: now[0])
    for seconds in (0.0, 1.0, AGAIN_SECONDS - 1, AGAIN_SECONDS):
        now[0] = 100.0 + seconds
        dispatch.start(admitted)
    assert publisher.started == [admitted.id] * 2


def test_a_living_shim_is_left_alone(bench: Bench, admitted: Attempt) -> None:
    attempt = with_shim(bench, admitted, os.getpid(), my_ticks(), boot_id())
    assert remedy(attempt, now=time.time()) is Remedy.NONE


def test_a_young_claim_is_left_alone_and_an_old_one_adopted(bench: Bench, admitted: Attempt) -> None:
    attempt = claimed(bench, admitted, at=1000.0)
    assert remedy(attempt, now=1000.0 + CLAIM_GRACE_SECONDS - 1) is Remedy.NONE
    assert remedy(attempt, now=1000.0 + CLAIM_GRACE_SECONDS) is Remedy.ADOPT
    assert remedy(attempt, now=900.0) is Remedy.ADOPT  # the clock was set back


@pytest.mark.parametrize("case", ["dead", "reused pid", "rebooted"])
def test_what_nobody_looks_after_is_adopted(bench: Bench, admitted: Attempt, case: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    ticks = process_started(child.pid) or 1
    child.wait(timeout=10)
    shim = {
        "dead": (child.pid, ticks, boot_id()),
        "reused pid": (os.getpid(), my_ticks() + 1, boot_id()),
        "rebooted": (os.getpid(), my_ticks(), "another boot"),
    }[case]
    with_shim(bench, admitted, *shim)
    bench.controller.reconcile()
    bench.controller.reconcile()
    assert bench.publisher.adopted == [admitted.id]


def test_attempts_of_another_host_are_not_ours_to_repair(bench: Bench, admitted: Attempt) -> None:
    with bench.db.transaction() as tx:
        tx.execute("UPDATE attempts SET host = 'elsewhere'")
    bench.new_controller().reconcile()
    assert bench.publisher.started == []
