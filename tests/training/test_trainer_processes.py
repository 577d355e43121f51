"""One run by several processes (gloo, on the CPU): the curve of one alone, one writer, any number at the next start."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.training.conftest import PATIENCE_SECONDS, REPOSITORY, Outcome, Workshop
from trainer.__main__ import main
from trainer.data.batches import Row
from trainer.errors import ExitCode
from trainer.memory.cpu import CpuDevice
from trainer.processes.group import Alone, share

# 32 rows to train on, twice, by nine: the last step has a single row, so that one process has none.
UNEVEN = {"batch_size": 9, "max_steps": None, "epochs": 2}
VALIDATED = {"validation": 0.2}


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": "lo"}


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
TORCHRUN += ["--log-dir", os.devnull, "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m", "trainer"]


def wait_until(condition: Callable[[], bool], *processes: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        time.sleep(0.01)


class Processes(Outcome):
    """As torchrun starts them: each with its number, and a port at which they meet."""

    def __init__(self, run_dir: Path, *configs: dict[str, Any]) -> None:
        """Take one CONFIG for both, or one for each."""
        super().__init__(run_dir)
        size = 2
        paths = [run_dir.with_suffix(f".{rank}.json") for rank in range(size)]
        for rank, path in enumerate(paths):
            path.write_text(json.dumps(configs[rank % len(configs)]))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = ENVIRONMENT | {"WORLD_SIZE": str(size)}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "trainer", str(paths[rank]), str(run_dir)],
                env=shared
                | {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(size)
        ]

    def until(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, *self.processes)

    def wait(self) -> list[tuple[int, str]]:
        output = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in self.processes]
        return [(process.returncode, said) for process, said in zip(self.processes, output, strict=True)]


def ended(run: Outcome) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((run.run_dir / "result.json").read_text())
    return told


def peak_bytes(workshop: Workshop, micro_batch: int) -> int:
    device = CpuDevice(None)
    config = workshop.config(train={"max_steps": 1}, plan={"micro_batch": micro_batch})
    workshop.train(f"peak-{micro_batch}", config, device)
    return device.peaks().process_bytes


def set_back(run: Outcome, steps: int) -> None:
    """Take the result away, and the newest checkpoint."""
    shutil.rmtree(run.run_dir / "final")
    shutil.rmtree(run.run_dir / f"checkpoints/step-{steps}")


def test_the_curve_is_that_of_one_and_the_number_may_change_between(workshop) -> None:
    config = workshop.config(train=UNEVEN, data=VALIDATED)
    alone = workshop.train("alone", config)
    steps = max(alone.losses())
    assert steps == 8

    two = Processes(workshop.root / "two", config)
    (first, said), (second, silence) = two.wait()
    assert (first, second, silence) == (ExitCode.DONE, ExitCode.DONE, ""), said + silence
    assert two.losses() == pytest.approx(alone.losses(), rel=1e-6)
    assert [event["step"] for event in two.events("step")] == [event["step"] for event in alone.events("step")]
    assert [event["step"] for event in two.events("checkpoint")] == [3, 6, 8]
    ours, theirs = (run.events("evaluation")[-1]["loss"] for run in (two, alone))
    assert ours == pytest.approx(theirs, rel=1e-6)
    (started,) = two.events("started")
    assert (started["processes"], started["micro_batch"], started["accumulation_steps"]) == (2, 5, 1)
    weights = [load_file(run.run_dir / "final/model.safetensors") for run in (two, alone)]
    assert all(np.allclose(weights[0][name], weights[1][name], rtol=0, atol=1e-5) for name in weights[1])

    set_back(two, steps)
    assert workshop.train("two", config).losses() == pytest.approx(alone.losses(), rel=1e-6)
    set_back(alone, steps)
    path = workshop.root / "alone.json"
    path.write_text(json.dumps(config))
    before = alone.losses()
    done = subprocess.run(
        [*TORCHRUN, path, alone.run_dir],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert alone.events("started")[-1]["step"] == 6
    assert alone.losses() == pytest.approx(before, rel=1e-6)


def test_one_that_is_told_to_stop_stops_all_after_a_save(workshop) -> None:
    train = {"max_steps": 100_000, "save_interval": 100_000}
    run = Processes(workshop.root / "run", workshop.config(train=train))
    run.until(lambda: len(run.events("step")) >= 3)
    run.processes[1].send_signal(signal.SIGTERM)
    codes = [code for code, _ in run.wait()]
    assert codes == [ExitCode.STOPPED, ExitCode.STOPPED]
    (checkpoint,) = run.events("checkpoint")
    assert checkpoint["step"] == run.events("step")[-1]["step"]
    assert [event["reason"] for event in run.events("failed")] == ["stopped"]
    assert (ended(run)["exit_code"], ended(run)["rank"]) == (ExitCode.STOPPED, 0)


def test_torchrun_told_to_stop_saves_and_the_result_says_so(workshop) -> None:
    run = Outcome(workshop.root / "run")
    path = workshop.root / "run.json"
    path.write_text(json.dumps(workshop.config(train={"max_steps": 100_000, "save_interval": 100_000})))
    with subprocess.Popen([*TORCHRUN, path, run.run_dir], env=ENVIRONMENT, stderr=subprocess.DEVNULL) as torchrun:
        wait_until(lambda: len(run.events("step")) >= 3, torchrun)
        torchrun.send_signal(signal.SIGTERM)
        assert torchrun.wait(PATIENCE_SECONDS) != ExitCode.DONE
    assert ended(run)["exit_code"] == ExitCode.STOPPED
    assert "it is saved" in ended(run)["message"]
    assert run.events("checkpoint")[-1]["step"] == run.events("step")[-1]["step"]


def test_what_went_wrong_in_another_process_is_the_result_of_the_run(workshop) -> None:
    config = workshop.config(on_out_of_memory="exit")
    run = Processes(workshop.root / "run", config, config | {"device": {"kind": "cpu", "limit_bytes": 700_000}})
    (code, said), _ = run.wait()
    assert code == ExitCode.OUT_OF_MEMORY, said
    told = ended(run)
    assert (told["exit_code"], told["reason"], told["rank"]) == (ExitCode.OUT_OF_MEMORY, "out_of_memory", 1)
    (failed,) = run.events("failed")
    assert (failed["exit_code"], failed["reason"], failed["rank"]) == (told["exit_code"], told["reason"], 1)
    assert "out of device memory at step 1" in failed["message"]


def test_where_several_ran_out_the_event_names_the_micro_batch_that_all_go_on_with(workshop) -> None:
    peaks = [peak_bytes(workshop, rows) for rows in (1, 2, 4)]
    limits = [(small + large) // 2 for small, large in pairwise(peaks)]
    config = workshop.config(train={"max_steps": 1})
    run = Processes(
        workshop.root / "run", *(config | {"device": {"kind": "cpu", "limit_bytes": limit}} for limit in limits)
    )
    (code, said), _ = run.wait()
    assert code == ExitCode.DONE, said
    told = [(e.get("rank", 0), e["micro_batch"], e["new_micro_batch"]) for e in run.events("out_of_memory")]
    assert told == [(0, 4, 2), (0, 2, 1), (1, 4, 1)]
    assert run.events("out_of_memory")[-1]["new_accumulation_steps"] == 4
    assert run.events("step")[0]["micro_batch"] == 1


@pytest.mark.parametrize("sharding", ["none", "zero3"])
def test_one_that_is_killed_ends_the_others_with_a_word(sharding: str, workshop) -> None:
    train = {"max_steps": 100_000, "save_interval": 100_000}
    run = Processes(workshop.root / "run", workshop.config(train=train, plan={"sharding": sharding}))
    run.until(lambda: len(run.events("step")) >= 1)
    run.processes[1].kill()
    (code, said), _ = run.wait()
    assert (code, "Traceback" in said) == (ExitCode.FAILED, False), said
    assert "another process of this run has gone" in run.events("failed")[0]["message"]
    assert ended(run)["reason"] == "lost_process"


def test_a_rank_that_is_no_number_is_refused(workshop, monkeypatch, capsys) -> None:
    monkeypatch.setattr("trainer.__main__.StopRequest.listen", lambda self: None)
    monkeypatch.setenv("RANK", "one")
    assert main(["config.json", str(workshop.root / "run")]) == ExitCode.BAD_CONFIGURATION
    assert "RANK in the environment is 'one'" in capsys.readouterr().err


@given(lengths=st.lists(st.integers(2, 50), max_size=40), size=st.integers(1, 7))
def test_the_shares_are_all_the_rows_and_alike(lengths: list[int], size: int) -> None:
    rows = [Row(tokens=np.arange(length), is_target=np.arange(length) > 0) for length in lengths]

    class One(Alone):
        def __init__(self, rank: int) -> None:
            self.share, self.shares = rank, size

    shares = [share(rows, One(rank)) for rank in range(size)]
    assert sorted(len(row.tokens) for one in shares for row in one) == sorted(lengths)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    work = [sum(len(row.tokens) for row in one) for one in shares]
    assert max(work) - min(work) <= max(lengths, default=0)


def test_one_alone_loads_nothing_for_several(workshop) -> None:
    workshop.train("alone", workshop.config(train={"max_steps": 1}))
    assert "trainer.processes.ranks" not in sys.modules
