"""Any torch loop, traced without a GPU: counted as CUDA would run it, and nothing left changed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from benchmarks.loops import gpt2, minimind
from trainer.entry.kernels import attention, chosen_as_on_cuda
from trainer.entry.log import Log
from trainer.entry.replay import course, replay, smallest_cap, survives
from trainer.entry.trace import Build, NoUpdate, trace
from trainer.memory.accounting import Accounting
from trainer.memory.allocator import CachingAllocator

MIB = 1 << 20
WORKSPACE_BYTES = 8_519_680
META = torch.device("meta")


def mlp(device: str = "cuda", **optimizer: Any) -> Build:
    """A loop without attention or dropout: the same operators on the CPU and on a GPU."""

    def build() -> tuple[nn.Module, Callable[[], None]]:
        model = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.LayerNorm(1024), nn.Linear(1024, 300)).to(device)
        update = torch.optim.AdamW(model.parameters(), lr=1e-3, **optimizer)

        def step() -> None:
            x, y = torch.randn(64, 256, device=device), torch.zeros(64, dtype=torch.int64, device=device)
            F.cross_entropy(model(x), y).backward()
            update.step()
            update.zero_grad()

        return model, step

    return build


def counted_on_the_cpu(build: Build, steps: int = 3) -> CachingAllocator:
    """Run the loop for real, its CPU tensors counted as if they lay on a GPU."""
    allocator = CachingAllocator()
    with Accounting(allocator, workspace_bytes=WORKSPACE_BYTES) as accounting:
        model, step = build()
        for _ in range(steps):
            step()
        del model, step
    del accounting
    return allocator


def test_a_loop_without_words_has_no_logits() -> None:
    assert replay(trace(mlp())).parts["logits"] == 0


def checkpointed(device: str, *, use_reentrant: bool) -> Build:
    """Blocks that are run again in the backward pass, where torch compares what it gets with what it had."""

    def build() -> tuple[nn.Module, Callable[[], None]]:
        blocks = nn.ModuleList(nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256)) for _ in range(3))
        model = nn.Sequential(nn.Linear(256, 256), blocks).to(device)
        update = torch.optim.AdamW(model.parameters(), fused=True)

        def step() -> None:
            x = model[0](torch.randn(64, 256, device=device))
            for block in blocks:
                x = checkpoint(block, x, use_reentrant=use_reentrant)
            x.square().mean().backward()
            update.step()
            update.zero_grad()

        return model, step

    return build


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_what_is_checkpointed_is_traced_to_the_byte(use_reentrant: bool) -> None:
    outcome = replay(trace(checkpointed("cuda", use_reentrant=use_reentrant)))
    real = counted_on_the_cpu(checkpointed("cpu", use_reentrant=use_reentrant))
    assert outcome.reserved_bytes == real.reserved_peak_bytes
    assert outcome.allocated_bytes == real.allocated_peak_bytes


def test_hooks_of_saved_tensors_see_the_gpu() -> None:
    seen: list[tuple[str, torch.device]] = []

    def note(when: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda tensor: (seen.append((when, tensor.device)), tensor)[1]

    def build() -> tuple[nn.Module, Callable[[], None]]:
        model = nn.Linear(8, 8).to("cuda")
        update = torch.optim.SGD(model.parameters(), lr=0.1)

        def step() -> None:
            with torch.autograd.graph.saved_tensors_hooks(note("packed"), note("unpacked")):
                model(torch.randn(4, 8, device="cuda")).square().sum().backward()
            update.step()

        return model, step

    trace(build)
    assert set(seen) == {(when, torch.device("cuda", 0)) for when in ("packed", "unpacked")}


@pytest.mark.parametrize("how", [{"foreach": True}, {"fused": True}])
def test_a_trace_is_what_the_same_loop_takes(how: dict[str, bool]) -> None:
    outcome = replay(trace(mlp(**how)))
    real = counted_on_the_cpu(mlp("cpu", **how))
    assert abs(outcome.allocated_bytes - real.allocated_peak_bytes) <= 4096  # step counters: on the host for foreach
    assert outcome.reserved_bytes == real.reserved_peak_bytes


def test_an_optimizer_that_is_left_to_choose_takes_foreach_and_its_temporaries() -> None:
    chosen, foreach, fused = (replay(trace(mlp(**how))) for how in ({}, {"foreach": True}, {"fused": True}))
    assert chosen.allocated_bytes == foreach.allocated_bytes > fused.allocated_bytes


def test_the_parts_add_up_and_name_what_they_are() -> None:
    log = trace(mlp())
    outcome = replay(log)
    assert sum(outcome.parts.values()) == outcome.allocated_bytes
    weights_bytes = 4 * log.parameters
    assert weights_bytes <= outcome.parts["weights"] <= weights_bytes + 512 * 6
    assert 2 * weights_bytes <= outcome.parts["optimizer"] <= 2 * weights_bytes + 2 * MIB
    assert outcome.parts["workspace"] == 2 * WORKSPACE_BYTES
    phases = [mark.phase for mark in log.marks]
    assert phases[0] == "build"
    assert phases[1:4] == ["forward", "backward", "optimizer"]
    assert {"forward", "backward", "optimizer"} == {point["phase"] for point in course(log)}
    assert max(point["allocated_bytes"] for point in course(log)) == outcome.allocated_bytes


class _Seen(torch.utils._python_dispatch.TorchDispatchMode):
    """Names the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func.overloadpacket).removeprefix("aten."))
        return func(*args, **(kwargs or {}))


