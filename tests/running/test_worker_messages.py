"""Real workers on a real broker: whatever a message says, and how often, each attempt starts once."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from scheduler.broker import valkey
from scheduler.broker.app import make_app, queue_name
from scheduler.broker.publish import publish_adopt, publish_start
from scheduler.broker.reach import reachable
from scheduler.jobs.states import AttemptState, EndReason, JobState
from scheduler.processes.interpreter import python_command
from scheduler.store import heartbeats, jobs
from tests.processes import PATIENCE_SECONDS
from tests.running.stage import Stage, kill, until
from worker.consumer_watch import ConsumerWatch

Workers = Callable[[int], list["subprocess.Popen[bytes]"]]


@pytest.fixture
def broker(stage: Stage) -> Iterator["subprocess.Popen[bytes]"]:
    server = subprocess.Popen(valkey.server_command(stage.settings), stdout=subprocess.DEVNULL)
    until(lambda: reachable(stage.settings))
    yield server
    server.kill()
    server.wait()


@pytest.fixture
def workers(stage: Stage, broker: "subprocess.Popen[bytes]") -> Iterator[Workers]:
    started: list[subprocess.Popen[bytes]] = []

    def start(count: int) -> list["subprocess.Popen[bytes]"]:
        new = []
        for _ in range(count):
            with log(stage).open("ab") as diary:
                command = python_command("worker")
                new.append(subprocess.Popen(command, env=stage.environment, stdout=diary, stderr=diary))
        started.extend(new)
        ready = len(started)
        until(lambda: log(stage).read_text().count(" ready.") >= ready)
        return new

    log(stage).touch()
    yield start
    for worker in started:
        worker.kill()
        worker.wait()


def log(stage: Stage) -> Path:
    return stage.settings.home / "worker.log"


def push(stage: Stage, message: bytes) -> None:
    with redis.Redis(unix_socket_path=str(stage.settings.broker_socket)) as client:
        client.lpush(f"mmq:{queue_name(stage.settings.host)}", message)


def test_a_message_twenty_times_at_once_to_four_workers(stage: Stage, workers: Workers) -> None:
    attempt = stage.admitted({"steps": 3, "pause": 0.2})
    for _ in range(20):
        publish_start(stage.settings, attempt.job_id, attempt.id)
    workers(4)
    assert stage.end(attempt) == (EndReason.DONE, JobState.SUCCEEDED)
    assert stage.run(attempt).events.read_text().count('"started"') == 1
    assert stage.run(attempt).shim_log.read_text().count("trainer ") == 2  # started, ended
    assert stage.kinds(attempt).count("claimed") == 1


def test_messages_that_make_no_sense_do_no_harm(stage: Stage, workers: Workers) -> None:
    (worker,) = workers(1)
    done = stage.admitted({})
    publish_start(stage.settings, done.job_id, done.id)
    assert stage.end(done) == (EndReason.DONE, JobState.SUCCEEDED)
    app = make_app(stage.settings)
    for arguments in ([], [1], ["1", "x"], [done.job_id, done.id, 3], [True, True], [-1, 2**70], [None, {}]):
        app.send_task("mmq.start", args=arguments, retry=False)
    app.send_task("mmq.start", kwargs={"job_id": 1}, retry=False)
    app.send_task("no.such.task", args=[1, 2], retry=False)
    publish_start(stage.settings, done.job_id, done.id)  # of a finished job
    publish_adopt(stage.settings, done.job_id, done.id)
    publish_start(stage.settings, 999, 999)
    publish_start(stage.settings, 999, done.id)  # that names another's attempt
    app.close()
    after = stage.admitted({})
    publish_start(stage.settings, after.job_id, after.id)
    assert stage.end(after) == (EndReason.DONE, JobState.SUCCEEDED)
    assert worker.poll() is None
    said = log(stage).read_text()
    assert said.count("a malformed mmq.start message") == 8
    assert "there is no attempt 999" in said
    assert stage.run(done).events.read_text().count('"started"') == 1


def test_garbage_in_the_queue_costs_at_most_a_worker_never_a_job(stage: Stage, workers: Workers) -> None:
    attempt = stage.admitted({})
    for garbage in (b"not json", b"[]", b'{"body": "x"}', b"\xff\xfe"):
        push(stage, garbage)
    publish_start(stage.settings, attempt.job_id, attempt.id)
    (worker,) = workers(1)
    assert worker.wait(PATIENCE_SECONDS) == 1
    workers(1)  # the service starts it again, and the controller publishes again
    publish_start(stage.settings, attempt.job_id, attempt.id)
    assert stage.end(attempt) == (EndReason.DONE, JobState.SUCCEEDED)
    assert log(stage).read_text().count("Unrecoverable error") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)])
def test_a_worker_killed_or_told_to_stop_leaves_its_trainers_alone(
    number: int, code: int, stage: Stage, workers: Workers
) -> None:
    (worker,) = workers(1)
    attempt = stage.admitted({"steps": 6, "lingers": True})
    publish_start(stage.settings, attempt.job_id, attempt.id)
    until(lambda: stage.attempt(attempt).state is AttemptState.RUNNING)
    worker.send_signal(number)
    assert worker.wait(PATIENCE_SECONDS) == code
    assert stage.attempt(attempt).state is AttemptState.RUNNING
    stage.let_go(attempt)
    assert stage.end(attempt) == (EndReason.DONE, JobState.SUCCEEDED)


def test_an_orphan_is_adopted_by_message(stage: Stage, workers: Workers) -> None:
    workers(1)
    attempt = stage.running({"steps": 4, "lingers": True})
    kill(attempt.shim_pid)
    publish_adopt(stage.settings, attempt.job_id, attempt.id)
    until(lambda: stage.attempt(attempt).shim_pid != attempt.shim_pid)
    stage.let_go(attempt)
    assert stage.end(attempt) == (EndReason.DONE, JobState.SUCCEEDED)


def test_a_cancelled_job_is_not_started_by_a_late_message(stage: Stage, workers: Workers) -> None:
    attempt = stage.admitted({})
    jobs.request_cancel(stage.db, attempt.job_id, by="me", at=time.time())
    publish_start(stage.settings, attempt.job_id, attempt.id)
    workers(1)
    until(lambda: "is not there to be claimed" in log(stage).read_text())
    assert jobs.get(stage.db, attempt.job_id).state is JobState.CANCELLED
    assert not stage.run(attempt).events.exists()


def test_a_worker_survives_its_brokers_death(stage: Stage, broker: "subprocess.Popen[bytes]", workers: Workers) -> None:
    (worker,) = workers(1)
    broker.kill()
    broker.wait()
    again = subprocess.Popen(valkey.server_command(stage.settings), stdout=subprocess.DEVNULL)
    try:
        until(lambda: reachable(stage.settings))
        attempt = stage.admitted({})
        publish_start(stage.settings, attempt.job_id, attempt.id)
        assert stage.end(attempt) == (EndReason.DONE, JobState.SUCCEEDED)
        assert worker.poll() is None
    finally:
        again.kill()
        again.wait()


def test_a_shim_that_can_not_be_started_ends_the_attempt(stage: Stage, workers: Workers) -> None:
    workers(1)
    attempt = stage.admitted({})
    attempts_dir = stage.run(attempt).root / "attempts"
    attempts_dir.write_text("a file where a directory should be")
    publish_start(stage.settings, attempt.job_id, attempt.id)
    assert stage.end(attempt)[0] is EndReason.COULD_NOT_START
    assert "could not be started" in (stage.attempt(attempt).message or "")


def test_a_worker_beats_and_loads_nothing_heavy(stage: Stage, workers: Workers) -> None:
    (worker,) = workers(1)
    until(lambda: heartbeats.all(stage.db))
    (beat,) = heartbeats.all(stage.db)
    assert (beat.component, beat.pid) == ("worker@here", worker.pid)
    loaded = Path(f"/proc/{worker.pid}/maps").read_text()
    assert not [name for name in ("torch", "numpy", "sqlalchemy") if f"/{name}/" in loaded]
    table = Path(f"/proc/{worker.pid}/smaps_rollup").read_text()
    (resident,) = [int(line.split()[1]) for line in table.splitlines() if line.startswith("Rss:")]
    assert resident < 80 * 1024


def test_a_worker_that_takes_none_of_what_waits_is_known_to_be_deaf(
    stage: Stage, broker: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.consumer_watch.STALLED_SECONDS", 0.1)
    app = make_app(stage.settings)
    consumer = ConsumerWatch(app, stage.settings)
    assert not consumer.is_stalled(), "nothing waits"
    publish_start(stage.settings, 1, 1)
    assert not consumer.is_stalled(), "not for long"
    until(consumer.is_stalled)
    consumer.message_taken()
    assert not consumer.is_stalled(), "it is at work"
    consumer.message_answered()
    assert not consumer.is_stalled(), "it has just been at work"
    until(consumer.is_stalled)
    broker.kill()
    broker.wait()
    assert not consumer.is_stalled(), "nobody can know"
    app.close()


def test_a_deaf_worker_ends(stage: Stage, broker: "subprocess.Popen[bytes]") -> None:
    """One that beats and whose consumer takes nothing, as it was found in a random walk of faults."""
    publish_start(stage.settings, 1, 1)
    code = "import time; from worker.app import heartbeat; heartbeat.start(); time.sleep(100)"
    environment = stage.environment | {"MMQ_HASTE": "30"}
    deaf = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert deaf.returncode == 1
    assert "messages wait, and this worker takes none" in deaf.stderr
