"""The commands around the jobs, and the way every command fails."""

import fcntl
import json
import os
import re
import sqlite3
from pathlib import Path

import pytest

from scheduler.cli.group import COMMANDS
from scheduler.config import Settings
from scheduler.jobs import jobfile
from scheduler.jobs.states import EndReason
from scheduler.store import attempts
from scheduler.store.database import Database
from tests.acceptance.conftest import Mmq
from tests.store.samples import DEVICE, ends, queued, running, with_device


def test_help_lists_every_command_without_loading_it(mmq: Mmq) -> None:
    done = mmq("--help")
    assert done.code == 0
    for name, sentence in COMMANDS.items():
        assert f"{name}" in done.out
        assert sentence in done.out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(mmq: Mmq, name: str) -> None:
    done = mmq(name, "--help")
    assert (done.code, done.err) == (0, "")
    assert not done.out.split("\n\n")[1].startswith("Options:")  # it says what it does before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sumbit"], "error: no such command: 'sumbit'. Did you mean 'submit'?\n  hint: mmq --help\n"),
        (["status", "--jsno"], "hint: mmq status --help\n"),
        (["submit"], "error: Missing argument 'FILE'\n  hint: mmq submit --help\n"),
        (["submit", "nothing.yaml"], "error: nothing.yaml: cannot be read: No such file or directory\n  hint: mmq"),
    ],
)
def test_misuse_is_one_line_and_a_hint(mmq: Mmq, arguments: list[str], told: str) -> None:
    done = mmq(*arguments)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
    assert len(done.err.splitlines()) <= 2


def test_version(mmq: Mmq) -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert mmq("--version").out == f"mmq {project['version']}\n"


