"""Failures seen in other schedulers, each on the real service and real trainers; its docstring says what was seen."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.acceptance.workplace import PATIENCE_SECONDS, REPOSITORY, SLOWLY, Workplace, gone, kill, until

pytestmark = pytest.mark.timeout(600)  # the default is for tests without a real trainer in them

MIB = 1024**2


@pytest.mark.parametrize("moment", ["as it was acknowledged", "while it trained"])
def test_an_acknowledged_submit_survives_kill_9_of_everything(moment: str, own_place: Workplace) -> None:
    """A submit acknowledged just before kill -9 is lost, its id given again, and the start wants a cleanup."""
    own_place.up()
    job = own_place.submit()
    if moment == "while it trained":
        own_place.until_steps(job, more=3)
    own_place.crash()
    assert own_place.submit("tiny.yaml", "--hold") == job + 1
    assert "mmq is up" in own_place.up()
    assert own_place.until_ended(job) == ["succeeded"]
    assert len(set(own_place.losses(job))) == 120


def test_what_only_the_tracer_finds_impossible_fails_and_names_what_would_do(place: Workplace) -> None:
    """Impossible requests wait for ever, or start; this one shows only with activations, workspace and context."""
    plain = {"activation_checkpointing": "off", "optimizer_offload": "off"}
    place.job_file("capped", memory=plain, resources={"max_memory": "66MiB"})
    place.job_file("fat", memory=plain, model={"hidden_size": 1024, "intermediate_size": 4096})
    capped, fat = place.submit("capped.yaml"), place.submit("fat.yaml")
    assert place.until_ended(capped, fat) == ["failed", "failed"]
    story = place.story(capped)
    assert (story["reason"], story["attempts"]) == ("does_not_fit", [])
    assert re.search(r"needs at least \d.* MiB, with micro-batch 1.*max_memory is 66", story["message"])
    assert re.search(r"largest device, virtual.*, has 256 MiB: a device of .* would do", place.story(fat)["message"])


MISTAKES = (
    "submit nowhere.yaml",
    "submit rows.jsonl",
    "submit tiny.yaml -o train.max_stpes=3",
    "submit tiny.yaml --after 999999",
    "status 999999",
    "status 0-",
    "logs 999999",
    "cancel nobody",
    "wait 999999",
    "frobnicate",
    "up --devices virtal:2x1GiB",
    "estimate tiny.yaml --gpu nonsense",
)


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_is_answered_in_plain_words(words: str, place: Workplace) -> None:
    """A 12-frame backtrace for a user's error; colour codes in a pipe."""
    done = place.mmq(*words.split())
    assert done.code in (2, 3)
    assert done.out == ""
    assert done.err.startswith("error: ") or re.match(r"\S+:", done.err)
    assert "hint: " in done.err
    assert not re.search(r"Traceback|\x1b|File \"", done.err)


@pytest.mark.parametrize("words", ["status", "status --all", "status {job}", "logs {job}", "gpus", "doctor", "--help"])
def test_no_colour_in_a_pipe_and_no_noise_under_head(words: str, place: Workplace) -> None:
    """Colour codes in a pipe; a traceback under `| head`."""
    _ = place.undisturbed
    words = words.format(job=place.query("SELECT MIN(id) AS id FROM jobs WHERE state = 'succeeded'")[0]["id"])
    whole = place.shell(f"$MMQ {words} | cat")
    assert (whole.code, whole.err) == (0, "")
    assert whole.out
    assert "\x1b" not in whole.out
    head = place.shell(f"$MMQ {words} | head -n 1")
    assert (head.code, head.err) == (0, "")
    assert head.out.count("\n") == 1


def test_a_trainer_says_in_plain_words_what_the_person_did(place: Workplace) -> None:
    """Data that was good at submit and is gone when the job starts."""
    place.write_rows("fleeting.jsonl", ["here today"])
    place.job_file("fleeting", data={"path": "fleeting.jsonl"})
    job = place.submit("fleeting.yaml", "--hold")
    (place.root / "fleeting.jsonl").unlink()
    place.ok("release", str(job))
    assert place.until_ended(job) == ["failed"]
    assert "fleeting.jsonl" in place.story(job)["message"]
    log = place.mmq("logs", str(job))
    assert "Traceback" not in log.out + log.err


@pytest.mark.parametrize("shim_dies_too", [False, True])
def test_the_service_dies_and_the_job_s_success_is_still_recorded(shim_dies_too: bool, place: Workplace) -> None:
    """The scheduler dies while a job runs; the job exits 0 and is recorded failed."""
    job = place.submit("tiny.yaml", *SLOWLY)
    trainer = place.until_steps(job, more=3)
    if shim_dies_too:
        kill(place.shim(job))
    service, children = place.service(), place.children()
    os.kill(service, signal.SIGKILL)
    until(lambda: all(map(gone, (service, *children.values()))), "the end of the service")
    until(lambda: gone(trainer), "the end of the trainer")
    if not shim_dies_too:
        assert place.until_ended(job) == ["succeeded"], "its shim needs nobody to write that down"
    place.up()
    assert place.until_ended(job) == ["succeeded"]
    (attempt,) = place.story(job)["attempts"]
    assert (attempt["reason"], attempt["exit_code"]) == ("done", 0)


