"""Results that wait on the device: in one block, whatever the number of steps."""

import pytest
import torch

from trainer.errors import NonFiniteLoss
from trainer.memory.cpu import CpuDevice
from trainer.reporting.results import UNREAD_AT_MOST, Results
from trainer.steps.step import StepResult


def result(loss: float, grad_norm: float = 1.0) -> StepResult:
    return StepResult(loss=torch.full((), loss), grad_norm=torch.full((), grad_norm))


def test_what_waits_takes_no_more_memory_than_at_the_start() -> None:
    device = CpuDevice()
    with device.accounting():
        results = Results(device.torch_device, scaled=False)
        results.add(1, result(3.0))
        after_one = device.peaks().allocated_bytes
        for step in range(2, 3 * UNREAD_AT_MOST):
            results.add(step, result(3.0 - step / 1000))
        assert device.peaks().allocated_bytes == after_one
        results.read()
    assert results.first_loss == 3.0
    assert results.loss == pytest.approx(3.0 - (3 * UNREAD_AT_MOST - 1) / 1000)


def test_the_first_step_that_went_wrong_is_named() -> None:
    results = Results(torch.device("cpu"), scaled=False)
    for step, loss in ((7, 1.0), (8, float("nan")), (9, float("inf"))):
        results.add(step, result(loss))
    with pytest.raises(NonFiniteLoss, match="step 8: loss nan"):
        results.read()


def test_under_loss_scaling_an_infinite_norm_is_ordinary() -> None:
    results = Results(torch.device("cpu"), scaled=True)
    results.add(1, result(2.0, float("inf")))
    results.read()
    assert results.loss == 2.0
