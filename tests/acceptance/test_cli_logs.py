"""`mmq logs`: what was printed, what is being printed, over attempts and rotations, until the job ends."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.cli.logfile import LogFile
from scheduler.config import Settings
from scheduler.jobs.states import EndReason
from scheduler.store import attempts, jobs
from scheduler.store.database import Database
from tests.acceptance.conftest import Meanwhile, Mmq
from tests.store.samples import ends, queued, running, with_device


@pytest.fixture
def log(store: Database, settings: Settings) -> Path:
    """The log of job 1's first attempt, which runs."""
    with_device(store)
    running(store, queued(store))
    return write(settings, 1, "step 1\n")


def write(settings: Settings, attempt: int, text: str) -> Path:
    path = settings.run_dir(1) / "attempts" / str(attempt) / "log.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(text)
    return path


def test_the_latest_attempt_s_log(mmq: Mmq, log: Path) -> None:
    assert mmq("logs", "1") == (0, "step 1\n", "")
    assert mmq("logs", "1", "--attempt", "1").out == "step 1\n"
    done = mmq("logs", "1", "--attempt", "2")
    assert (done.code, done.err) == (1, "error: job 1 has no attempt 2\n  hint: mmq status 1\n")


def test_a_job_that_printed_nothing_says_why(mmq: Mmq, store: Database) -> None:
    queued(store)
    done = mmq("logs", "1")
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("note: job 1 has printed nothing yet: it is queued")


def test_following_goes_over_attempts_to_the_end(
    mmq: Mmq, log: Path, settings: Settings, store: Database, meanwhile: Meanwhile
) -> None:
    crashed, done = ends(EndReason.KILLED, exit_signal=9), ends(EndReason.DONE, exit_code=0)

    def go_on() -> None:
        write(settings, 1, "step 2\n")
        attempts.finish(store, 1, crashed, at=9.0)
        write(settings, 2, "step 2 again\n")
        running(store, jobs.get(store, 1))
        write(settings, 2, "step 3\n")
        attempts.finish(store, 2, done, at=12.0)

    meanwhile(go_on)
    shown = mmq("logs", "-f", "1")
    assert (shown.code, shown.out) == (0, "step 1\nstep 2\nstep 2 again\nstep 3\n")
    assert shown.err.endswith("note: job 1 succeeded\n")


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[tuple[Path, LogFile]]:
    path = tmp_path / "log.txt"
    with closing(LogFile(path)) as log:
        yield path, log


def read(log: LogFile) -> str:
    return "".join(log.read())


def test_a_rotated_log_is_read_to_its_end_and_then_anew(growing: tuple[Path, LogFile]) -> None:
    path, log = growing
    assert read(log) == ""
    path.write_text("a\n")
    assert read(log) == "a\n"
    with path.open("a") as stream:
        stream.write("b\n")
    path.rename(path.with_suffix(".1"))
    path.write_text("c\n")
    assert read(log) == "b\nc\n"
    path.write_text("")
    assert read(log) == ""
    path.write_text("d\n")
    assert read(log) == "d\n"


def test_a_character_cut_in_two_is_waited_for(growing: tuple[Path, LogFile]) -> None:
    path, log = growing
    path.write_bytes("é".encode()[:1])
    assert read(log) == ""
    with path.open("ab") as stream:
        stream.write("é".encode()[1:] + b"\xff!")
    assert read(log) == "é\ufffd!"


def test_a_terminal_is_spared_control_characters(
    mmq: Mmq, log: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(settings, 1, "\x1b[31mred\x07\r\n")
    assert "\x1b[31mred" in mmq("logs", "1").out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert mmq("logs", "1").out == "step 1\nred\n"