def test_a_job_that_is_too_large_is_never_tried_again_unchanged(place: Workplace) -> None:
    """A job that is too large is retried unchanged until its retries are gone."""
    place.job_file(
        "greedy",
        train={"batch_size": 64, "max_steps": 3},
        memory={"micro_batch": 64, "activation_checkpointing": "off", "optimizer_offload": "off"},
        resources={"max_memory": "87MiB"},
    )
    job = place.submit("greedy.yaml")
    place.until_ended(job)
    story = place.story(job)
    tried = [event["micro_batch"] for event in place.events(job, "out_of_memory")]
    assert tried[0] == 64
    assert tried == sorted(set(tried), reverse=True), "each try is smaller than the one before"
    assert story["state"] == "succeeded", story["message"]


MANY = """
from scheduler.cli.run import run
for _ in range(1000):
    assert run(["submit", "tiny.yaml"]) == 0
"""


@pytest.mark.timeout(900)
def test_a_thousand_queued_jobs_hang_nobody(place: Workplace) -> None:
    """A thousand queued jobs hang the submitter. That submits don't slow with the queue, `make bench-cli` shows."""
    bulk = place.start(command=("-c", MANY))
    out, err = bulk.communicate(timeout=4 * PATIENCE_SECONDS)
    assert bulk.returncode == 0, err
    jobs = [int(word) for word in out.split()]
    first, last = jobs[0], jobs[-1]
    assert jobs == list(range(first, first + 1000))
    urgent = place.submit("tiny.yaml", "--priority", "9")
    assert place.until_ended(urgent) == ["succeeded"]
    assert place.query("SELECT COUNT(*) AS jobs FROM jobs WHERE state = 'queued'")[0]["jobs"] > 900
    place.ok("cancel", f"{first}-{last}")
    states = "SELECT DISTINCT state FROM jobs WHERE id BETWEEN :first AND :last"
    over = {"succeeded", "cancelled"}
    until(lambda: {row["state"] for row in place.query(states, first=first, last=last)} <= over, "the end of them all")


CHILDREN = """
import os, pathlib, subprocess, sys
here = pathlib.Path(__file__).parent
if "trainer" in sys.orig_argv and os.environ.get("MMQ_JOB_ID") == (here / "job").read_text():
    quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shell = "trap '' TERM; sleep 1000 & wait; sleep 1000"
    started = [subprocess.Popen(["sh", "-c", shell], start_new_session=own, **quiet).pid for own in (False, True)]
    (here / "new").write_text(" ".join(map(str, started)))
    (here / "new").rename(here / "pids")
"""


def test_cancelling_a_running_job_ends_its_whole_tree_of_processes(own_place: Workplace) -> None:
    """Cancel works on pending jobs only; children survive the kill."""
    plant = own_place.root / "plant"
    plant.mkdir()
    (plant / "sitecustomize.py").write_text(CHILDREN)
    (plant / "job").write_text("1")
    own_place.environment["PYTHONPATH"] = f"{plant}:{REPOSITORY}"
    own_place.up()
    job = own_place.submit("tiny.yaml", "-o", "train.max_steps=100000")
    trainer = own_place.until_steps(job, more=1)
    started = [int(pid) for pid in (plant / "pids").read_text().split()]
    until(lambda: [len(children_of(pid)) for pid in started] == [1, 1], "a child of each of its children")
    children = [*started, *(int(word) for pid in started for word in children_of(pid))]
    assert not any(map(gone, (trainer, *children)))
    own_place.ok("cancel", str(job))
    assert own_place.until_ended(job) == ["cancelled"]
    until(lambda: all(map(gone, (trainer, *children))), "the end of the whole tree")


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_jobs_that_have_not_allocated_yet_are_counted(place: Workplace) -> None:
    """Several jobs start before the first has allocated: "128 jobs would start at once"."""
    jobs = [place.submit("tiny.yaml", "--hold") for _ in range(6)]
    with place.halted(place.child("worker")):  # so that nobody starts
        place.ok("release", f"{jobs[0]}-{jobs[-1]}")
        until(lambda: live(place) >= 2, "a job on each device")
        until(lambda: re.search(r"\d", place.story(jobs[-1])["waiting"] or ""), "why the last one waits, with numbers")
        assert [place.events(job, "started") for job in jobs] == [[]] * 6, "nobody has allocated yet"
        assert has_room(place)

    def over() -> bool:
        assert has_room(place)
        return not {"queued", "admitted", "running"} & {place.state(job) for job in jobs}

    until(over, "the end of all six")
    assert [place.state(job) for job in jobs] == ["succeeded"] * 6
    assert not [event for job in jobs for event in place.events(job, "out_of_memory")]


def live(place: Workplace) -> int:
    return int(place.query("SELECT COUNT(*) AS attempts FROM attempts WHERE state <> 'ended'")[0]["attempts"])


def has_room(place: Workplace) -> bool:
    """Whether no more attempts live, and no more is promised, than the two devices have room for."""
    rows = place.query("SELECT SUM(reserved_bytes) AS bytes FROM reservations GROUP BY device_id")
    return live(place) <= 4 and all(row["bytes"] <= 256 * MIB for row in rows)