def heads(dtype: torch.dtype, count: int = 4) -> torch.Tensor:
    return torch.empty(2, count, 48, 64, device=META, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize(
    ("dtype", "masked", "capability", "kernel"),
    [
        (torch.bfloat16, False, "8.9", "_scaled_dot_product_flash_attention"),
        (torch.bfloat16, True, "8.9", "_scaled_dot_product_efficient_attention"),
        (torch.float32, False, "8.9", "_scaled_dot_product_efficient_attention"),
        (torch.float16, False, "7.5", "_scaled_dot_product_efficient_attention"),
        (torch.bfloat16, False, "7.5", "bmm"),
        (torch.float64, False, "8.9", "bmm"),
    ],
)
def test_attention_is_the_kernel_that_cuda_would_choose(
    dtype: torch.dtype, masked: bool, capability: str, kernel: str
) -> None:
    query = heads(dtype)
    mask = torch.empty(2, 1, 48, 48, device=META, dtype=torch.bool) if masked else None
    with chosen_as_on_cuda(capability), _Seen() as seen:
        F.scaled_dot_product_attention(query, query, query, attn_mask=mask, is_causal=mask is None)
    assert kernel in seen.names


def test_grouped_heads_take_flash_or_the_plain_way() -> None:
    with _Seen() as seen:
        attention(heads(torch.bfloat16), heads(torch.bfloat16, 2), heads(torch.bfloat16, 2), enable_gqa=True)
    assert "_scaled_dot_product_flash_attention" in seen.names


def run(body: Callable[[nn.Module], Any]) -> Log:
    """Trace a loop that does `body` and one update."""

    def build() -> tuple[nn.Module, Callable[[], None]]:
        model = nn.Linear(512, 512).to("cuda")
        update = torch.optim.SGD(model.parameters(), lr=1.0)

        def step() -> None:
            body(model)
            update.step()

        return model, step

    return trace(build)


def test_autocast_casts_as_cuda_does_and_keeps_cast_weights_until_its_end() -> None:
    seen: list[torch.dtype] = []

    def body(model: nn.Module) -> None:
        x = torch.empty(4, 512, device="cuda", dtype=torch.float32)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            first, second = model(x), model(x)
            seen.extend([first.dtype, first.softmax(-1).dtype, F.layer_norm(second, (512,)).dtype])
            seen.append((first.float() @ second.T).dtype)
        seen.append(model(x).dtype)

    log = run(body)
    bf16, fp32 = torch.bfloat16, torch.float32
    assert seen[:5] == [bf16, fp32, fp32, bf16, fp32]
    casts = [size for size in log.sizes if size == 2 * 512 * 512]
    assert len(casts) == 3  # one a step, though the weight was used twice in each


def test_dropout_is_one_kernel_with_a_mask_of_bytes() -> None:
    log = run(lambda model: F.dropout(model(torch.empty(64, 512, device="cuda")), 0.1))
    assert log.sizes.count(64 * 512) == 3


def test_what_lies_on_the_host_is_free_and_what_is_moved_is_not() -> None:
    def body(_: nn.Module) -> None:
        host = torch.randn(1024, 1024)
        assert (host.device.type, host.is_cuda) == ("cpu", False)
        moved = host.to("cuda")
        assert (moved.device, moved.is_cuda) == (torch.device("cuda", 0), True)
        assert moved.cpu().device.type == "cpu"
        assert torch.zeros(3, device=moved.device).tolist() == [0.0, 0.0, 0.0]

    assert run(body).sizes.count(4 * 1024 * 1024) == 3  # one a step: the copy


def test_questions_for_values_get_stand_in_answers() -> None:
    answers: list[Any] = []

    def body(model: nn.Module) -> None:
        out = model(torch.empty(4, 512, device="cuda"))
        answers.append((bool(torch.isfinite(out).all()), bool(torch.isnan(out).any()), out.sum().item()))
        answers.append(out[out > 0].shape)  # as many as there can be

    run(body)
    assert answers[:2] == [(True, False, 0.0), (4 * 512,)]


def test_a_loss_scaler_never_finds_an_overflow() -> None:
    def build() -> tuple[nn.Module, Callable[[], None]]:
        model = nn.Linear(8, 8).to("cuda")
        update = torch.optim.AdamW(model.parameters())
        scaler = torch.amp.GradScaler("cuda")

        def step() -> None:
            with torch.autocast("cuda", dtype=torch.float16):
                loss = model(torch.randn(2, 8, device="cuda")).sum()
            scaler.scale(loss).backward()
            scaler.step(update)
            scaler.update()
            update.zero_grad()

        return model, step

    assert len(trace(build).steps) == 3  # an update in each


def test_a_rank_of_data_parallelism_holds_its_gradients_twice_unless_they_live_in_the_buckets() -> None:
    def loop(**how: Any) -> Build:
        def build() -> tuple[nn.Module, Callable[[], None]]:
            model = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(8))).to("cuda")
            wrapped = torch.nn.parallel.DistributedDataParallel(model, **how) if how else model
            update = torch.optim.SGD(model.parameters(), lr=1.0)

            def step() -> None:
                update.zero_grad()
                wrapped(torch.randn(2, 1024, device="cuda")).sum().backward()
                update.step()

            return model, step

        return build

    alone, copied, shared = (
        replay(trace(loop(**how))).allocated_bytes / MIB
        for how in ({}, {"bucket_cap_mb": 25}, {"gradient_as_bucket_view": True})
    )
    assert 32 <= copied - alone < 33
    assert shared - alone < 9  # no more than the gradients on their way into a bucket


