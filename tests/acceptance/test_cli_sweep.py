"""A sweep: an array of jobs that is checked whole, stored at once, shown on one line, and cancelled as one."""

import json
import time
from pathlib import Path

import pytest

from scheduler.config import Settings
from scheduler.errors import UsageError
from scheduler.jobs import spec
from scheduler.jobs.states import JobState
from scheduler.jobs.sweep import MOST_MEMBERS, members
from scheduler.store import jobs
from scheduler.store.database import Database
from tests.acceptance.conftest import Mmq
from tests.store.samples import new_job, queued

SIX = ("--sweep", "train.learning_rate=1e-4,3e-4", "--sweep", "model.num_hidden_layers=1,2,3")


def test_the_members_are_all_combinations() -> None:
    assert members([]) == [()]
    assert members(["a.b=1,2", "c= x ,[1,2],{k: 1, l: 2}"]) == [
        (f"a.b={first}", f"c={second}") for first in (1, 2) for second in ("x", "[1,2]", "{k: 1, l: 2}")
    ]


@pytest.mark.parametrize(
    ("sweeps", "reason"),
    [
        (["a.b"], "names no field"),
        (["a.b="], "names no field"),
        (["=1,2"], "names no field"),
        (["a=1,,2"], "names no field"),
        (["a=1,1"], "has a value twice"),
        (["a=1", "a=2"], "is given twice"),
        (["a=" + ",".join(map(str, range(40))), "b=" + ",".join(map(str, range(40)))], f"{MOST_MEMBERS:,} at most"),
    ],
)
def test_what_is_no_sweep_is_refused(sweeps: list[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        members(sweeps)


def test_a_sweep_is_an_array_stored_at_once(mmq: Mmq, store: Database, job_file: Path) -> None:
    queued(store)
    done = mmq("submit", job_file, *SIX)
    assert (done.code, done.out) == (0, "2-7\n")
    assert "jobs 2-7 are stored; the service is not running" in done.err
    stored = [jobs.get(store, job_id) for job_id in range(2, 8)]
    assert {(job.array_id, job.name, job.submitted_at) for job in stored} == {(2, "tiny", stored[0].submitted_at)}
    asked = [(resolved.train.learning_rate, resolved.model.num_hidden_layers) for resolved in map(_spec, stored)]
    assert asked == [(rate, layers) for rate in (1e-4, 3e-4) for layers in (1, 2, 3)]
    assert stored[5].variant == "train.learning_rate=3e-4 model.num_hidden_layers=3"
    assert "# submitted with -o model.num_hidden_layers=3" in stored[5].source


def _spec(job: jobs.Job) -> spec.JobSpec:
    return spec.decode(job.spec)


def test_one_bad_member_and_nothing_is_stored(mmq: Mmq, store: Database, job_file: Path) -> None:
    done = mmq("submit", job_file, "--sweep", "model.num_hidden_layers=1,2,0")
    assert done.code == 2
    assert "num_hidden_layers" in done.err
    done = mmq("submit", job_file, "--sweep", "model.num_hidden_layers=1,2", "--after", "77")
    assert done.code == 3
    assert store.query("SELECT id FROM jobs") == []


def test_json_lists_the_ids_and_a_key_gives_the_same_array(mmq: Mmq, store: Database, job_file: Path) -> None:
    first = json.loads(mmq("submit", job_file, *SIX, "--json", "--key", "k").out)
    assert (first["array"], first["ids"]) == (1, [1, 2, 3, 4, 5, 6])
    assert [job["variant"] for job in first["jobs"]][:1] == ["train.learning_rate=1e-4 model.num_hidden_layers=1"]
    assert json.loads(mmq("submit", job_file, *SIX, "--json", "--key", "k").out) == first
    dry = json.loads(mmq("submit", job_file, *SIX, "--json", "--dry-run").out)
    assert [job["id"] for job in dry["jobs"]] == [None] * 6
    assert len(store.query("SELECT id FROM jobs")) == 6


def test_it_is_shown_on_one_line_and_expanded_on_demand(mmq: Mmq, store: Database, job_file: Path) -> None:
    queued(store, name="before")
    mmq("submit", job_file, *SIX)
    queued(store, name="behind")
    jobs.hold(store, 3, at=time.time())
    shown = mmq("status").out
    first_words = [line.split()[0] for line in shown.splitlines() if line]
    assert [word for word in first_words if word in ("1", "@2", "8")] == ["1", "@2", "8"]
    assert "array of 6: 5 queued, 1 held" in shown
    assert shown.count("tiny") == 1
    assert "not shown" not in shown
    expanded = mmq("status", "--expand").out
    assert expanded.count("tiny learning_rate=") == 6
    assert len(json.loads(mmq("status", "--json").out)["jobs"]) == 8


def test_a_large_array_leaves_room_for_others(mmq: Mmq, store: Database) -> None:
    jobs.submit_array(store, [new_job(name="large", variant=f"train.seed={seed}") for seed in range(200)], at=1.0)
    queued(store, name="behind")
    shown = mmq("status").out
    assert "behind" in shown
    assert "array of 200: 200 queued" in shown


def test_by_its_name_or_any_member_it_is_cancelled_as_one(mmq: Mmq, store: Database, job_file: Path) -> None:
    mmq("submit", job_file, *SIX, "--name", "rates")
    after = mmq("submit", job_file, "--after", "rates").out.strip()
    assert jobs.dependencies(store, [int(after)])[int(after)] == [(job_id, JobState.QUEUED) for job_id in range(1, 7)]
    assert jobs.resolve(store, ["@4"]) == jobs.resolve(store, ["rates"]) == [1, 2, 3, 4, 5, 6]
    done = mmq("cancel", "3")
    assert done.out == "3 cancelled\n"
    assert mmq("cancel", "rates").code == 0
    assert {jobs.get(store, job_id).state for job_id in range(1, 7)} == {JobState.CANCELLED}
    assert jobs.get(store, int(after)).state is JobState.FAILED
    assert mmq("cancel", f"@{after}").code == 3


def test_a_name_that_others_have_too_is_no_array_s(
    mmq: Mmq, store: Database, job_file: Path, settings: Settings
) -> None:
    queued(store, name="tiny")
    mmq("submit", job_file, *SIX)
    done = mmq("cancel", "tiny")
    assert done.code == 2
    assert "several jobs are named 'tiny'" in done.err
