"""What a foreign loop's integers decide on: sizes follow the values that are known, and a router's stand-in choices."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from trainer.entry.replay import replay
from trainer.entry.trace import Build, trace
from trainer.entry.unknown import NoKernel

ROWS, WIDTH, EXPERTS, CHOICES = 48, 64, 4, 2


class Mixture(nn.Module):
    """Experts of one matrix each, given their tokens in one of the ways that programs have."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(EXPERTS))
        self.met: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.router(x).softmax(-1).topk(CHOICES)
        out = torch.zeros_like(x)
        for expert, (token, turn) in zip(self.experts, getattr(self, self.way)(chosen), strict=True):
            self.met.append(token.shape[0])
            if token.numel():
                out = out.index_add(0, token, expert(x[token]) * weight[token, turn, None])
        return out

    def where(self, chosen: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [torch.where(chosen == index) for index in range(EXPERTS)]

    def sort(self, chosen: Tensor) -> list[tuple[Tensor, Tensor]]:
        order = chosen.flatten().argsort()
        counts = torch.bincount(chosen.flatten(), minlength=EXPERTS).tolist()
        return [(part // CHOICES, part % CHOICES) for part in order.split(counts)]

    def one_hot(self, chosen: Tensor) -> list[tuple[Tensor, Tensor]]:
        given = F.one_hot(chosen, EXPERTS).permute(2, 0, 1)
        return [(one.nonzero()[:, 0], one.nonzero()[:, 1]) for one in given]

    def mask(self, chosen: Tensor) -> list[tuple[Tensor, Tensor]]:
        token, turn = torch.meshgrid(*(torch.arange(n, device=chosen.device) for n in chosen.shape), indexing="ij")
        return [(token[chosen == index], turn[chosen == index]) for index in range(EXPERTS)]


def mixed(way: str, seen: list[int]) -> Build:
    def build() -> tuple[nn.Module, Callable[[], None]]:
        model = Mixture(way).to("cuda")
        model.met = seen
        update = torch.optim.SGD(model.parameters(), lr=1.0)

        def step() -> None:
            model(torch.randn(ROWS, WIDTH).to("cuda")).sum().backward()
            update.step()
            update.zero_grad()

        return model, step

    return build


@pytest.mark.parametrize("way", ["where", "sort", "one_hot", "mask"])
def test_a_router_sends_an_even_share_to_each_expert_or_all_to_the_same(way: str) -> None:
    seen: list[int] = []
    even = trace(mixed(way, seen))
    assert even.routed
    assert seen[:EXPERTS] == [ROWS * CHOICES // EXPERTS] * EXPERTS
    seen.clear()
    uneven = trace(mixed(way, seen), uneven=True)
    assert seen[:EXPERTS] == [ROWS, ROWS, 0, 0]
    assert replay(even).allocated_bytes > 0
    assert max(uneven.sizes) >= max(even.sizes)


def asked(question: Callable[[], Any]) -> list[Any]:
    """Ask in a loop that is traced."""
    answers: list[Any] = []

    def build() -> tuple[nn.Module, Callable[[], None]]:
        model = nn.Linear(2, 2).to("cuda")
        update = torch.optim.SGD(model.parameters(), lr=1.0)

        def step() -> None:
            answers.append(question())
            model(torch.ones(1, 2, device="cuda")).sum().backward()
            update.step()

        return model, step

    trace(build)
    return answers


def test_whole_numbers_are_computed() -> None:
    def question() -> Any:
        ids = torch.tensor([[5, 3, 0], [7, 0, 0]], device="cuda")
        lengths = (ids != 0).sum(-1)
        ids[0, 2] = 9
        rows = torch.arange(3, device="cuda").expand(2, 3)
        return (
            lengths.tolist(),
            int(lengths.max()),
            bool((ids[0] != 0).all()),
            ids[ids > 4].tolist(),
            torch.unique(ids).tolist(),
            (rows < lengths[:, None]).cpu().sum().item(),
            torch.repeat_interleave(lengths).shape,
            f"{lengths.sum()}",
        )

    assert asked(question)[0] == ([2, 1], 2, True, [5, 9, 7], [0, 3, 5, 7, 9], 3, (3,), "3")


def test_what_is_made_like_a_host_tensor_but_on_the_gpu_is_there() -> None:
    def question() -> Any:
        host = torch.arange(3)
        return [one.is_cuda for one in (torch.zeros_like(host, device="cuda"), host.new_ones(2, device="cuda"))]

    assert asked(question)[0] == [True, True]


def test_what_hangs_on_fractions_is_not_known_and_what_is_overwritten_by_them_no_longer() -> None:
    def question() -> Any:
        x = torch.randn(8, device="cuda")
        kept = torch.ones(8, dtype=torch.bool, device="cuda")
        before = kept[kept].shape[0]
        kept &= x > 100
        return before, kept[kept].shape[0], x[x > 0].shape[0]

    assert asked(question)[0] == (8, 8, 8)  # all that there can be


def test_an_operator_without_a_meta_kernel_takes_its_shape_from_the_host() -> None:
    assert asked(lambda: torch.histc(torch.randn(100, device="cuda"), bins=7).shape)[0] == (7,)


def test_an_extension_s_kernel_is_named_with_a_remedy() -> None:
    library = torch.library.Library("foreign", "DEF")
    library.define("kernel(Tensor x) -> Tensor")
    library.impl("kernel", lambda x: x.clone(), "CPU")
    with pytest.raises(NoKernel, match=r"foreign::kernel .* torch.library.register_fake"):
        asked(lambda: torch.ops.foreign.kernel(torch.ones(2, device="cuda")))
    library._destroy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_products_are_taken_in_any_dtype(dtype: torch.dtype) -> None:
    def question() -> Any:
        x = torch.empty(32, 16, device="cuda", dtype=dtype)
        w = torch.empty(4, 16, 24, device="cuda", dtype=dtype)
        out = F.grouped_mm(x, w, offs=torch.tensor([8, 16, 24, 32], device="cuda", dtype=torch.int32))
        return out.shape, out.dtype

    assert asked(question)[0] == ((32, 24), dtype)


def test_a_default_device_and_a_memory_format_are_followed() -> None:
    def question() -> Any:
        torch.set_default_device("cuda")
        try:
            made = torch.zeros(2, 3, 4, 4)
        finally:
            torch.set_default_device(None)
        model = nn.Conv2d(3, 3, 1).to("cuda").to(memory_format=torch.channels_last)
        return made.is_cuda, model.weight.is_cuda, made.to(memory_format=torch.channels_last).stride()

    assert asked(question)[0] == (True, True, (48, 1, 12, 3))


def test_a_group_of_processes_is_joined_alone() -> None:
    def build() -> tuple[nn.Module, Callable[[], None]]:
        torch.distributed.init_process_group("nccl", rank=1, world_size=4)
        model = nn.Linear(64, 64).to("cuda")
        update = torch.optim.SGD(model.parameters(), lr=1.0)

        def step() -> None:
            loss = model(torch.ones(2, 64, device="cuda")).sum()
            loss.backward()
            for parameter in model.parameters():
                torch.distributed.all_reduce(parameter.grad)
            torch.distributed.barrier()
            assert (torch.distributed.get_rank(), torch.distributed.get_world_size()) == (1, 4)
            update.step()

        return model, step

    log = trace(build)
    assert (len(log.steps), log.processes) == (3, 4)
    assert not torch.distributed.is_initialized()
