"""The schema's history: it ends where the models are, all or nothing, one at a time, and loses no row."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

import migrations
from scheduler.config import Settings
from scheduler.errors import ExitCode, MmqError, SchemaMismatch
from scheduler.store import drivers, engine, jobs, location, migrate, opening, revisions, sqlite, upgrade
from scheduler.store.schema import Table
from tests.store.samples import queued, settings_at

SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    rebuilt = "always" if op.get_bind().dialect.name == "sqlite" else "never"
    with op.batch_alter_table("jobs", recreate=rebuilt) as jobs:
        jobs.add_column(sa.Column("colour", sa.Text(), nullable=True))
"""


@pytest.fixture
def at_home(tmp_path: Path) -> Settings:
    return settings_at(tmp_path)


def _clauses(path: Path) -> dict[str, list[str]]:
    """Each table's and index's statement, as its lines in any order: constraints come in one of their own."""
    with closing(sqlite.SqliteDatabase(path)) as db:
        rows = db.query("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'")
    return {
        row["name"]: sorted(line.strip(" \t,").replace('"', "") for line in row["sql"].splitlines()) for row in rows
    }


def test_migrations_end_where_the_models_are(at_home: Settings, tmp_path: Path) -> None:
    upgrade.upgrade(at_home)
    made = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'models.db'}")
    Table.metadata.create_all(made)
    made.dispose()
    assert _clauses(tmp_path / "mmq.db") == _clauses(tmp_path / "models.db")


# Alembic can't compare an index that descends; the test above does.
@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index")
def test_alembic_finds_nothing_to_add(settings: Settings) -> None:
    upgrade.upgrade(settings)
    made = engine.create(settings.database_url)
    with made.connect() as connection:
        changes = compare_metadata(MigrationContext.configure(connection), Table.metadata)
    descending = ("ix_jobs_queue", "ix_jobs_shortest")
    assert [change for change in changes if not any(name in str(change) for name in descending)] == []
    made.dispose()


def test_the_code_knows_every_revision() -> None:
    scripts = ScriptDirectory.from_config(migrate.configuration())
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == revisions.REVISIONS


def test_no_database_names_the_command(settings: Settings) -> None:
    for lean in (True, False):
        with pytest.raises(SchemaMismatch, match="no database") as caught:
            opening.open_database(settings, lean=lean)
        assert (caught.value.hint, caught.value.exit_code) == ("mmq up", ExitCode.SCHEMA)


def _set_revision(settings: Settings, revision: str) -> None:
    with closing(drivers.connect(settings.database_url, lean=False)) as db, db.transaction() as tx:
        tx.execute("UPDATE alembic_version SET version_num = :revision", revision=revision)


def test_a_newer_database_is_left_alone(settings: Settings) -> None:
    upgrade.upgrade(settings)
    _set_revision(settings, "9999")
    for attempt in (
        lambda: opening.open_database(settings, lean=True, create=True),
        lambda: upgrade.upgrade(settings),
    ):
        with pytest.raises(SchemaMismatch, match="9999, which a newer mmq wrote") as caught:
            attempt()
        assert caught.value.hint == "pip install --upgrade mmq"


