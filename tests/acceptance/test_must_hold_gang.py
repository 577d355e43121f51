"""One job over two devices in a real service: beside another, with the curve of one device, and nothing left of it."""

import random
from pathlib import Path

import pytest

from scheduler.processes.kinship import descendants
from tests.acceptance.workplace import PATIENCE_SECONDS, WORDS, Workplace, gone, kill, until
from tests.processes import network_sockets

pytestmark = pytest.mark.timeout(300)

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
    for pid in descendants(launcher(place, job)):
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
    until(lambda: all(map(gone, pids.values())), "the end of its processes", within_seconds=10)

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
    within_seconds = 3 * PATIENCE_SECONDS  # two attempts of two processes each, which all import FSDP, and its trace
    assert place.until_ended(job, alone, within_seconds=within_seconds) == ["succeeded", "succeeded"]
    story = place.story(job)
    first, second = story["attempts"]
    assert (first["reason"], first["exit_code"], first["micro_batch"]) == ("out_of_memory", 80, 8)
    assert (second["reason"], second["exit_code"]) == ("done", 0)
    assert second["micro_batch"] <= 4
    assert second["micro_batch"] * second["accumulation_steps"] == 8  # of the 16 rows of a step
    assert {attempt["plan"]["sharding"] for attempt in (first, second)} == {"zero3"}
    assert place.events(job, "started")[-1]["step"] == place.events(job, "out_of_memory")[0]["step"] - 1
    assert place.losses(job) == pytest.approx(place.losses(alone), rel=1e-6)
    assert story["effective_batch"] == 16
