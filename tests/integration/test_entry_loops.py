"""What people write beside the model: loaders with workers, packed sequences, a look whether all is finite."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, TensorDataset

from tests.integration.test_entry_tracing import counted_on_the_cpu
from trainer.entry.replay import replay
from trainer.entry.trace import Build, trace

ROWS = 8


def convolutions(device: str, workers: int) -> Build:
    """An image classifier as its tutorials have it."""

    def build() -> tuple[nn.Module, Callable[[], None]]:
        layers = (nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=True)
        rows = TensorDataset(torch.randn(4 * ROWS, 3, 32, 32), torch.zeros(4 * ROWS, dtype=torch.int64))
        many = workers > 0
        loader = DataLoader(
            rows, batch_size=ROWS, shuffle=True, num_workers=workers, pin_memory=many, persistent_workers=many
        )
        batches = iter(loader)

        def step() -> None:
            images, classes = (one.to(device, non_blocking=True) for one in next(batches))
            loss = nn.functional.cross_entropy(model(images), classes)
            if not torch.isfinite(loss):
                raise RuntimeError("the loss is not finite")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return model, step

    return build


def test_a_loader_s_workers_and_pinned_memory_change_nothing() -> None:
    outcome = replay(trace(convolutions("cuda", workers=2)))
    assert outcome == replay(trace(convolutions("cuda", workers=0)))
    assert outcome.parts["optimizer"] == outcome.parts["weights"] - 512 * 3  # the running means have no momentum


def packed(device: str) -> Build:
    """Rows of several lengths, which the loop reads on the host."""

    def build() -> tuple[nn.Module, Callable[[], None]]:
        model = nn.Linear(64, 64).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)

        def step() -> None:
            rows = pack_padded_sequence(
                torch.ones(4, 100, 64, device=device),
                torch.tensor([70, 40, 90, 5]),
                batch_first=True,
                enforce_sorted=False,
            )
            padded, lengths = pad_packed_sequence(rows._replace(data=model(rows.data)), batch_first=True)
            assert (padded.shape[1], int(lengths.sum())) == (90, 205)
            optimizer.zero_grad()
            padded.square().mean().backward()
            optimizer.step()

        return model, step

    return build


def test_packed_sequences_are_as_long_as_they_are() -> None:
    outcome = replay(trace(packed("cuda")))
    real = counted_on_the_cpu(packed("cpu"))
    assert outcome.allocated_bytes == pytest.approx(real.allocated_peak_bytes, abs=4096)


def sampled(around: Callable[[nn.Module], nn.Module]) -> Build:
    """A loss over distributions, which check what they are given."""

    def build() -> tuple[nn.Module, Callable[[], None]]:
        model = around(nn.Linear(64, 32).to("cuda"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def step() -> None:
            torch.cuda.nvtx.range_push("step")
            mean, width = model(torch.randn(ROWS, 64, device="cuda")).chunk(2, -1)
            codes = torch.distributions.Normal(mean, width.exp())
            chosen = torch.distributions.Categorical(logits=codes.rsample())
            (codes.entropy().mean() - chosen.log_prob(chosen.sample()).mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
            torch.cuda.nvtx.range_pop()

        return model, step

    return build


def test_distributions_are_content_and_data_parallel_is_one_gpu_s() -> None:
    assert replay(trace(sampled(nn.DataParallel))) == replay(trace(sampled(lambda model: model)))
