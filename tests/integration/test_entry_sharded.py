"""A foreign loop's `fully_shard` and flex attention: traced as a rank of several, and as a compiled kernel."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.integration.test_entry_tracing import counted_on_the_cpu
from trainer.entry.replay import Outcome, replay
from trainer.entry.trace import Build, trace
from trainer.entry.unknown import NotTraced

PROCESSES, WIDTH, BLOCKS = 4, 512, 4
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _no_group_stays() -> Iterator[None]:
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def divided(device: str, *, mesh: bool = True, **how: Any) -> Build:
    """A loop whose blocks are divided among processes; on the CPU among as many that nobody is."""

    def build() -> tuple[nn.Module, Callable[[], None]]:
        if device == "cuda":
            dist.init_process_group("nccl", rank=0, world_size=PROCESSES)
        else:
            dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=PROCESSES)
        model = nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(BLOCKS)))
        model = model.to(device)
        where = {"mesh": init_device_mesh(device, (PROCESSES,))} if mesh else {}
        for block in model:
            fully_shard(block, **where, **how)
        fully_shard(model, **where, **how)
        update = torch.optim.AdamW(model.parameters(), foreach=True)

        def step() -> None:
            model(torch.zeros(64, WIDTH, device=device)).sum().backward()
            update.step()
            update.zero_grad()

        return model, step

    return build


@pytest.mark.parametrize("how", [{}, {"reshard_after_forward": False}], ids=["zero3", "zero2"])
def test_a_rank_of_a_divided_loop_is_what_the_same_loop_takes(how: dict[str, Any]) -> None:
    log = trace(divided("cuda", **how))
    real = counted_on_the_cpu(divided("cpu", **how))
    assert log.processes == PROCESSES
    assert log.parameters == BLOCKS * (WIDTH * WIDTH + WIDTH)
    outcome = replay(log)
    assert outcome.allocated_bytes == pytest.approx(real.allocated_peak_bytes, rel=0.001)
    assert abs(outcome.reserved_bytes - real.reserved_peak_bytes) <= 2 * MIB


def test_the_parts_of_a_rank_are_its_share() -> None:
    log = trace(divided("cuda", mesh=False, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16)))
    parts = replay(log).parts
    share_bytes = 4 * log.parameters // PROCESSES
    for part, times in (("weights", 1), ("optimizer", 2)):
        assert times * share_bytes <= parts[part] <= times * share_bytes * 1.05
    assert parts["gradients"] <= share_bytes * 1.05


def test_the_elder_of_fully_shard_is_refused_with_a_remedy() -> None:
    def build() -> tuple[nn.Module, Callable[[], None]]:
        dist.init_process_group("nccl", rank=0, world_size=PROCESSES)
        model = FullyShardedDataParallel(nn.Linear(8, 8).to("cuda"))
        return model, lambda: None

    with pytest.raises(NotTraced, match="fully_shard"):
        trace(build)


def attending(*, compiled: bool, masked: bool, length: int = 1024) -> Callable[[], Outcome]:
    from torch.nn.attention import flex_attention as flex

    def build() -> tuple[nn.Module, Callable[[], None]]:
        attend = torch.compile(flex.flex_attention) if compiled else flex.flex_attention
        model = nn.Linear(64, 3 * 64).to("cuda")
        update = torch.optim.SGD(model.parameters(), lr=1.0)
        mask = None
        if masked:
            mask = flex.create_block_mask(lambda b, h, q, k: q >= k, None, None, length, length, device="cuda")

        def step() -> None:
            x = torch.randn(2, length, 64, device="cuda")
            with torch.autocast("cuda", dtype=torch.bfloat16):
                q, k, v = model(x).view(2, length, 3, 4, 16).permute(2, 0, 3, 1, 4)
                out: Tensor = attend(q, k, v, block_mask=mask)
                assert out.dtype is torch.bfloat16
            out.sum().backward()
            update.step()
            update.zero_grad()

        return model, step

    return lambda: replay(trace(build))


@pytest.mark.parametrize("compiled", [False, True])
def test_flex_attention_keeps_no_scores(compiled: bool) -> None:
    scores_bytes = 2 * 4 * 1024 * 1024 * 2
    plain, masked = (attending(compiled=compiled, masked=masked)() for masked in (False, True))
    assert plain.parts["activations"] < scores_bytes / 2
    assert masked.allocated_bytes - plain.allocated_bytes < 2 * MIB
