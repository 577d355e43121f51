"""A world that errs: a locked, full, damaged, unreadable database or the wrong disk, each told in one sentence."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.config import Settings
from scheduler.errors import MmqError, NotPermitted, SchemaMismatch, Unreachable, UsageError
from scheduler.store import engine, jobs, sqlite
from scheduler.store.database import Database
from scheduler.store.drivers import connect
from scheduler.store.filesystem import refuse_network_file_system
from scheduler.store.location import sqlite_path, without_password
from scheduler.store.opening import open_database
from tests.store.samples import new_job, queued, settings_at


@pytest.fixture(params=["lean", "engine"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)  # faults of a file: not PostgreSQL's


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.05)


@pytest.fixture
def home(tmp_path: Path) -> Settings:
    settings = settings_at(tmp_path)
    with closing(open_database(settings, lean=True, create=True)) as db:
        queued(db)
    return settings


@pytest.fixture
def other(home: Settings) -> Iterator[sqlite.SqliteDatabase]:
    with closing(sqlite.SqliteDatabase(home.home / "mmq.db")) as database:
        yield database


def test_a_locked_database_says_so(impatient: None, home: Settings, other: sqlite.SqliteDatabase, driver: str) -> None:
    with closing(open_database(home, lean=driver == "lean")) as db:
        with other.transaction(), pytest.raises(MmqError, match="locked") as caught:
            queued(db)
        assert caught.value.hint == "mmq doctor"
        assert queued(db).id == 2


def test_a_writer_waits_for_the_one_before(home: Settings, driver: str) -> None:
    begun = threading.Event()

    def hold_for_a_while() -> None:
        with closing(sqlite.SqliteDatabase(home.home / "mmq.db")) as db, db.transaction() as tx:
            tx.execute("UPDATE jobs SET name = 'first'")
            begun.set()
            threading.Event().wait(0.3)

    holder = threading.Thread(target=hold_for_a_while)
    with closing(open_database(home, lean=driver == "lean")) as db:
        holder.start()
        assert begun.wait(10)
        assert queued(db).id == 2
        assert jobs.get(db, 1).name == "first"
    holder.join()


def test_readers_do_not_wait_for_the_writer(
    impatient: None, home: Settings, other: sqlite.SqliteDatabase, driver: str
) -> None:
    assert sqlite.journal_mode() == "WAL"
    with closing(open_database(home, lean=driver == "lean")) as db, other.transaction() as tx:
        tx.execute("UPDATE jobs SET name = 'unseen'")
        assert [job.name for job in jobs.queue(db)] == ["tiny"]


def test_a_snapshot_is_of_one_moment(home: Settings, other: sqlite.SqliteDatabase, driver: str) -> None:
    with closing(open_database(home, lean=driver == "lean")) as db, db.snapshot() as reader:
        assert len(jobs.queue(reader)) == 1
        queued(other)
        assert len(jobs.queue(reader)) == 1


def test_a_full_disk_says_so_and_keeps_what_is_there(home: Settings) -> None:
    with closing(sqlite.SqliteDatabase(home.home / "mmq.db")) as db:
        pages = db.query("PRAGMA page_count")[0]["page_count"]
        db.query(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(MmqError, match="no space is left"):
            jobs.submit(db, new_job(source="x" * 100_000), at=1.0)
        assert [job.id for job in jobs.queue(db)] == [1]
        db.query(f"PRAGMA max_page_count = {pages + 1000}")
        assert queued(db).id == 2
        assert db.integrity() == []


@pytest.mark.parametrize("damage", [b"not a database at all, only text" * 8, b"SQLite format 3\0" + b"\7" * 4096])
def test_a_damaged_file_is_told_and_kept(home: Settings, driver: str, damage: bytes) -> None:
    path = home.home / "mmq.db"
    path.write_bytes(damage)
    for create in (False, True):
        with pytest.raises(MmqError, match=r"damaged|refused") as caught:
            open_database(home, lean=driver == "lean", create=create)
        assert caught.value.hint
        assert str(path) in caught.value.message
    assert path.read_bytes() == damage


def test_a_truncated_file_is_told(home: Settings, driver: str) -> None:
    path = home.home / "mmq.db"
    with path.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(MmqError, match="damaged"):
        open_database(home, lean=driver == "lean")


def test_an_empty_file_is_no_database_yet(tmp_path: Path, driver: str) -> None:
    settings = settings_at(tmp_path)
    (tmp_path / "mmq.db").touch()
    with pytest.raises(SchemaMismatch, match="no database"):
        open_database(settings, lean=driver == "lean")
    open_database(settings, lean=driver == "lean", create=True).close()


def test_a_folder_where_the_file_should_be(tmp_path: Path, driver: str) -> None:
    (tmp_path / "mmq.db").mkdir()
    with pytest.raises(MmqError, match="can't be opened"):
        open_database(settings_at(tmp_path), lean=driver == "lean")


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MmqError, match="can't create") as caught:
        open_database(settings_at(tmp_path / "file" / "mmq"), lean=True, create=True)
    assert "MMQ_HOME" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("kind", "refused"),
    [("ext4", False), ("9p", False), ("overlay", False), ("nfs4", True), ("cifs", True), ("fuse.sshfs", True)],
)
def test_network_file_systems_are_refused(tmp_path: Path, kind: str, refused: bool) -> None:
    inside = tmp_path / "a b"
    inside.mkdir()
    mounts = tmp_path / "mounts"
    place = str(inside).replace(" ", "\\040")
    mounts.write_text(f"x / nfs rw 0 0\nx {tmp_path} ext4 rw 0 0\nserver:/x {place} {kind} rw 0 0\n")
    refuse_network_file_system(tmp_path / "mmq.db", mounts)
    if not refused:
        refuse_network_file_system(inside / "mmq.db", mounts)
        return
    with pytest.raises(MmqError, match="network file system"):
        refuse_network_file_system(inside / "mmq.db", mounts)


def test_a_folder_that_can_t_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write wherever the file system can be written
    error = sqlite.explain(sqlite.library().OperationalError("unable to open database file"), tmp_path / "mmq.db")
    assert error.message == f"{tmp_path} can't be written, and SQLite has to write there even to read mmq.db"
    assert isinstance(error, NotPermitted)


def test_urls_that_name_no_store() -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "mysql://localhost/x", "no url", "ada:secret@h"):
        with pytest.raises(UsageError) as caught:
            connect(url, lean=True)
        assert "MMQ_DATABASE_URL" in (caught.value.hint or "")
        assert "secret" not in caught.value.message
    assert sqlite_path("sqlite:////var/x.db") == Path("/var/x.db")
    assert sqlite_path("postgresql://h/x") is None
    assert without_password("postgresql://ada:secret@h/x") == "postgresql://ada@h/x"


def test_an_absent_postgres_is_unreachable(tmp_path: Path) -> None:
    settings = settings_at(tmp_path, f"postgresql://ada:secret@/x?host={tmp_path}")
    with pytest.raises(Unreachable, match="failed") as caught:
        open_database(settings, lean=False)
    assert "secret" not in caught.value.message


def test_each_connection_is_set_up(home: Settings, driver: str) -> None:
    with closing(open_database(home, lean=driver == "lean")) as db:
        assert db.query("PRAGMA foreign_keys") == [{"foreign_keys": 1}]
        assert db.query("PRAGMA synchronous") == [{"synchronous": 2}]
        assert db.query("PRAGMA journal_mode")[0]["journal_mode"] == sqlite.journal_mode().lower()
    assert stat.S_IMODE((home.home / "mmq.db").stat().st_mode) == 0o600


def test_an_error_inside_a_transaction_rolls_it_back(home: Settings, driver: str) -> None:
    with closing(open_database(home, lean=driver == "lean")) as db:
        with pytest.raises(KeyError):
            _rename_and_fail(db)
        assert jobs.get(db, 1).name == "tiny"


def _rename_and_fail(db: Database) -> None:
    with db.transaction() as tx:
        tx.execute("UPDATE jobs SET name = 'changed'")
        raise KeyError("our own mistake")


WITHOUT_PYSQLITE = """
import sys
import threading
from contextlib import closing
from pathlib import Path
sys.modules["pysqlite3"] = sys.modules["pysqlite3.dbapi2"] = None
from scheduler.store import sqlite, jobs
from scheduler.store.opening import open_database
from tests.store.samples import queued, settings_at
sqlite.WAL_RESET_FIXED = (99,)
for lean in (True, False):
    with closing(open_database(settings_at(Path(sys.argv[1])), lean=lean, create=True)) as db:
        queued(db)
        assert sqlite.library().__name__ == "sqlite3.dbapi2"
        assert db.query("PRAGMA journal_mode") == [{"journal_mode": "truncate"}]
        assert len(jobs.queue(db)) == (1 if lean else 2)
assert not (Path(sys.argv[1]) / "mmq.db-wal").exists()
print("pysqlite3" in str(sqlite.library()))
"""


def test_an_affected_library_never_uses_wal(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYSQLITE, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_the_engine_refuses_strangers() -> None:
    with pytest.raises(UsageError, match="not in mysql"):
        engine.create("mysql://localhost/x")
