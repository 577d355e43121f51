"""The first start, broken off or met by another: the store is made all the same, and never in place of a lost one."""

import multiprocessing
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.cli import context
from scheduler.config import Settings
from scheduler.errors import MmqError, NoDatabase
from scheduler.service.up import prepare_database
from scheduler.store.opening import open_database
from scheduler.store.upgrade import upgrade
from tests.store.samples import queued, settings_at


@pytest.fixture
def broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home whose maker was killed, or met a full disk, between the file and the schema."""
    monkeypatch.setenv("MMQ_HOME", str(tmp_path))
    settings = settings_at(tmp_path)
    settings.create_home()
    (settings.home / "mmq.db").touch(mode=0o600)
    return settings


def test_an_empty_file_is_no_database(broken_off: Settings) -> None:
    with pytest.raises(NoDatabase):
        open_database(broken_off, lean=True)


def test_the_service_finishes_a_first_start_that_was_broken_off(broken_off: Settings) -> None:
    prepare_database(broken_off)
    open_database(broken_off, lean=True).close()


def test_a_submit_finishes_a_first_start_that_was_broken_off(broken_off: Settings) -> None:
    with context.store(broken_off, create=True) as database:
        assert queued(database).id == 1


def test_a_first_start_gives_no_id_of_a_run_directory_or_makes_no_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_at(tmp_path)
    settings.run_dir(7).mkdir(parents=True)
    with monkeypatch.context() as cut_off:
        cut_off.setattr("scheduler.store.migrate.RAISE_ON_SQLITE", ("SELECT no_such_column",))
        with pytest.raises(MmqError, match="no_such_column"):
            upgrade(settings)
    with pytest.raises(NoDatabase):
        open_database(settings, lean=True)
    (settings.home / "mmq.db").unlink()
    with context.store(settings, create=True) as database:
        assert queued(database).id == 8


def test_a_submit_during_the_first_start_waits_for_it(broken_off: Settings) -> None:
    others = [multiprocessing.get_context("spawn").Process(target=_submit, args=(broken_off,)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert [other.exitcode for other in others] == [0, 0, 0]
    with closing(open_database(broken_off, lean=True)) as database:
        assert [row["id"] for row in database.query("SELECT id FROM jobs ORDER BY id")] == [1, 2, 3]


def _submit(settings: Settings) -> None:
    with context.store(settings, create=True) as database:
        queued(database)


def test_a_database_cut_to_nothing_is_not_replaced_where_jobs_have_run(broken_off: Settings) -> None:
    broken_off.run_dir(1).mkdir(parents=True)
    with pytest.raises(MmqError, match="jobs have run here") as caught:
        open_database(broken_off, lean=True, create=True)
    assert caught.value.hint == f"mmq db restore COPY  # one of {broken_off.home / 'backups'}"
    with pytest.raises(MmqError, match="jobs have run here"):
        prepare_database(broken_off)
    with pytest.raises(MmqError, match="jobs have run here"), context.store(broken_off, create=True):
        pass
