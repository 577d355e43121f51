"""Parts of a running service that fail under a job: a broker that takes nothing, a worker killed behind the trainer's
exit, a controller that meets its double, trainers and data that misbehave.
"""

import os
import signal
import subprocess

import pytest
import redis

from scheduler.broker.app import queue_name
from scheduler.jobs.states import JobState
from scheduler.processes.interpreter import python_command
from tests.faults.place import FaultPlace
from tests.processes import PATIENCE_SECONDS, kill, until

REFUSALS = {
    "read-only": ([("REPLICAOF", "127.0.0.1", "1")], [("REPLICAOF", "NO", "ONE")]),
    "full": ([("CONFIG", "SET", "maxmemory", "1")], [("CONFIG", "SET", "maxmemory", "64mb")]),
    "short of replicas": (
        [("CONFIG", "SET", "min-replicas-to-write", "1")],
        [("CONFIG", "SET", "min-replicas-to-write", "0")],
    ),
}


def tell_broker(place: FaultPlace, commands: list[tuple[str, ...]]) -> None:
    with redis.Redis(unix_socket_path=str(place.place.settings.broker_socket)) as client:
        for command in commands:
            client.execute_command(*command)


@pytest.mark.parametrize("how", REFUSALS)
def test_a_broker_that_takes_no_message_is_said_and_made_up_for(place: FaultPlace, how: str) -> None:
    refuse, serve = REFUSALS[how]
    tell_broker(place, refuse)
    try:
        job = place.submit("job.yaml")
        why = until(lambda: place.place.story(job)["waiting"] or "", "a word about the broker")
        until(lambda: "does not answer" in str(place.place.story(job)["waiting"]), f"the broker, after {why}")
    finally:
        tell_broker(place, serve)
    assert place.undisturbed(job)


def test_a_broker_killed_while_a_message_is_answered_leaves_no_worker_deaf(place: FaultPlace) -> None:
    """Celery can then lose its consumer for good; a worker that takes none of the messages that wait is replaced."""
    for _ in range(3):
        place.arm("claim.spawned", "delay 1")
        job = place.submit("job.yaml")
        place.fired("claim.spawned")
        kill(place.place.child("broker"))
        after = place.submit("job.yaml")
        assert place.undisturbed(job)
        assert place.undisturbed(after)


def flush(place: FaultPlace) -> int:
    """Empty the broker; how many messages waited for the worker."""
    with redis.Redis(unix_socket_path=str(place.place.settings.broker_socket)) as client:
        waited, _ = client.pipeline().llen(f"mmq:{queue_name('here')}").flushall().execute()
    return int(waited)


def test_a_flush_at_any_time_costs_nothing(place: FaultPlace) -> None:
    """Again and again until the jobs have ended; at first the worker stands still, so that messages wait to be read."""
    with place.place.halted(place.place.child("worker")):
        jobs = [place.submit("job.yaml") for _ in range(3)]
        until(lambda: flush(place), "a message that waits, and is lost")

    def over() -> bool:
        flush(place)
        return all(JobState(place.place.state(job)).ended for job in jobs)

    until(over, "the end of the jobs")
    for job in jobs:
        assert place.undisturbed(job)


def test_a_worker_killed_after_the_trainers_exit_is_not_needed_for_its_end(place: FaultPlace) -> None:
    place.arm("finish.seen", "delay 2")
    job = place.submit("job.yaml")
    place.fired("finish.seen")
    kill(place.place.child("worker"))
    assert place.undisturbed(job)


def test_term_to_the_worker_and_kills_of_it_while_training_disturb_nobody(place: FaultPlace) -> None:
    place.job_file("long", steps=100, pause=0.01, lingers=True)
    job = place.submit("long.yaml")
    trainer = place.place.until_steps(job, more=2)
    for number in (signal.SIGTERM, signal.SIGKILL):
        worker = place.place.child("worker")
        os.kill(worker, number)
        until(lambda worker=worker: place.place.children().get("worker", worker) != worker, "another worker")
        place.place.until_ready()
        assert place.place.until_steps(job, more=2) == trainer
    place.hurry()
    assert place.undisturbed(job, steps=100)
    assert len(place.place.story(job)["attempts"]) == 1


def test_a_second_controller_is_refused_and_the_first_goes_on(place: FaultPlace) -> None:
    job = place.submit("job.yaml")
    second = subprocess.run(
        python_command("scheduler.controller"),
        env=place.place.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert second.returncode != 0
    assert f"pid {place.place.child('controller')}" in second.stderr
    assert place.undisturbed(job)


def test_everything_killed_at_once_and_brought_up_again(place: FaultPlace) -> None:
    place.job_file("long", steps=60)
    jobs = [place.submit("long.yaml"), place.submit("job.yaml")]
    until(lambda: place.place.events(jobs[0], "checkpoint"), "a checkpoint")
    place.place.crash()
    place.place.up()
    assert place.undisturbed(jobs[0], steps=60)
    assert place.undisturbed(jobs[1])
