"""The commands on PostgreSQL, where it is installed: a queue of jobs, and a database restored from an older dump."""

import importlib.util
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import Mmq
from tests.postgres import programs, server

pytestmark = pytest.mark.skipif(
    programs() is None or importlib.util.find_spec("psycopg") is None, reason="no PostgreSQL is installed"
)


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, mmq: Mmq) -> Iterator[str]:
    with server() as address:
        monkeypatch.setenv("MMQ_DATABASE_URL", address)
        yield address


def of_postgres(program: str, url: str, *arguments: str | Path) -> None:
    found = programs()
    assert found is not None
    command = [found / program, "--dbname", url, *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)


def test_jobs_come_back_after_an_older_dump_was_restored(mmq: Mmq, url: str, job_file: Path, tmp_path: Path) -> None:
    assert mmq("submit", job_file, "--name", "first").out == "1\n"
    of_postgres("pg_dump", url, "--format=custom", "--file", tmp_path / "dump")
    assert mmq("submit", job_file, "--name", "second", "--after", "first").out == "2\n"
    assert mmq("submit", job_file, "--name", "rates", "--sweep", "train.seed=1,2").out == "3-4\n"
    before = {job["id"]: job["depends_on"] for job in json.loads(mmq("status", "1-4", "--json").out)["jobs"]}

    of_postgres("pg_restore", url, "--clean", "--if-exists", tmp_path / "dump")
    assert mmq("status", "2").code == 3
    assert "the database knows no job 2 (second), but its run directory exists (never started)" in mmq("doctor").out
    fixed = json.loads(mmq("doctor", "--fix", "--json").out)["fixed"]
    assert fixed == ["restored jobs 2-4: they are held; `mmq release 2-4` lets them go on"]
    assert {job["id"]: job["depends_on"] for job in json.loads(mmq("status", "1-4", "--json").out)["jobs"]} == before
    assert mmq("release", "2-4").code == 0
    assert mmq("submit", job_file).out == "5\n"
    assert "its invariants hold" in mmq("doctor").out


def test_no_id_is_given_that_a_directory_has(mmq: Mmq, url: str, job_file: Path, tmp_path: Path) -> None:
    assert mmq("submit", job_file).out == "1\n"
    of_postgres("pg_dump", url, "--format=custom", "--file", tmp_path / "dump")
    assert mmq("submit", job_file, "--name", "rates", "--sweep", "train.seed=1,2").out == "2-3\n"

    of_postgres("pg_restore", url, "--clean", "--if-exists", tmp_path / "dump")
    assert mmq("submit", job_file).out == "4\n"  # nobody mended before
    fixed = json.loads(mmq("doctor", "--fix", "--json").out)["fixed"]
    assert fixed == ["restored jobs 2-3: they are held; `mmq release 2-3` lets them go on"]
    assert mmq("submit", job_file).out == "5\n"


def test_what_people_do_with_jobs(mmq: Mmq, url: str, job_file: Path) -> None:
    assert mmq("submit", job_file, "--key", "k").out == "1\n"
    assert mmq("submit", job_file, "--key", "k").out == "1\n"
    assert mmq("hold", "@").out == "1 held\n"
    assert mmq("release", "tiny").out == "1 queued\n"
    assert mmq("cancel", "1").out == "1 cancelled\n"
    assert mmq("retry", "1").out == "1 queued\n"
    assert "queued -> cancelled" in mmq("events", "1").out
    assert 'mmq_jobs{state="queued"} 1' in mmq("metrics").out
    assert mmq("db", "upgrade").out == "the database is up to date\n"
    assert mmq("db", "backup").err.endswith("hint: pg_dump --help\n")
