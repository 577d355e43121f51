"""One job over two devices in a real service: beside another, with the curve of one device, and nothing left of it."""

import contextlib
import random
from pathlib import Path

import pytest

from scheduler.processes.process_tree import descendants
from tests.acceptance.test_must_hold_elastic import MIB, attempt, ten_have_run
from tests.acceptance.workplace import WORDS, Workplace
from tests.processes import PATIENCE_SECONDS, gone, kill, memory_taken, network_sockets, until

pytestmark = pytest.mark.timeout(600)

SHORT = ("tiny.yaml", "-o", "train.max_steps=24", "-o", "train.save_interval=6")
SEVERAL = (*SHORT, "-o", "resources.gpus=2")
ENDLESS = ("-o", "train.max_steps=100000")


def launcher(place: Workplace, job: int) -> int:
    """The process that the shim has started: torch's launcher."""
    found = place.query("SELECT pid FROM attempts WHERE job_id = :job ORDER BY number DESC LIMIT 1", job=job)
    return int(found[0]["pid"])


def ranks(place: Workplace, job: int) -> dict[int, int]:
    """The pids of the processes that train, by their number."""
    found = {}
    for pid in sorted(descendants(launcher(place, job)), reverse=True):  # a child that a rank forks says what it says
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            found |= {int(one[5:]): pid for one in environment if one.startswith(b"RANK=")}
    return found


def reserved(place: Workplace, job: int) -> dict[str, int]:
    rows = place.query(
        "SELECT device_id, reservations.reserved_bytes FROM reservations"
        " JOIN attempts ON attempts.id = reservations.attempt_id WHERE job_id = :job",
        job=job,
    )
    return {row["device_id"]: row["reserved_bytes"] for row in rows}


def test_beside_a_job_of_one_device_killed_and_retried_it_has_the_curve_of_one(place: Workplace) -> None:
    alone = place.submit(*SHORT)
    neighbour = place.submit("tiny.yaml", *ENDLESS)
    job = place.submit(*SEVERAL)
    until(lambda: place.events(job, "checkpoint"), "a checkpoint")
    assert place.state(neighbour) == "running"
    promised, pids, parent = reserved(place, job), ranks(place, job), launcher(place, job)
    assert set(promised) == {"virtual-0@here", "virtual-1@here"}
    ledgers = [place.settings.ledger_dir / f"virtual-{number}" for number in (0, 1)]
    held = [{int(entry.name.split("-")[0]) for entry in ledger.glob("*-*")} for ledger in ledgers]
    assert pids[0] in held[0] - held[1]
    assert pids[1] in held[1] - held[0]
    assert network_sockets(parent), "torch's launcher, alone"
    assert network_sockets(place.service(), *place.children().values(), place.shim(job)) == set()

    kill(pids[1])
    assert place.until_ended(job, alone) == ["succeeded", "succeeded"]
    assert all(map(gone, (parent, *pids.values())))
    first, second = place.story(job)["attempts"]
    assert (first["device"], first["reason"], first["exit_code"]) == ("virtual:0,1", "exit_code", 1)
    assert "another process of this run has gone" in first["message"]
    assert (second["device"], second["reason"], second["exit_code"]) == ("virtual:0,1", "done", 0)
    assert second["micro_batch"] * second["accumulation_steps"] == 4  # of the 8 rows of a step
    assert place.events(job, "started")[-1]["step"] >= 6
    assert max(event["process_peak_bytes"] for event in place.events(job, "step")) <= min(promised.values())
    assert place.losses(job) == pytest.approx(place.losses(alone), rel=1e-6)
    assert reserved(place, job) == {}


def test_adopted_and_killed_and_cancelled_nothing_of_it_is_left(place: Workplace) -> None:
    """An adopting shim is no ancestor of what the killed ones left: its processes must end by themselves."""
    job = place.submit(*SEVERAL, *ENDLESS)
    place.until_steps(job, more=2)
    pids, shim = ranks(place, job), place.shim(job)
    kill(shim)
    until(lambda: place.known_shim(job) != shim, "another shim")
    place.until_steps(job, more=2)
    assert not any(map(gone, pids.values()))
    kill(launcher(place, job))
    until(lambda: all(map(gone, pids.values())), "their end, before they are evicted", within_seconds=30)

    until(lambda: len(place.events(job, "started")) == 2, "another attempt")
    place.until_steps(job, more=2)
    pids = ranks(place, job)
    assert len(pids) == 2
    place.ok("cancel", str(job))
    assert place.until_ended(job) == ["cancelled"]
    assert all(map(gone, (launcher(place, job), *pids.values())))
    assert place.events(job)[-1]["exit_code"] == 75  # it was not killed
    assert [attempt["reason"] for attempt in place.story(job)["attempts"]] == ["lost", "cancelled"]


