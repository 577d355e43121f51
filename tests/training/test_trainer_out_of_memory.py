"""Out of memory: the micro-batch halves at the same step, or the run ends with exit code 80 and says where."""

import pytest
import torch

from trainer.errors import ExitCode, OutOfDeviceMemory
from trainer.memory.choice import open_device
from trainer.memory.cpu import CpuDevice
from trainer.steps.optimizer import InPlace


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
