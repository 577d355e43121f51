"""The broker away: a submit still succeeds, says so, and its job runs when the broker is back."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from scheduler.broker.app import queue_name
from scheduler.broker.valkey import find_server
from tests.acceptance.workplace import Workplace, kill, until, workplace

pytestmark = pytest.mark.timeout(600)  # the default is for tests without a real trainer in them


def test_a_job_submitted_while_the_embedded_broker_hangs_runs_when_it_answers_again(place: Workplace) -> None:
    broker = place.child("broker")
    os.kill(broker, signal.SIGSTOP)
    try:
        done = place.mmq("submit", "tiny.yaml")
        assert done.code == 0
        assert "is stored; the broker at" in done.err
        assert "Traceback" not in done.err
        job = int(done.out)
        place.until_state(job, "admitted")
        until(lambda: "does not answer" in (place.story(job)["waiting"] or ""), "a word about the broker")
        assert "does not answer" in " ".join(place.ok("status").split())
    finally:
        os.kill(broker, signal.SIGCONT)
    assert place.until_ended(job) == ["succeeded"]


def test_a_job_submitted_as_the_embedded_broker_is_killed_runs(place: Workplace) -> None:
    kill(place.child("broker"))
    assert place.until_ended(place.submit()) == ["succeeded"]


def test_a_broker_that_is_flushed_before_anybody_read_the_message_loses_no_job(place: Workplace) -> None:
    with place.halted(place.service()):  # so that nobody starts another worker
        kill(place.child("worker"))
        job = place.submit()
        with redis.Redis(unix_socket_path=str(place.settings.broker_socket)) as client:
            until(lambda: client.llen(f"mmq:{queue_name('here')}"), "a message for the worker")
            client.flushall()
    assert place.until_ended(job) == ["succeeded"]


def test_a_job_submitted_with_everything_down_runs_after_up(place: Workplace) -> None:
    place.ok("down")
    done = place.mmq("submit", "tiny.yaml")
    assert done.code == 0
    assert "is stored; the service is not running" in done.err
    place.up()
    assert place.until_ended(int(done.out)) == ["succeeded"]


@pytest.fixture
def absent_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workplace, Path]]:
    """A home whose MMQ_BROKER_URL names a socket that nobody listens on, and that socket."""
    with workplace() as place:
        socket = place.root / "elsewhere.sock"
        place.environment["MMQ_BROKER_URL"] = f"redis+socket://{socket}"
        yield place, socket


def test_a_broker_url_that_points_to_nothing_until_a_server_is_started_there(
    absent_broker: tuple[Workplace, Path],
) -> None:
    place, socket = absent_broker
    up = place.mmq("up", "--detach")
    assert up.code == 5
    assert f"the broker at {socket} does not answer" in up.err
    done = place.mmq("submit", "tiny.yaml")
    assert done.code == 0
    assert "is stored; the broker at" in done.err
    command = [str(find_server()), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(place.root)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        assert place.until_ended(int(done.out)) == ["succeeded"]
        place.close()
        server.terminate()
