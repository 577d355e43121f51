"""Where mmq's home is, and what it may not be."""

import os
import pwd
from pathlib import Path

import pytest

from scheduler.config import Settings, user_name
from scheduler.errors import UsageError
from scheduler.units import parse_bytes


def home_of(**environment: str) -> Path:
    return Settings.from_environment(environment).home


def test_the_home_is_what_was_said_or_where_state_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert home_of() == Path("/home/ada/.local/state/mmq")
    assert home_of(XDG_STATE_HOME="/state") == Path("/state/mmq")
    assert home_of(XDG_STATE_HOME="/state", MMQ_HOME="/mine") == Path("/mine")
    assert home_of(MMQ_HOME="/größer") == Path("/größer")


@pytest.mark.parametrize(("home", "reason"), [("/a\udcff", "not UTF-8"), ("/what?", "question mark")])
def test_a_home_that_a_database_could_not_lie_in_is_refused(home: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        home_of(MMQ_HOME=home)


@pytest.mark.parametrize("told", ["1023B", "65535", "2TiB", "1099511627777", "much"])
def test_a_bound_of_logs_that_no_trainer_would_take_is_refused(told: str) -> None:
    with pytest.raises(UsageError, match="from 64KiB to 1TiB"):
        Settings.from_environment({"MMQ_RUN_LOG_BYTES": told})
    for size in ("64KiB", "1TiB"):
        assert Settings.from_environment({"MMQ_RUN_LOG_BYTES": size}).run_log_bytes == parse_bytes(size)


@pytest.mark.parametrize("told", ["soon", "-1", "nan", "inf", "86401"])
def test_a_grace_that_no_shim_could_keep_is_refused(told: str) -> None:
    with pytest.raises(UsageError, match=f"MMQ_GRACE_SECONDS is '{told}'; it takes seconds, from 0"):
        Settings.from_environment({"MMQ_GRACE_SECONDS": told})
    assert Settings.from_environment({"MMQ_GRACE_SECONDS": "2.5"}).grace_seconds == 2.5
    assert Settings.from_environment({}).grace_seconds == 60


def test_a_user_without_a_home_directory_needs_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    assert home_of(MMQ_HOME="/mine") == Path("/mine")
    with pytest.raises(UsageError, match="no home directory") as caught:
        home_of()
    assert caught.value.hint == "export MMQ_HOME=/another/folder"


def test_the_user_is_who_logged_in_whatever_account_they_took(tmp_path: Path) -> None:
    somebody = next(entry for entry in pwd.getpwall() if entry.pw_uid not in (0, os.getuid()))
    login = tmp_path / "loginuid"
    login.write_text(str(somebody.pw_uid))
    assert user_name(login) == pwd.getpwuid(somebody.pw_uid).pw_name


@pytest.mark.parametrize("told", ["4294967295", "0", ""])
def test_where_nobody_logged_in_the_user_is_the_process_s_owner(tmp_path: Path, told: str) -> None:
    login = tmp_path / "loginuid"
    login.write_text(told)
    assert user_name(login) == user_name(tmp_path / "absent") == pwd.getpwuid(os.getuid()).pw_name
