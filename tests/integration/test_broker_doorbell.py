"""The doorbell over a real unix socket."""

import select
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.broker.doorbell import Doorbell, ring
from scheduler.broker.sockets import create_sockets_dir
from scheduler.config import Settings
from scheduler.errors import NotPermitted


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.from_environment({"MMQ_HOME": str(tmp_path / "home")})


def test_ring_says_that_nobody_listens(settings: Settings) -> None:
    assert ring(settings) is False


def test_rings_are_heard_and_answered_once(settings: Settings) -> None:
    with Doorbell.listen(settings) as bell:
        assert not bell.answer()
        assert ring(settings)
        assert ring(settings)
        assert select.select([bell], [], [], 5)[0]
        assert bell.answer()
        assert not bell.answer()


def test_ring_never_waits_for_a_controller_that_does_not_listen(settings: Settings) -> None:
    with Doorbell.listen(settings) as bell:
        assert all(ring(settings) for _ in range(2000))
        assert bell.answer()


def test_a_dead_controllers_socket_is_in_nobodys_way(settings: Settings) -> None:
    Doorbell.listen(settings).close()
    assert settings.doorbell_socket.exists()
    assert ring(settings) is False
    with Doorbell.listen(settings) as bell:
        assert ring(settings)
        assert bell.answer()


def test_the_socket_is_private(settings: Settings) -> None:
    with Doorbell.listen(settings):
        assert stat.S_IMODE(settings.doorbell_socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(settings.sockets_dir.stat().st_mode) == 0o700


def test_a_home_of_a_long_path_has_its_sockets_elsewhere(tmp_path: Path) -> None:
    settings = Settings.from_environment({"MMQ_HOME": str(tmp_path / ("x" * 200))})
    with Doorbell.listen(settings) as bell:
        assert ring(settings)
        assert bell.answer()
    settings.doorbell_socket.unlink()
    settings.sockets_dir.rmdir()


def test_a_sockets_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings.from_environment({"MMQ_HOME": str(tmp_path / "home")})
    monkeypatch.setattr("os.getuid", lambda: 54321)
    with pytest.raises(NotPermitted):
        create_sockets_dir(settings)


def test_a_home_that_is_your_own_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "elsewhere")
    settings = Settings.from_environment({"MMQ_HOME": str(tmp_path / "home")})
    create_sockets_dir(settings)
    assert settings.sockets_dir.is_dir()


def test_ringing_loads_nothing_heavy() -> None:
    heavy = "{'celery', 'kombu', 'redis', 'sqlalchemy'}"
    code = f"import sys, scheduler.broker.doorbell; print(sorted({heavy} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
