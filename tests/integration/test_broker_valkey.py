"""The embedded broker, its reachability and publishing to it: on the real server."""

import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from scheduler.broker import valkey
from scheduler.broker.publish import publish_adopt, publish_start
from scheduler.broker.reach import reachable
from scheduler.config import Settings
from scheduler.errors import Unreachable
from tests.processes import PATIENCE_SECONDS, network_sockets

Start = Callable[[], subprocess.Popen[bytes]]
MOST_SECONDS = 20.0  # for what has limits of a second or two, and a client to import, on a busy machine


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings.from_environment({"MMQ_HOME": str(tmp_path / "home"), "MMQ_HOST": "here"})
    settings.create_home()
    return settings


@pytest.fixture
def start(settings: Settings) -> Iterator[Start]:
    servers: list[subprocess.Popen[bytes]] = []

    def launch() -> subprocess.Popen[bytes]:
        servers.append(subprocess.Popen(valkey.server_command(settings), stdout=subprocess.DEVNULL))
        return servers[-1]

    yield launch
    for server in servers:
        server.kill()
        server.wait()


def until_ready(settings: Settings, server: subprocess.Popen[bytes], within_seconds: float = PATIENCE_SECONDS) -> bool:
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline and server.poll() is None:
        if reachable(settings):
            return True
        time.sleep(0.02)
    return False


def messages(settings: Settings) -> list[tuple[str, str]]:
    with redis.Redis(unix_socket_path=str(settings.broker_socket)) as client:
        found = [json.loads(text) for text in client.lrange("mmq:mmq.here", 0, -1)]
    return sorted((m["headers"]["task"], m["headers"]["argsrepr"]) for m in found)


def test_it_listens_on_a_private_socket_and_on_no_network_address(settings: Settings, start: Start) -> None:
    server = start()
    assert until_ready(settings, server)
    assert stat.S_IMODE(settings.broker_socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.broker_dir.stat().st_mode) == 0o700
    assert network_sockets(server.pid) == set()


def test_publishing_reaches_the_hosts_queue(settings: Settings, start: Start) -> None:
    assert until_ready(settings, start())
    publish_start(settings, 7, 9)
    publish_adopt(settings, 7, 9)
    assert messages(settings) == [("mmq.adopt", "[7, 9]"), ("mmq.start", "[7, 9]")]


def test_a_queue_that_nobody_reads_does_not_grow_without_end(
    settings: Settings, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.broker.publish.MOST_WAITING", 5)
    assert until_ready(settings, start())
    lengths = []
    for attempt in range(12):
        publish_start(settings, 1, attempt)
        lengths.append(len(messages(settings)))
    assert lengths == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2]


def test_messages_outlive_a_kill_and_a_torn_file(settings: Settings, start: Start) -> None:
    server = start()
    assert until_ready(settings, server)
    publish_start(settings, 1, 1)
    publish_start(settings, 2, 2)
    server.kill()
    server.wait()
    (log,) = (settings.broker_dir / "appendonlydir").glob("*.incr.aof")
    os.truncate(log, log.stat().st_size - 5)
    assert until_ready(settings, start())
    assert ("mmq.start", "[1, 1]") in messages(settings)


def test_files_it_will_not_load_are_set_aside(settings: Settings, start: Start) -> None:
    server = start()
    assert until_ready(settings, server)
    publish_start(settings, 1, 1)
    server.kill()
    server.wait()
    (log,) = (settings.broker_dir / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(b"not an append-only file\r\n" * 20)
    torn = start()
    assert not until_ready(settings, torn)
    assert torn.wait(PATIENCE_SECONDS) != 0
    aside = valkey.set_aside(settings)
    assert aside is not None
    assert aside.is_dir()
    assert until_ready(settings, start())


def test_a_broker_that_is_away_is_said_at_once(settings: Settings) -> None:
    began = time.monotonic()
    assert not reachable(settings)
    with pytest.raises(Unreachable, match="does not answer"):
        publish_start(settings, 1, 1)
    assert time.monotonic() - began < MOST_SECONDS


def test_a_hung_broker_is_not_waited_for(settings: Settings, start: Start) -> None:
    server = start()
    assert until_ready(settings, server)
    server.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert not reachable(settings)
    with pytest.raises(Unreachable):
        publish_start(settings, 1, 1)
    assert time.monotonic() - began < MOST_SECONDS


def test_a_full_broker_refuses_and_the_publisher_says_so(settings: Settings, start: Start) -> None:
    assert until_ready(settings, start())
    with redis.Redis(unix_socket_path=str(settings.broker_socket)) as client:
        client.config_set("maxmemory", 1)
    with pytest.raises(Unreachable):
        publish_start(settings, 1, 1)


def test_a_listener_that_says_nothing_is_not_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        assert not reachable(Settings.from_environment({"MMQ_BROKER_URL": f"redis://127.0.0.1:{port}/0"}))
    assert time.monotonic() - began < MOST_SECONDS