def test_an_older_database_names_the_command(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    upgrade.upgrade(settings)
    monkeypatch.setattr(revisions, "REVISIONS", ("0001", "0002", "0003", "0004"))
    with pytest.raises(SchemaMismatch, match="revision 0003, this mmq needs 0004") as caught:
        opening.open_database(settings, lean=True, create=True)
    assert caught.value.hint == "mmq db upgrade"


@pytest.fixture
def two_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later mmq, whose second revision rebuilds the table that others refer to."""
    folder = tmp_path / "migrations 100%"
    shutil.copytree(Path(migrations.__file__).parent, folder)
    (folder / "versions" / "r0004_colour.py").write_text(SECOND)
    monkeypatch.setattr(migrations, "__file__", str(folder / "__init__.py"))
    monkeypatch.setattr(revisions, "REVISIONS", ("0001", "0002", "0003", "0004"))


def test_the_first_schema_s_rows_are_all_there_after_the_second(settings: Settings) -> None:
    migrate.migrate(settings.database_url, "0001")
    with closing(drivers.connect(settings.database_url, lean=False)) as db, db.transaction() as tx:
        columns = "id, name, kind, user_name, state, priority, spec, source, source_path, code_version, effective_batch"
        for job_id in (1, 2):
            tx.execute(
                f"INSERT INTO jobs ({columns}, gpus, out_of_memory_retries, crash_retries, submitted_at)"
                " VALUES (:id, 'old', 'sft', 'ada', 'queued', 0, '{}', '', '', '1', 8, 1, 0, 0, 1.0)",
                id=job_id,
            )
        tx.execute("INSERT INTO dependencies (job_id, depends_on) VALUES (2, 1)")
    upgrade.upgrade(settings)
    with closing(opening.open_database(settings, lean=True)) as db:
        assert [(job.id, job.array_id) for job in jobs.queue(db)] == [(1, None), (2, None)]
        assert db.query("SELECT job_id, depends_on FROM dependencies") == [{"job_id": 2, "depends_on": 1}]


def _with_dependents(settings: Settings) -> None:
    with closing(drivers.connect(settings.database_url, lean=False)) as db:
        first = queued(db)
        queued(db, depends_on=(first.id,))


def test_an_upgrade_copies_first_and_keeps_the_rows_that_refer(settings: Settings, two_revisions: None) -> None:
    migrate.migrate(settings.database_url, "0003")
    _with_dependents(settings)
    copy = upgrade.upgrade(settings)
    assert upgrade.upgrade(settings) is None
    with closing(opening.open_database(settings, lean=True)) as db:
        assert db.query("SELECT job_id, depends_on FROM dependencies") == [{"job_id": 2, "depends_on": 1}]
        assert len(db.query("SELECT id FROM events")) == 2
        assert db.query("SELECT colour FROM jobs WHERE id = 1") == [{"colour": None}]
    if location.sqlite_path(settings.database_url):
        assert copy is not None
        assert copy.stat().st_mode & 0o777 == 0o600
        with closing(sqlite.SqliteDatabase(copy)) as old:
            assert old.revision() == "0003"
            assert len(old.query("SELECT id FROM jobs")) == 2


def test_an_upgrade_that_fails_half_way_changes_nothing(
    settings: Settings, two_revisions: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate.migrate(settings.database_url, "0003")
    _with_dependents(settings)

    def fail(_connection: object) -> None:
        raise MmqError("stop here")

    with monkeypatch.context() as patch:
        patch.setattr(migrate, "_check_foreign_keys", fail)
        with pytest.raises(MmqError, match="stop here"):
            upgrade.upgrade(settings)
    with closing(drivers.connect(settings.database_url, lean=False)) as db:
        assert db.revision() == "0003"
        assert [job.id for job in jobs.queue(db)] == [1, 2]
    upgrade.upgrade(settings)


KILLED = """
import sys, time
from pathlib import Path
from scheduler.store import migrate, upgrade
from tests.store.samples import settings_at

def hang(connection):
    print("ready", flush=True)
    time.sleep(60)

migrate._check_foreign_keys = hang
upgrade.upgrade(settings_at(Path(sys.argv[1])))
"""


def test_killed_in_the_middle_it_starts_again(at_home: Settings) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(at_home.home)], stdout=subprocess.PIPE, text=True, env=_environment()
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=30)
    with pytest.raises(SchemaMismatch, match="no database"):
        opening.open_database(at_home, lean=True)
    with closing(opening.open_database(at_home, lean=True, create=True)) as db:
        assert queued(db).id == 1
        assert db.integrity() == []


def test_several_at_once_do_it_once(at_home: Settings) -> None:
    code = (
        "import sys; from pathlib import Path; from scheduler.store.opening import open_database;"
        " from tests.store.samples import settings_at;"
        " print(open_database(settings_at(Path(sys.argv[1])), lean=True, create=True).revision())"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(at_home.home)], stdout=subprocess.PIPE, text=True, env=_environment()
        )
        for _ in range(3)
    ]
    assert [child.communicate(timeout=60)[0] for child in children] == ["0003\n"] * 3


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}


def test_a_backup_is_taken_while_others_write(at_home: Settings, tmp_path: Path) -> None:
    with closing(opening.open_database(at_home, lean=True, create=True)) as db:
        queued(db)
        with db.transaction() as tx:
            tx.execute("UPDATE jobs SET name = 'not yet committed'")
            upgrade.backup(at_home, tmp_path / "copy.db")
    with closing(sqlite.SqliteDatabase(tmp_path / "copy.db")) as copy:
        assert copy.query("SELECT name FROM jobs") == [{"name": "tiny"}]
    with pytest.raises(MmqError, match="can't create"):
        upgrade.backup(at_home, tmp_path / "no" / "folder.db")


def test_a_strangers_database_is_refused(at_home: Settings) -> None:
    with closing(sqlite.library().connect(at_home.home / "mmq.db")) as stranger:
        stranger.execute("CREATE TABLE recipes (id INTEGER)")
    with pytest.raises(MmqError, match="is not an mmq database: it has a table 'recipes'"):
        upgrade.upgrade(at_home)


def test_the_home_and_the_file_are_private(tmp_path: Path) -> None:
    settings = settings_at(tmp_path / "state" / "mmq")
    with closing(opening.open_database(settings, lean=True, create=True)) as db:
        queued(db)
        assert settings.home.stat().st_mode & 0o777 == 0o700
        for path in settings.home.iterdir():
            assert path.stat().st_mode & 0o777 == 0o600, path