def test_a_fault_of_our_own_is_one_line_and_a_file(
    mmq: Mmq, store: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.store.views.overview", lambda *_: 1 / 0)
    settings.log_dir.mkdir()
    for number in range(60):
        (settings.log_dir / f"error-20200101-{number:06}-1.txt").touch()
    done = mmq("status")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(
        "error: mmq itself failed: ZeroDivisionError: division by zero\n  hint: the details are in "
    )
    assert "Traceback" not in done.err
    kept = sorted(settings.log_dir.glob("error-*.txt"))
    assert len(kept) == 50
    assert "Traceback" in kept[-1].read_text()


def test_the_world_s_errors_are_one_line_and_no_fault_of_ours(
    mmq: Mmq, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(settings.home))

    monkeypatch.setattr("scheduler.cli.context.open_to_read", denied)
    told = mmq("status")
    assert (told.code, told.out) == (6, "")
    assert told.err == f"error: {settings.home}: Permission denied\n  hint: mmq doctor\n"


def test_an_interrupt_ends_quietly(mmq: Mmq, store: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scheduler.store.views.overview", interrupted)
    done = mmq("status")
    assert (done.code, done.out, done.err.strip()) == (130, "", "")


@pytest.mark.parametrize("kind", ["pretrain", "sft"])
def test_init_writes_a_file_that_can_be_submitted(mmq: Mmq, tmp_path: Path, kind: str) -> None:
    done = mmq("init", kind)
    assert (done.code, done.out) == (0, f"{kind}.yaml\n")
    text = (tmp_path / f"{kind}.yaml").read_text()
    job, _ = jobfile.parse(text, file="x")
    defaults, _ = jobfile.parse(f"kind: {kind}\nname: {job.name}\ndata: {{path: {kind}.jsonl}}\n", file="x")
    assert job == defaults
    done = mmq("init", kind)
    assert done.code == 2
    assert f"hint: mmq init {kind} {kind}.yaml --force" in done.err
    assert mmq("init", kind, "--force").code == 0


def test_what_init_comments_out_is_the_default(mmq: Mmq, tmp_path: Path) -> None:
    for kind in ("pretrain", "sft"):
        mmq("init", kind)
        lines = (tmp_path / f"{kind}.yaml").read_text().splitlines()
        files = ("tokenizer:", "validation:", "init_from:")
        without = ("max_memory:", "time_limit:", "eval_interval:", "sample_interval:", "early_stop:", "report:")
        fields = files + without  # by default none
        settled = [line for line in lines if not any(field in line for field in fields)]
        spelled = "\n".join(re.sub(r"^( *)# (\w+: )", r"\1\2", line) for line in settled)
        job, _ = jobfile.parse(spelled, file="x")
        assert job == jobfile.parse((tmp_path / f"{kind}.yaml").read_text(), file="x")[0]


def test_doctor_finds_nothing_on_a_fresh_home(mmq: Mmq) -> None:
    done = mmq("doctor")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("nothing is wrong\n")


def test_doctor_names_a_home_that_can_t_be_written(
    mmq: Mmq, store: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler.cli.health.os.access", lambda *_: False)  # as of a file system that is read-only
    done = mmq("doctor")
    assert done.code == 1
    assert f"{settings.home} can't be written\n{'':<18}hint: findmnt -T {settings.home}\n" in done.out


def test_doctor_names_what_mends(mmq: Mmq, store: Database, settings: Settings) -> None:
    settings.home.chmod(0o755)
    queued(store)
    with store.transaction() as tx:
        tx.execute("UPDATE jobs SET state = 'running'")
    done = mmq("doctor")
    assert done.code == 1
    assert f"chmod 0700 {settings.home}" in done.out
    assert "job 1 is running without a live attempt" in done.out
    told = json.loads(mmq("doctor", "--json").out)
    assert told["healthy"] is False
    wrong = {finding["part"] for finding in told["findings"] if finding["level"] == "wrong"}
    assert wrong == {"home", "database", "service"}
    assert all(finding["hint"] for finding in told["findings"] if finding["level"] == "wrong")


def test_doctor_mends_what_is_safe_and_says_so(mmq: Mmq, store: Database, settings: Settings) -> None:
    with_device(store)
    attempts.finish(store, running(store, queued(store)).id, ends(EndReason.BAD_DATA), at=5.0)
    with store.transaction() as tx:
        tx.execute("INSERT INTO reservations VALUES (1, :device, 5)", device=DEVICE)
    settings.home.chmod(0o755)
    (settings.home / "backups").mkdir()
    killed_over, young = (settings.home / "backups" / f"{name}.db.partial" for name in ("old", "new"))
    for copy in (killed_over, young):
        copy.touch()
    os.utime(killed_over, (1, 1))
    found = mmq("doctor").out
    assert f"{killed_over} was never completed" in found
    assert str(young) not in found
    done = mmq("doctor", "--fix")
    assert done.code == 0, done
    fixed = [line for line in done.out.splitlines() if line.startswith("fixed")]
    assert len(fixed) == 3
    assert "released the memory that attempt 1" in fixed[2]
    assert (killed_over.exists(), young.exists(), settings.home.stat().st_mode & 0o777) == (False, True, 0o700)
    assert json.loads(mmq("doctor", "--fix", "--json").out)["fixed"] == []


def test_a_copy_is_put_in_place_and_the_one_before_kept(mmq: Mmq, store: Database, settings: Settings) -> None:
    copy = mmq("db", "backup").out.strip()
    queued(store)
    store.close()
    done = mmq("db", "restore", copy)
    assert done.code == 0, done
    kept = done.out.strip().rpartition(" ")[2]
    assert mmq("status").out.startswith("no jobs")
    assert mmq("db", "restore", kept).code == 0
    assert "tiny" in mmq("status").out
    text = settings.home / "notes.txt"
    text.write_text("no database")
    assert mmq("db", "restore", text).code == 1
    assert "tiny" in mmq("status").out


def test_doctor_shows_the_devices_of_the_service_that_runs(
    mmq: Mmq, store: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_device(store)
    monkeypatch.setenv("MMQ_DEVICES", "cpu:1GiB")  # this shell's, and not the service's
    with settings.service_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = mmq("doctor")
    assert "virtual:0 (" in done.out
    assert "cpu:0" not in done.out
    assert "cpu:0" in mmq("doctor").out


def test_doctor_tells_of_a_schema_out_of_date(mmq: Mmq, store: Database) -> None:
    with store.transaction() as tx:
        tx.execute("UPDATE alembic_version SET version_num = 'later'")
    done = mmq("doctor")
    assert done.code == 1
    assert "wrong  database" in done.out


def test_backup_is_a_whole_database(mmq: Mmq, store: Database, tmp_path: Path) -> None:
    queued(store)
    done = mmq("db", "backup", "copy.db")
    assert (done.code, done.out) == (0, f"{tmp_path / 'copy.db'}\n")
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("SELECT COUNT(*) FROM jobs").fetchone() == (1,)
    copy.close()
    assert mmq("db", "backup").code == 0


def test_a_backup_replaces_no_file(mmq: Mmq, store: Database, settings: Settings, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    for target in (precious, settings.home / "mmq.db", Path("/dev/null")):
        done = mmq("db", "backup", target)
        assert done.code == 2
        assert f"{target} exists already" in done.err
    assert precious.read_text() == "mine"
    assert list(tmp_path.glob("*.partial")) == []


def test_a_backup_into_no_folder_is_said(mmq: Mmq, store: Database, tmp_path: Path) -> None:
    done = mmq("db", "backup", tmp_path / "nowhere" / "copy.db")
    assert (done.code, done.out) == (1, "")
    assert done.err.endswith(f": No such file or directory\n  hint: ls -ld {tmp_path / 'nowhere'}\n")


def test_a_backup_of_nothing_makes_nothing(mmq: Mmq, settings: Settings) -> None:
    assert mmq("db", "backup").code == 4
    assert not (settings.home / "backups").exists()


def test_upgrade_of_a_current_database_changes_nothing(mmq: Mmq, store: Database) -> None:
    assert mmq("db", "upgrade") == (0, "the database is up to date\n", "")
