"""`mmq submit`: what it stores, what it refuses and how it says so, and what it loads to do it."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scheduler.broker.doorbell import Doorbell
from scheduler.config import Settings
from scheduler.jobs import spec
from scheduler.jobs.states import EndReason
from scheduler.store import attempts, jobs
from scheduler.store.database import Database
from tests.acceptance.conftest import JOB, REPOSITORY, Mmq
from tests.store.samples import ends, queued

HEAVY = ("torch", "celery", "redis", "kombu", "sqlalchemy", "alembic")


def count(store: Database) -> int:
    return int(store.query("SELECT COUNT(*) AS jobs FROM jobs")[0]["jobs"])


def test_a_job_is_stored_and_its_id_printed(mmq: Mmq, store: Database, settings: Settings, job_file: Path) -> None:
    done = mmq("submit", job_file, "-o", "train.seed=7", "--priority", "3")
    assert (done.code, done.out) == (0, "1\n")
    job = jobs.get(store, 1)
    assert (job.name, job.kind, job.state, job.priority, job.effective_batch) == ("tiny", "pretrain", "queued", 3, 16)
    assert job.user_name == settings.user
    assert job.source.startswith(JOB)
    assert job.source.endswith("# submitted with -o train.seed=7\n# submitted with --priority=3\n")
    resolved = spec.decode(job.spec)
    assert resolved.train.seed == 7
    assert resolved.data.path == str(job_file.parent / "rows.jsonl")
    assert job.code_version.startswith("0.1.0+trainer.")


def test_json_has_the_promised_shape(mmq: Mmq, store: Database, job_file: Path) -> None:
    assert json.loads(mmq("submit", job_file, "--json").out) == {"id": 1, "name": "tiny", "state": "queued"}
    held = json.loads(mmq("submit", job_file, "--json", "--hold", "--name", "other").out)
    assert held == {"id": 2, "name": "other", "state": "held"}


def test_without_a_service_it_warns_and_the_job_is_stored(mmq: Mmq, store: Database, job_file: Path) -> None:
    done = mmq("submit", job_file)
    assert done.code == 0
    assert done.err == ("warning: job 1 is stored; the service is not running, so nothing starts yet\n  hint: mmq up\n")


def test_a_fresh_home_gets_its_store(shell: Mmq, settings: Settings, job_file: Path) -> None:
    done = shell("$MMQ submit tiny.yaml")
    assert (done.code, done.out) == (0, "1\n")
    assert settings.home.stat().st_mode & 0o777 == 0o700


def test_a_silent_broker_costs_a_warning_and_little_time(
    mmq: Mmq, store: Database, settings: Settings, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung, Doorbell.listen(settings) as bell:
        monkeypatch.setenv("MMQ_BROKER_URL", f"redis://:secret@127.0.0.1:{hung.getsockname()[1]}/0")
        began = time.monotonic()
        done = mmq("submit", job_file)
        assert time.monotonic() - began < 30
        assert bell.answer(), "the controller was not rung"
    assert done.code == 0
    assert "job 1 is stored; the broker at redis://127.0.0.1" in done.err
    assert "secret" not in done.err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("train:", "trian:"), ["tiny.yaml:7: trian: unknown key", "hint: did you mean train?"]),
        (("max_seq_len: 32", "max_seq_len: long"), ["tiny.yaml:6: data.max_seq_len: must be a whole number"]),
        (
            ("batch_size: 8", "batch_size: -8"),
            ["tiny.yaml:7: train.batch_size: must", "got -8\n  hint: for example"],
        ),
        (("rows.jsonl", "row.jsonl"), ["tiny.yaml:5: data.path: there is no file", "did you mean rows.jsonl?"]),
    ],
)
def test_a_bad_job_file_is_refused(
    mmq: Mmq, store: Database, job_file: Path, change: tuple[str, str], told: list[str]
) -> None:
    job_file.write_text(JOB.replace(*change))
    done = mmq("submit", job_file)
    assert (done.code, done.out) == (2, "")
    assert all(part in done.err for part in told), done.err
    assert count(store) == 0


@pytest.mark.parametrize("where", ["path", "validation"])
def test_a_broken_data_line_is_refused(mmq: Mmq, store: Database, job_file: Path, where: str) -> None:
    bad = job_file.parent / "bad.jsonl"
    bad.write_text('{"text": "one"}\n{"text": \n')
    done = mmq("submit", job_file, "-o", f"data.{where}=bad.jsonl")
    assert done.code == 2
    assert f"{bad}:2: is " in done.err
    assert "hint: " in done.err
    assert count(store) == 0


def test_a_job_file_in_a_directory_whose_name_is_no_text_is_refused(
    mmq: Mmq, store: Database, job_file: Path, tmp_path: Path
) -> None:
    nameless = tmp_path / os.fsdecode(b"a\xff")
    nameless.mkdir()
    (nameless / "tiny.yaml").write_text(job_file.read_text())
    done = mmq("submit", nameless / "tiny.yaml")
    assert (done.code, done.out) == (2, "")
    assert "has a path that is not UTF-8 text" in done.err


@pytest.mark.parametrize("name", ["größe", "数据-1", "🦊", "e\u0301"])
def test_a_name_in_any_script_is_a_name(mmq: Mmq, store: Database, job_file: Path, name: str) -> None:
    assert mmq("submit", job_file, "--name", name).code == 0
    assert json.loads(mmq("status", name, "--json").out)["jobs"][0]["name"] == name
    assert name in mmq("status").out


def test_an_empty_key_is_no_key(mmq: Mmq, store: Database, job_file: Path) -> None:
    done = mmq("submit", job_file, "--key", "")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: --key is empty\n  hint: name one, or leave --key out\n"


def test_the_same_key_gives_the_same_job(mmq: Mmq, store: Database, job_file: Path) -> None:
    assert [mmq("submit", job_file, "--key", "k").out for _ in range(2)] == ["1\n", "1\n"]
    assert mmq("submit", job_file, "--key", "other").out == "2\n"
    job_file.unlink()
    assert mmq("submit", job_file, "--key", "k").out == "1\n", "whatever became of its file"


def test_dependencies(mmq: Mmq, store: Database, job_file: Path) -> None:
    mmq("submit", job_file, "--name", "first")
    mmq("submit", job_file, "--name", "second")
    assert mmq("submit", job_file, "-o", "init_from=first", "--after", "1-2").code == 0
    assert [job for job, _ in jobs.dependencies(store, [3])[3]] == [1, 2]
    assert json.loads(jobs.get(store, 3).spec)["init_from"] == {"job": 1}


def test_references_that_lead_nowhere(mmq: Mmq, store: Database, job_file: Path) -> None:
    assert mmq("submit", job_file, "--after", "7").code == 3
    done = mmq("submit", job_file, "-o", "init_from=nobody")
    assert done.code == 2
    assert "-o init_from: there is no job named 'nobody'" in done.err
    mmq("submit", job_file)
    done = mmq("submit", job_file, "-o", "init_from=tiny", "-o", "model.num_hidden_layers=3")
    assert done.code == 2
    assert "job 1 trains another model: num_hidden_layers 2 and not 3" in done.err
    assert "hint: model: {num_hidden_layers: 2}\n" in done.err
    assert count(store) == 1


def test_all_that_differs_from_the_first_model_is_told_at_once(mmq: Mmq, store: Database, job_file: Path) -> None:
    mmq("submit", job_file)
    other = job_file.with_name("other.yaml")
    lines = job_file.read_text().splitlines(keepends=True)
    without = "".join(line for line in lines if not line.startswith("model:")) + "init_from: tiny\n"
    other.write_text(without + "model: {preset: minimind-3}\n")
    done = mmq("submit", other)
    hint = done.err.rpartition("hint: ")[2].strip()
    assert done.code == 2
    assert "hidden_size 64 and not 768" in done.err
    assert "head_dim" not in done.err  # follows from the others
    other.write_text(f"{without}{hint}\n")
    assert mmq("submit", other).code == 0


def test_a_file_without_a_model_takes_that_of_the_job_it_starts_from(mmq: Mmq, store: Database, job_file: Path) -> None:
    mmq("submit", job_file, "-o", "model.max_position_embeddings=64")
    other = job_file.with_name("other.yaml")
    lines = job_file.read_text().splitlines(keepends=True)
    other.write_text("".join(line for line in lines if not line.startswith("model:")) + "init_from: tiny\nmodel:\n")
    assert mmq("submit", other).code == 0
    first, second = (json.loads(jobs.get(store, job).spec)["model"] for job in (1, 2))
    assert first == second
    told = json.loads(mmq("estimate", other, "-o", "init_from=1", "--gpu", "1GiB", "--json").out)
    assert told["parameters"] == json.loads(mmq("estimate", job_file, "--gpu", "1GiB", "--json").out)["parameters"]
    done = mmq("submit", other, "-o", "init_from=1", "-o", "data.max_seq_len=65")
    assert done.code == 2
    assert "65 tokens are more than the max_position_embeddings (64) of the model of init_from" in done.err


def test_what_an_option_said_is_called_by_the_option(mmq: Mmq, store: Database, job_file: Path) -> None:
    assert "error: --name: must be" in mmq("submit", job_file, "--name", "a b").err
    assert "error: --priority: must be" in mmq("submit", job_file, "--priority", "high").err
    assert "error: -o name: must be" in mmq("submit", job_file, "-o", "name=a b").err


def test_a_dry_run_makes_nothing(mmq: Mmq, settings: Settings, job_file: Path) -> None:
    done = mmq("submit", job_file, "--dry-run")
    assert done.code == 0
    assert "nothing was stored" in done.out
    assert "all 2 rows are good" in done.out
    told = json.loads(mmq("submit", job_file, "--dry-run", "--json").out)
    assert (told["id"], told["effective_batch"], told["spec"]["train"]["max_steps"]) == (None, 16, 10)
    assert not settings.home.exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("resources.gpus=5", "asks for 5 GPUs, but there are 2 devices here\n  hint: gpus: 2 or fewer"),
        ("resources.gpus=17", "asks for 17 GPUs, but there are 2 devices here\n  hint: gpus: 2 or fewer"),
        ("model.hidden_size=8192", "the largest device here, virtual:0, has 1.0 GiB\n  hint: a device of more than"),
        ("resources.max_memory=1MiB", "more than the 1.0 MiB allowed\n  hint: max_memory: 1GiB"),
        ("model.num_experts_per_tok=5", "num_experts_per_tok (5) is more than num_experts (4)"),
    ],
)
def test_the_impossible_is_refused_naming_what_would_do(
    mmq: Mmq, store: Database, job_file: Path, override: str, told: str
) -> None:
    done = mmq("submit", job_file, "-o", override)
    assert done.code == 2
    assert told in done.err
    assert count(store) == 0


def test_waiting_gives_the_job_s_own_exit_code(
    mmq: Mmq, store: Database, job_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.store.samples import running, with_device

    with_device(store)
    job = queued(store, submit_key="k")
    attempts.finish(store, running(store, job).id, ends(EndReason.NON_FINITE_LOSS, exit_code=81), at=9.0)
    done = mmq("submit", job_file, "--key", "k", "--wait")
    assert (done.code, done.out) == (81, "1\n")
    assert "job 1 failed (non finite loss)" in done.err


def test_a_job_acknowledged_just_before_a_kill_is_there_and_keeps_its_id(
    settings: Settings, store: Database, job_file: Path, mmq: Mmq
) -> None:
    command = [sys.executable, "-m", "scheduler", "submit", str(job_file), "--wait"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ) as submitting:
        assert submitting.stdout is not None
        assert submitting.stdout.readline() == b"1\n"
        submitting.kill()
    assert jobs.get(store, 1).state == "queued"
    assert mmq("submit", job_file).out == "2\n"


def test_a_long_queue_does_not_fill_the_screen(mmq: Mmq, store: Database, job_file: Path) -> None:
    mmq("submit", job_file)
    columns = "name, kind, user_name, state, priority, spec, source, source_path, code_version, effective_batch, gpus"
    columns += ", out_of_memory_retries, crash_retries, submitted_at"
    with store.transaction() as tx:
        tx.execute(
            f"INSERT INTO jobs ({columns}) WITH RECURSIVE n(i) AS"
            f" (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT {columns} FROM jobs, n"
        )
    assert mmq("submit", job_file).out == "5002\n"
    assert len(mmq("status").out.splitlines()) < 60


@pytest.mark.parametrize("command", ["--help", "submit tiny.yaml", "status", "submit --help"])
def test_nothing_heavy_is_loaded(shell: Mmq, store: Database, job_file: Path, command: str) -> None:
    program = (
        "import sys; from scheduler.__main__ import main; code = main(sys.argv[1:]);"
        f" loaded = [name for name in {HEAVY!r} if name in sys.modules];"
        " sys.exit(code or (f'loaded: {loaded}' if loaded else 0))"
    )
    done = shell(f'{{ set -- $MMQ; "$1" -c "{program}" {command}; }}')
    assert done.code == 0, done.err