@pytest.mark.timeout(900)
def test_a_divided_model_that_runs_out_in_one_process_goes_on_with_half_the_micro_batch(place: Workplace) -> None:
    """Two long rows among short ones, at most one in the batch of a process: where it comes 8 rows are too many."""
    draw = random.Random(3)
    place.write_rows("uneven.jsonl", [" ".join(draw.choices(WORDS, k=600 if n in (20, 40) else 30)) for n in range(64)])
    place.job_file(
        "divided",
        data={"path": "uneven.jsonl", "max_seq_len": 512},
        train={"batch_size": 16, "max_steps": 8, "save_interval": 1},
        memory={"micro_batch": 8, "activation_checkpointing": "off", "optimizer_offload": "off"},
        resources={"max_memory": "92MiB"},
    )
    alone = place.submit("divided.yaml", "-o", "memory.micro_batch=auto")
    job = place.submit("divided.yaml", "-o", "resources.gpus=2", "-o", "memory.sharding=zero3")
    within_seconds = 3 * PATIENCE_SECONDS  # two processes, which both import FSDP, and its trace
    assert place.until_ended(job, alone, within_seconds=within_seconds) == ["succeeded", "succeeded"]
    (only,) = place.story(job)["attempts"]
    assert (only["reason"], only["plan"]["micro_batch"], only["plan"]["sharding"]) == ("done", 8, "zero3")
    refused = place.events(job, "out_of_memory")
    assert [event["new_micro_batch"] for event in refused] == [4, 2, 1][: len(refused)]
    assert only["micro_batch"] == refused[-1]["new_micro_batch"]
    assert only["micro_batch"] * only["accumulation_steps"] == 8  # of the 16 rows of a step
    assert place.losses(job) == pytest.approx(place.losses(alone), rel=1e-6)


@pytest.fixture
def wide(place: Workplace) -> Workplace:
    """Two jobs have room on a device if they make themselves small; one of them takes both devices."""
    large = {"batch_size": 64, "max_steps": 100_000}
    place.job_file("narrow", data={"max_seq_len": 512}, train=large | {"max_steps": 4}, resources={"devices": 1})
    several = {"resources": {"gpus": 2}, "memory": {"sharding": "none"}}
    place.job_file("wide", data={"max_seq_len": 512}, train=large | {"batch_size": 128}, **several)
    return place


@pytest.mark.timeout(900)
def test_it_shrinks_on_both_devices_for_what_one_of_them_is_wanted_for_and_its_curve_does_not_show_it(
    wide: Workplace,
) -> None:
    place, job = wide, wide.submit("wide.yaml")
    place.until_steps(job, more=3)
    before, micro_batch = reserved(place, job), attempt(place, job)["micro_batch"]
    assert len(set(before.values())) == 1
    short = place.submit("narrow.yaml")
    assert place.until_ended(short) == ["succeeded"]
    resized = place.events(job, "resized")[0]
    assert resized["micro_batch"] < micro_batch
    assert resized["limit_bytes"] < min(before.values())
    until(lambda: place.events(job, "step")[-1]["micro_batch"] > resized["micro_batch"], "its growth, being alone")
    until(lambda: not attempt(place, job)["wanted_number"] > attempt(place, job)["heeded_number"], "its answer")
    now = reserved(place, job)
    assert len(set(now.values())) == 1
    assert set(now) == set(before)

    with memory_taken(place.settings.ledger_dir / "virtual-1", 256 * MIB - min(now.values()) + 40 * MIB):
        until(lambda: max(reserved(place, job).values()) < min(now.values()), "memory given back to a foreign process")
        place.until_steps(job, more=5)
    assert (place.state(job), attempt(place, job)["number"]) == ("running", 1)
    assert place.events(job, "out_of_memory") == []
    place.ok("cancel", str(job))
    assert place.until_ended(job) == ["cancelled"]

    last = place.steps(job)[-1]
    alone = place.submit("wide.yaml", "-o", "resources.gpus=1")
    until(lambda: len(place.steps(alone)) >= last, "as many steps of one device")
    undisturbed = {step: loss for step, loss in place.losses(alone).items() if step <= last}
    assert place.losses(job) == pytest.approx(undisturbed, rel=1e-5)


@pytest.mark.timeout(900)
def test_it_leaves_for_higher_priority_and_comes_back_and_its_curve_does_not_show_it(place: Workplace) -> None:
    """By its steps it has hours to go; in truth it ends early, since it soon gets no better."""
    place.job_file(
        "curve",
        data={"validation": 0.25},
        train={"max_steps": 100_000, "learning_rate": 1e-2, "eval_interval": 20, "early_stop": 4},
        resources={"gpus": 2},
        memory={"sharding": "none"},
    )
    undisturbed = place.submit("curve.yaml")
    assert place.until_ended(undisturbed) == ["succeeded"]
    ten_have_run(place, undisturbed)

    long = place.submit("curve.yaml", "-o", "data.row_wait_seconds=0.02", "-o", "priority=-1")
    place.until_steps(long, more=3)
    pids = ranks(place, long)
    urgent = place.submit(
        "tiny.yaml", "-o", "train.max_steps=4", "-o", "resources.devices=1", "-o", "resources.exclusive=true"
    )
    within_seconds = 3 * PATIENCE_SECONDS  # three starts of two processes each
    assert place.until_ended(urgent, long, within_seconds=within_seconds) == ["succeeded", "succeeded"]
    assert all(map(gone, pids.values()))
    place.assert_made_way(long, urgent, undisturbed)
    assert [attempt["device"] for attempt in place.story(long)["attempts"]] == ["virtual:0,1", "virtual:0,1"]
    assert place.losses(long) == pytest.approx(place.losses(undisturbed), rel=1e-6)
