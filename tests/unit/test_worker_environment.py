"""What a trainer sees of the environment, and what a worker makes of a message's arguments."""

import os
from pathlib import Path

import pytest

from scheduler.processes.interpreter import python_command, with_source
from worker.command import trainer_command
from worker.environment import inherited
from worker.rundir import RunDir
from worker.tasks import read_ids


def test_secrets_and_strangers_stay_behind() -> None:
    kept = inherited(
        {
            "PATH": "/bin",
            "HOME": "/home/me",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": "/x",
            "CUDA_VISIBLE_DEVICES": "3",
            "MMQ_BROKER_URL": "redis://:secret@h",
            "MMQ_DATABASE_URL": "postgresql://me:secret@h/db",
            "HF_TOKEN": "secret",
            "WANDB_API_KEY": "secret",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
    )
    assert sorted(kept) == ["CUDA_VISIBLE_DEVICES", "HOME", "OMP_NUM_THREADS", "PATH", "PYTHONPATH"]


def test_our_source_comes_last_on_the_path_and_once() -> None:
    root = str(Path(__file__).parents[2])
    once = with_source({"PYTHONPATH": "/standin"})
    assert once["PYTHONPATH"] == f"/standin:{root}"
    assert with_source(once) == once


def test_processes_of_one_job_meet_without_pickles(tmp_path: Path) -> None:
    """Torch's other ways to meet keep a pickle in a store that listens on the network."""
    command = trainer_command(RunDir(root=tmp_path, number=1), 2)
    assert "torch.distributed.run" in command
    assert not [word for word in command if word.startswith(("--standalone", "--rdzv"))]


def test_the_launcher_of_several_leaves_nothing_beside_the_run(tmp_path: Path) -> None:
    command = trainer_command(RunDir(root=tmp_path, number=1), 2)
    assert command[command.index("--log-dir") + 1] == os.devnull


def test_a_module_is_run_without_the_working_directory_on_the_path() -> None:
    assert python_command("trainer", "x")[1:] == ["-P", "-m", "trainer", "x"]


@pytest.mark.parametrize(
    ("said", "more"),
    [((), {}), ((1,), {}), ((1, 2, 3), {}), (("1", "2"), {}), ((True, 1), {}), ((0, 1), {}), ((1, 2), {"x": 1}),
     ((1, 2**63), {}), ((1.0, 2), {}), ((None, None), {})],
)  # fmt: skip
def test_malformed_arguments_are_none(said: tuple[object, ...], more: dict[str, object]) -> None:
    assert read_ids(said, more) is None


def test_two_ids_are_read() -> None:
    assert read_ids((3, 4), {}) == (3, 4)
