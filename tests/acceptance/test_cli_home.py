"""A home that is no home: a folder of others is never made private, and what can't be one is said in words."""

import stat
from pathlib import Path

import pytest

from scheduler.config import Settings
from scheduler.errors import MmqError
from tests.acceptance.conftest import Mmq


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def shared(settings: Settings) -> Path:
    """A folder that others use, named as the home by mistake."""
    settings.home.mkdir(mode=0o755)
    settings.home.chmod(0o1777)
    (settings.home / "somebodys.txt").write_text("theirs")
    return settings.home


@pytest.mark.parametrize("command", [("up", "--detach"), ("db", "upgrade")])
def test_a_folder_that_others_use_is_left_as_it_is(mmq: Mmq, shared: Path, command: tuple[str, ...]) -> None:
    done = mmq(*command)
    assert (done.code, done.out) == (6, "")
    assert done.err == (
        f"error: {shared} holds other files, and other users can access it; mmq needs a folder of its own\n"
        f"  hint: export MMQ_HOME={shared / 'mmq'}\n"
    )
    assert _mode(shared) == 0o1777
    assert [entry.name for entry in shared.iterdir()] == ["somebodys.txt"]


def test_doctor_does_not_advise_to_close_it_to_others(mmq: Mmq, shared: Path) -> None:
    done = mmq("doctor")
    assert done.code == 1
    assert f"{shared} holds other files, and other users can access it" in done.out
    assert "chmod" not in done.out


def test_an_empty_folder_and_a_home_of_ours_become_private(settings: Settings) -> None:
    for name in (None, "mmq.db"):
        settings.home.mkdir(exist_ok=True)
        settings.home.chmod(0o755)
        if name:
            (settings.home / name).touch()
        settings.create_home()
        assert _mode(settings.home) == 0o700


def test_a_home_without_the_database_is_made_private_by_a_submit(
    mmq: Mmq, settings: Settings, job_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMQ_DATABASE_URL", f"sqlite:///{tmp_path / 'elsewhere' / 'mmq.db'}")
    done = mmq("submit", job_file)
    assert (done.code, done.out) == (0, "1\n")
    assert _mode(settings.home) == 0o700
    assert f"{settings.home} is private" in mmq("doctor").out


def test_what_cannot_be_a_home_is_named(mmq: Mmq, settings: Settings) -> None:
    settings.home.write_text("a file")
    with pytest.raises(MmqError, match=r"can't create .*: File exists"):
        settings.create_home()
    done = mmq("up", "--detach")
    assert (done.code, len(done.err.splitlines())) == (1, 2)
    assert "hint: export MMQ_HOME=/another/folder" in done.err
    assert "is not a folder" in mmq("doctor").out
