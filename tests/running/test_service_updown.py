"""`up` and `down` as a person runs them: real children, killed in every order, and jobs that don't notice."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler.broker.reach import reachable
from scheduler.jobs.states import AttemptState, EndReason, JobState
from scheduler.processes.interpreter import python_command
from scheduler.processes.liveness import process_started
from scheduler.service.lock import holder
from scheduler.store import attempts
from tests.processes import PATIENCE_SECONDS, children_of, gone, kill, modes, network_sockets, until
from tests.running.stage import Stage

CODE = """
import sys
from scheduler.config import Settings
from scheduler.service.{verb} import {verb}
sys.exit({verb}(Settings.from_environment(), {arguments}))
"""
Service = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def service(stage: Stage) -> Iterator[Service]:
    """Run `up` or `down` to its end."""

    def run(verb: str, arguments: str) -> "subprocess.CompletedProcess[str]":
        code = CODE.format(verb=verb, arguments=arguments)
        return subprocess.run(
            [sys.executable, "-c", code],
            env=stage.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    yield run
    if (found := holder(stage.settings.service_lock)) is not None:
        everybody = (found.pid, *children_of(found.pid).values())
        kill(found.pid)
        until(lambda: all(map(gone, everybody)))


def up(service: Service) -> "subprocess.CompletedProcess[str]":
    return service("up", "'virtual:1x4GiB', True")


def pid_of(stage: Stage) -> int:
    found = holder(stage.settings.service_lock)
    assert found is not None
    return found.pid


def test_up_twice_down_twice(stage: Stage, service: Service) -> None:
    first = up(service)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("\n") == 1
    assert "mmq is up (pid" in first.stdout
    pid = pid_of(stage)
    children = children_of(pid)
    assert sorted(children) == ["broker", "controller", "worker"]
    for second in (up(service), service("up", "None, False")):
        assert second.returncode == 0
        assert f"is already running for {stage.settings.home}: pid {pid}" in second.stdout
    home = stage.settings.home
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    found = modes(home)
    assert [stat.S_IMODE(mode) for mode in found.values() if stat.S_ISSOCK(mode)] == [0o600, 0o600]
    assert [path for path, mode in found.items() if mode & 0o077] == []
    assert network_sockets(pid, *children.values()) == set()
    assert sum(resident_kib(child) for child in (pid, *children.values())) < 250 * 1024

    down = service("down", "False")
    assert (down.returncode, down.stdout) == (0, f"mmq is down (it was pid {pid})\n")
    assert not [child for child in children.values() if process_started(child) is not None]
    again = service("down", "False")
    assert again.returncode == 0
    assert "is not running" in again.stdout


def test_children_are_started_again(stage: Stage, service: Service) -> None:
    up(service)
    pid = pid_of(stage)
    before = children_of(pid)
    for child in before.values():
        os.kill(child, signal.SIGKILL)
    until(lambda: (now := children_of(pid)).keys() == before.keys() and not {*now.values()} & {*before.values()})
    until(lambda: reachable(stage.settings))
    until(lambda: (found := holder(stage.settings.service_lock)) is not None and found.ready)


def test_a_socket_that_was_removed_is_made_again(stage: Stage, service: Service) -> None:
    up(service)
    for path in (stage.settings.broker_socket, stage.settings.doorbell_socket):
        path.unlink()
        until(path.exists)
    until(lambda: reachable(stage.settings))


def test_other_devices_are_refused_while_the_service_runs(stage: Stage, service: Service) -> None:
    up(service)
    other = service("up", "'virtual:1x3GiB', True")
    assert other.returncode == 1
    assert "it runs on devices" in other.stderr


def test_a_killed_service_takes_its_children_and_not_its_jobs(stage: Stage, service: Service) -> None:
    up(service)
    attempt = stage.running({"steps": 12, "lingers": True})
    pid = pid_of(stage)
    children = children_of(pid)
    os.kill(pid, signal.SIGKILL)
    again = up(service)
    assert again.returncode == 0, again.stderr
    assert not {*children.values()} & {*children_of(pid_of(stage)).values()}
    assert not [child for child in children.values() if process_started(child) is not None]
    now = stage.attempt(attempt)
    assert (now.pid, now.shim_pid) == (attempt.pid, attempt.shim_pid)
    stage.let_go(attempt)
    assert stage.end(attempt) == (EndReason.DONE, JobState.SUCCEEDED)


def test_down_leaves_jobs_and_up_adopts_what_was_orphaned(stage: Stage, service: Service) -> None:
    up(service)
    attempt = stage.running({"steps": 400, "pause": 0.5})  # longer than a busy machine takes to come back up
    assert service("down", "False").returncode == 0
    assert process_started(attempt.pid or 0) == attempt.pid_started
    kill(attempt.shim_pid)
    up(service)
    until(lambda: stage.attempt(attempt).shim_pid != attempt.shim_pid)
    assert stage.attempt(attempt).pid == attempt.pid
    attempts.request_stop(stage.db, attempt.id, at=time.time())
    until(lambda: stage.attempt(attempt).state is AttemptState.ENDED)
    assert stage.attempt(attempt).reason is EndReason.STOPPED


def test_down_with_its_jobs_ends_one_whose_shim_was_killed(stage: Stage, service: Service) -> None:
    up(service)
    attempt = stage.running({"steps": 100, "pause": 0.5})
    assert service("down", "False").returncode == 0
    kill(attempt.shim_pid)
    down = service("down", "True")
    assert down.returncode == 0, down.stderr
    assert f"job {attempt.job_id} (attempt 1) is saving" in down.stderr
    assert process_started(attempt.pid or 0) is None
    assert stage.attempt(attempt).reason is EndReason.STOPPED


def test_down_with_its_jobs_lets_them_save(stage: Stage, service: Service) -> None:
    up(service)
    attempt = stage.running({"steps": 100, "pause": 0.5})
    down = service("down", "True")
    assert down.returncode == 0, down.stderr
    assert f"job {attempt.job_id} (attempt 1) is saving" in down.stderr
    assert stage.end(attempt) == (EndReason.STOPPED, JobState.QUEUED)
    assert "checkpoint" in stage.kinds(attempt)


def test_a_broker_with_torn_files_does_not_keep_the_service_down(stage: Stage, service: Service) -> None:
    up(service)
    service("down", "False")
    for file in (stage.settings.broker_dir / "appendonlydir").iterdir():
        file.write_bytes(b"no append-only file\r\n" * 10)
    again = up(service)
    assert again.returncode == 0, again.stderr
    assert (stage.settings.broker_dir / "appendonlydir.torn").is_dir()


def test_a_misspelt_broker_is_refused_at_once(stage: Stage) -> None:
    code = CODE.format(verb="up", arguments="'virtual:1x4GiB', True")
    environment = stage.environment | {"MMQ_BROKER_URL": "http://somewhere"}
    refused = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert "MMQ_BROKER_URL is not the address" in refused.stderr
    assert holder(stage.settings.service_lock) is None


def test_a_misspelt_choice_of_devices_is_refused_at_once(service: Service) -> None:
    refused = service("up", "'virtal:2x1GiB', True")
    assert refused.returncode != 0
    assert "names no devices" in refused.stderr


def test_a_part_of_the_service_that_stops_its_jobs_as_in_a_container(stage: Stage) -> None:
    command = python_command("scheduler.service", "--only", "worker", "--stop-jobs")
    environment = stage.environment | {"MMQ_BROKER_URL": f"redis+socket://{stage.settings.home}/no-broker.sock"}
    part = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    lock = stage.settings.home / "service-worker.lock"
    until(lambda: holder(lock) is not None)
    attempt = stage.running({"steps": 100, "pause": 0.5})
    part.terminate()
    assert part.wait(PATIENCE_SECONDS) == 0
    assert part.stderr is not None
    part.stderr.close()
    assert stage.end(attempt) == (EndReason.STOPPED, JobState.QUEUED)


def resident_kib(pid: int) -> int:
    table = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in table.splitlines() if line.startswith("Rss:"))
