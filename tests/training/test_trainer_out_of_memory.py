"""Out of memory: the micro-batch halves at the same step, or the run ends with exit code 80 and says where."""

import json
import subprocess
import sys

import pytest
import torch

from trainer.errors import ExitCode, OutOfDeviceMemory
from trainer.evaluation import Evaluation
from trainer.files import checkpoint
from trainer.loop import Training
from trainer.memory.choice import open_device
from trainer.memory.cpu import CpuDevice
from trainer.memory.refusal import refusal_numbers
from trainer.steps.optimizer import InPlace, Split
from trainer.steps.shrinking import ShrinkingStep
from trainer.steps.step import StepResult


def peak_bytes(workshop, micro_batch: int) -> int:
    device = CpuDevice(None)
    workshop.train(f"peak-{micro_batch}", workshop.config(plan={"micro_batch": micro_batch}), device)
    return device.peaks().process_bytes


def test_a_device_too_small_for_the_micro_batch_halves_it_and_keeps_the_effective_batch(workshop) -> None:
    whole, half = peak_bytes(workshop, 8), peak_bytes(workshop, 4)
    assert half < whole
    expected = workshop.outcome("peak-8").losses()
    outcome = workshop.train("small", workshop.config(), CpuDevice((whole + half) // 2))
    (event,) = outcome.events("out_of_memory")
    assert (event["step"], event["micro_batch"], event["new_micro_batch"]) == (1, 8, 4)
    assert event["phase"] in ("forward", "backward")
    assert event["requested_bytes"] > 0
    assert event["limit_bytes"] == (whole + half) // 2
    steps = outcome.events("step")
    assert {(step["micro_batch"], step["accumulation_steps"]) for step in steps} == {(4, 2)}
    assert outcome.losses() == pytest.approx(expected, rel=1e-6)


def test_a_virtual_device_refuses_as_cuda_would(workshop) -> None:
    size = 64 * 1024**2
    config = workshop.config(
        model={"hidden_size": 64, "intermediate_size": 2048},
        train={"max_steps": 3, "batch_size": 32},
        device={
            "kind": "virtual",
            "ledger": str(workshop.root / "ledger"),
            "total_bytes": size,
            "context_bytes": size // 8,
            "limit_bytes": None,
        },
    )
    outcome = workshop.train("virtual", config, open_device(config["device"]))
    event = outcome.events("out_of_memory")[0]
    assert (event["micro_batch"], event["new_micro_batch"]) == (32, 16)
    assert event["reserved_bytes"] <= size
    assert outcome.events("finished")[0]["process_peak_bytes"] <= size


def test_at_micro_batch_1_there_is_nothing_left_to_halve(workshop) -> None:
    device = CpuDevice(int(peak_bytes(workshop, 1) * 0.9))
    with pytest.raises(OutOfDeviceMemory, match=r"at step 1, in .*, with micro-batch 1"):
        workshop.train("tiny", workshop.config(), device)
    events = workshop.outcome("tiny").events("out_of_memory")
    assert [event["new_micro_batch"] for event in events] == [4, 2, 1, None]


def test_told_to_exit_it_does_not_halve(workshop) -> None:
    config = workshop.config(
        on_out_of_memory="exit", device={"kind": "cpu", "limit_bytes": int(peak_bytes(workshop, 8) * 0.99)}
    )
    process = workshop.start("exit", config)
    code, output = process.wait()
    assert code == ExitCode.OUT_OF_MEMORY
    assert "Traceback" not in output
    assert process.events("out_of_memory")[0]["new_micro_batch"] is None
    assert process.events()[-1]["event"] == "failed"
    assert (process.events()[-1]["exit_code"], process.events()[-1]["reason"]) == (80, "out_of_memory")


def test_a_refusal_in_the_optimizer_is_not_repeated(workshop, monkeypatch) -> None:
    def refuse(self: InPlace, found_infinite: object = None) -> None:
        raise torch.OutOfMemoryError("refused")

    monkeypatch.setattr(InPlace, "step", refuse)
    with pytest.raises(OutOfDeviceMemory, match="in optimizer"):
        workshop.train("optimizer", workshop.config())


def test_a_sample_that_does_not_fit_is_left_out_of_the_result(workshop, monkeypatch) -> None:
    def refuse(*arguments: object, **fields: object) -> None:
        raise torch.OutOfMemoryError("refused")

    monkeypatch.setattr("trainer.loop.sample_text", refuse)
    outcome = workshop.train("speechless", workshop.config())
    assert [event["phase"] for event in outcome.events("out_of_memory")] == ["sample"]
    assert outcome.events("finished")
    assert (outcome.run_dir / "final" / "generated.txt").read_text(encoding="utf-8") == ""


def test_evaluation_halves_its_own_batch_and_not_training_s(workshop, monkeypatch) -> None:
    from trainer import evaluation

    sizes = []
    true_loss = evaluation.evaluation_loss

    def refuse_above_2(model, batch, *, chunked_loss):
        sizes.append(len(batch.ids))
        if len(batch.ids) > 2:
            raise torch.OutOfMemoryError("refused")
        return true_loss(model, batch, chunked_loss=chunked_loss)

    config = workshop.config(data={"validation": 0.2})
    expected = workshop.train("roomy", config)
    monkeypatch.setattr(evaluation, "evaluation_loss", refuse_above_2)
    outcome = workshop.train("tight", config)
    assert sizes[:3] == [8, 4, 2]
    assert {event["phase"] for event in outcome.events("out_of_memory")} == {"evaluation"}
    assert {step["micro_batch"] for step in outcome.events("step")} == {8}
    losses = [[event["loss"] for event in run.events("evaluation")] for run in (outcome, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def squeeze(monkeypatch: pytest.MonkeyPatch, device: CpuDevice, owner: type, method: str, *, time: int = 1) -> None:
    """Let a device grant no more memory from the call of a method on, the `time`-th: what is held stays."""
    true, calls = getattr(owner, method), []

    def squeezed(*arguments: object, **fields: object) -> object:
        calls.append(method)
        if len(calls) == time:
            device.set_limit(1)
        return true(*arguments, **fields)

    monkeypatch.setattr(owner, method, squeezed)


def test_a_refusal_at_step_n_costs_that_step_s_micro_batch_and_nothing_before(workshop, monkeypatch) -> None:
    expected = workshop.train("roomy", workshop.config()).losses()
    whole, half = peak_bytes(workshop, 8), peak_bytes(workshop, 4)
    device = CpuDevice(None)
    true = ShrinkingStep.run

    def tighter(self: ShrinkingStep, step: int, *arguments: object) -> StepResult:
        if step == 5:
            device.set_limit((whole + half) // 2)
        return true(self, step, *arguments)

    monkeypatch.setattr(ShrinkingStep, "run", tighter)
    outcome = workshop.train("tight", workshop.config(), device)
    assert [(event["step"], event["new_micro_batch"]) for event in outcome.events("out_of_memory")] == [(5, 4)]
    assert [event["micro_batch"] for event in outcome.events("step")] == [8] * 4 + [4] * 4
    assert outcome.losses() == pytest.approx(expected, rel=1e-6)


def test_a_refusal_in_the_first_update_says_where_and_how_much(workshop, monkeypatch) -> None:
    """Halving would not help there: the process ends, and says enough for others to plan by."""
    device = CpuDevice(None)
    squeeze(monkeypatch, device, Split, "apply")
    config = workshop.config(train={"dtype": "bfloat16", "weights": "bfloat16"})
    with pytest.raises(OutOfDeviceMemory, match="at step 1, in optimizer"):
        workshop.train("update", config, device)
    (event,) = workshop.outcome("update").events("out_of_memory")
    assert (event["phase"], event["new_micro_batch"], event["limit_bytes"]) == ("optimizer", None, 1)
    assert event["needed_bytes"] == event["allocated_bytes"] + event["requested_bytes"] > 1


def test_evaluation_of_a_single_row_that_does_not_fit_ends_the_run_after_its_last_checkpoint(
    workshop, monkeypatch
) -> None:
    device = CpuDevice(None)
    squeeze(monkeypatch, device, Evaluation, "run", time=2)
    config = workshop.config(data={"validation": 0.2}, train={"save_interval": 2, "eval_interval": 4})
    with pytest.raises(OutOfDeviceMemory, match="in evaluation with 1 rows"):
        workshop.train("evaluation", config, device)
    outcome = workshop.outcome("evaluation")
    refusals = outcome.events("out_of_memory")
    assert [event["new_micro_batch"] for event in refusals] == [4, 2, 1, None]
    assert {event["phase"] for event in refusals} == {"evaluation"}
    monkeypatch.undo()
    assert workshop.train("evaluation", config).events("started")[-1]["step"] == 6


def test_generation_that_does_not_fit_is_left_out(workshop, monkeypatch) -> None:
    device = CpuDevice(None)
    squeeze(monkeypatch, device, Training, "write_sample")
    outcome = workshop.train("speechless", workshop.config(), device)
    (event,) = outcome.events("out_of_memory")
    assert (event["phase"], event["limit_bytes"]) == ("sample", 1)
    assert outcome.events("finished")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: out of memory"), OutOfDeviceMemory),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."), OutOfDeviceMemory),
    ],
)
def test_a_refusal_while_saving_leaves_the_checkpoint_before(workshop, monkeypatch, error, expected) -> None:
    true, saved = checkpoint.save, []

    def refuse_the_second(*arguments: object) -> object:
        saved.append(arguments)
        if len(saved) == 2:
            raise error
        return true(*arguments)

    monkeypatch.setattr(checkpoint, "save", refuse_the_second)
    device = open_device({"kind": "virtual", "ledger": str(workshop.root / "ledger"), "total_bytes": 1 << 30})
    with pytest.raises(expected, match="after step 6, in save"):
        workshop.train("saving", workshop.config(), device)
    outcome = workshop.outcome("saving")
    assert [(event["phase"], event["step"]) for event in outcome.events("out_of_memory")] == [("save", 6)]
    assert [path.name for path in (outcome.run_dir / "checkpoints").iterdir()] == ["step-3"]
    monkeypatch.undo()
    assert workshop.train("saving", workshop.config()).events("started")[-1]["step"] == 3


def test_what_the_libraries_of_a_device_say_is_a_refusal_and_halves(workshop, monkeypatch) -> None:
    from trainer.steps import shrinking

    true, asked = shrinking.train_step, []

    def refuse_once(*arguments: object, **fields: object) -> StepResult:
        asked.append(arguments)
        if len(asked) == 1:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return true(*arguments, **fields)

    monkeypatch.setattr(shrinking, "train_step", refuse_once)
    device = open_device({"kind": "virtual", "ledger": str(workshop.root / "ledger"), "total_bytes": 1 << 30})
    outcome = workshop.train("library", workshop.config(), device)
    (event,) = outcome.events("out_of_memory")
    assert (event["new_micro_batch"], event["requested_bytes"], event["needed_bytes"]) == (4, None, None)
    assert outcome.events("finished")


def test_the_host_s_refusal_is_told_apart_from_the_device_s(workshop) -> None:
    """The kernel refuses address space to a process of its own; the virtual device would have had enough."""
    config = workshop.config(
        model={"intermediate_size": 1 << 20, "hidden_size": 4096, "num_attention_heads": 32},
        device={"kind": "virtual", "ledger": str(workshop.root / "ledger"), "total_bytes": 1 << 40},
    )
    path = workshop.root / "host.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    command = ["prlimit", f"--as={12 << 30}", sys.executable, "-m", "trainer", str(path), str(workshop.root / "host")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.FAILED
    assert "Traceback" not in done.stderr
    failed = workshop.outcome("host").events("failed")[-1]
    assert failed["reason"] == "host_out_of_memory"
    assert "can't allocate memory: you tried to allocate 17179869184 bytes" in failed["message"]


def test_cuda_s_own_words_are_read() -> None:
    """As torch 2.x writes them."""
    words = (
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.69 GiB of which 2.31 MiB is "
        "free. Including non-PyTorch memory, this process has 4.97 GiB memory in use. 5.00 GiB allowed; Of the "
        "allocated memory 4.50 GiB is allocated by PyTorch, and 208.53 MiB is reserved by PyTorch but unallocated."
    )
    numbers = refusal_numbers(torch.OutOfMemoryError(words), CpuDevice(None))
    assert (numbers["requested_bytes"], numbers["allocated_bytes"]) == (20 << 20, 4608 << 20)
    assert numbers["reserved_bytes"] == pytest.approx((4608 + 208.53) * 2**20, abs=1)
    assert numbers["needed_bytes"] == numbers["reserved_bytes"] + (20 << 20)