def test_a_smaller_cap_is_survived_by_giving_cached_segments_back() -> None:
    log = trace(mlp())
    outcome = replay(log)
    least = smallest_cap(log, outcome)
    assert outcome.allocated_bytes <= least <= outcome.reserved_bytes
    assert survives(log, least)
    assert not survives(log, least - 2 * MIB)


def test_a_loop_that_never_updates_is_told_so() -> None:
    def build() -> tuple[nn.Module, Callable[[], None]]:
        model = nn.Linear(2, 2).to("cuda")
        return model, lambda: None

    with pytest.raises(NoUpdate, match="64 times"):
        trace(build)


def test_torch_is_as_before_afterwards() -> None:
    is_available, compiled = torch.cuda.is_available, torch.compile
    trace(mlp())
    assert (torch.cuda.is_available, torch.compile) == (is_available, compiled)
    x = torch.empty(2, 2, device=META, requires_grad=True)
    with _Seen() as seen:
        F.dropout(x, 0.5)
    assert "native_dropout" not in seen.names
    assert torch.nn.Linear(2, 2)(torch.zeros(1, 2)).dtype is torch.float32


@pytest.mark.parametrize(
    ("loop", "counter", "measured_mib"),
    [
        (lambda: gpt2.loop(8, 1024, fused=False, kept_mask=True), "reserved_bytes", 26892),
        (lambda: minimind.pure_bfloat16(4, 2048, 2, 2), "allocated_bytes", 1452.19),
        (lambda: minimind.sft_probe(8, 768, 8, 8), "allocated_bytes", 4044.595),
    ],
    ids=["GPT-2, A100", "bfloat16, 2 x RTX 4090D", "autocast, 8 x L20"],
)
def test_published_peaks_are_met(loop: Build, counter: str, measured_mib: float) -> None:
    """A sample of `make bench-footprint`, to half a per cent."""
    predicted = getattr(replay(trace(loop, capability="8.9")), counter) / MIB
    assert predicted == pytest.approx(measured_mib, rel=0.005)
