"""Makes `torch.cuda` answer as on a machine with one GPU, for as long as a foreign loop is traced.

Owns the replaced functions, all put back at the end. Nothing here is memory but the `empty_cache` it passes on.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from trainer.entry.autocast import Autocast
from trainer.entry.flex import fused
from trainer.entry.log import Log
from trainer.entry.ranks import Replica
from trainer.entry.rows import loading_in_process
from trainer.entry.tracing import Tracing

_NOTHING = (
    "synchronize set_device manual_seed manual_seed_all seed seed_all reset_peak_memory_stats init ipc_collect"
    " reset_max_memory_allocated set_rng_state set_rng_state_all set_per_process_memory_fraction _lazy_init"
    " reset_accumulated_memory_stats".split()
)
_ACCELERATOR_NOTHING = "set_device_index set_device_idx set_stream synchronize reset_peak_memory_stats".split()
_NVTX_NOTHING = "range_push range_pop range_start range_end mark".split()
_ZERO = "memory_allocated max_memory_allocated memory_reserved max_memory_reserved current_device utilization".split()


_init_process_group: Callable[..., None] = getattr(torch.distributed, "init_process_group", lambda: None)


class _Event:
    def __init__(self, *_: object, **__: object) -> None: ...

    def record(self, *_: object) -> None: ...

    def wait(self, *_: object) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...

    def elapsed_time(self, _: object) -> float:
        return 1.0


class _Stream:
    """There is one, and nothing in it."""

    cuda_stream = stream_id = 0
    device = torch.device("cuda", 0)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def synchronize(self) -> None: ...

    def wait_stream(self, _: object) -> None: ...

    def wait_event(self, _: object) -> None: ...

    def record_event(self, event: object = None) -> object:
        return _Event() if event is None else event

    def query(self) -> bool:
        return True

    def is_capturing(self) -> bool:
        return False


@contextmanager
def one_gpu(tracing: Tracing, autocast: Autocast, *, total_bytes: int, capability: str) -> Iterator[None]:
    """Within it, `torch.cuda` knows one GPU of this size and compute capability."""
    major, minor = map(int, capability.split("."))
    properties = SimpleNamespace(
        name="GPU", total_memory=total_bytes, major=major, minor=minor, multi_processor_count=100
    )
    answers: dict[str, Callable[..., Any]] = {
        **{name: _constant(None) for name in _NOTHING},
        **{name: _constant(0) for name in _ZERO},
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "is_bf16_supported": lambda *_, **__: major >= 8,
        "get_device_name": lambda *_: "GPU",
        "get_device_capability": _noted(tracing.log, (major, minor)),
        "get_device_properties": _noted(tracing.log, properties),
        "mem_get_info": _noted(tracing.log, (total_bytes, total_bytes)),
        "memory_stats": lambda *_, **__: {},
        "is_current_stream_capturing": _constant(False),
        "current_stream": lambda *_: _Stream(),
        "default_stream": lambda *_: _Stream(),
        "Stream": _Stream,
        "memory_summary": _constant(""),
        "empty_cache": tracing.allocator.empty_cache,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "device": lambda *_: nullcontext(),
        "stream": lambda *_: nullcontext(),
        "Event": _Event,
    }
    with ExitStack() as scope:
        for name, answer in answers.items():
            scope.enter_context(patch.object(torch.cuda, name, answer))
        for name in _NVTX_NOTHING:
            scope.enter_context(patch.object(torch.cuda.nvtx, name, _constant(0)))
        _accelerator(scope, tracing)
        scope.enter_context(fused())
        scope.enter_context(loading_in_process())
        scope.enter_context(patch.object(torch, "clear_autocast_cache", autocast.clear))
        scope.enter_context(patch.object(torch, "compile", _uncompiled))
        scope.enter_context(patch.object(torch, "save", _constant(None)))  # storages go to the host one by one
        scope.enter_context(patch.object(torch, "inference_mode", torch.no_grad))  # without it, no kernel is chosen
        scope.enter_context(patch.object(torch.nn.parallel, "DistributedDataParallel", Replica))
        scope.enter_context(patch.object(torch.nn.DataParallel, "forward", _on_one_gpu))
        if torch.distributed.is_available():
            for where in (torch.distributed, torch.distributed.distributed_c10d):
                scope.enter_context(patch.object(where, "init_process_group", _alone_in_a_group))
            scope.callback(_leave_group)
        _optimizers_on_meta(scope)
        yield


def _accelerator(scope: ExitStack, tracing: Tracing) -> None:
    """Let torch's word for whatever device there is mean the GPU."""
    answers: dict[str, Callable[..., Any]] = {
        **{name: _constant(None) for name in _ACCELERATOR_NOTHING},
        **{name: _constant(0) for name in _ZERO},
        **{name: _constant(0) for name in ("current_device_index", "current_device_idx")},
        "is_available": _constant(True),
        "device_count": _constant(1),
        "current_accelerator": _constant(torch.device("cuda")),
        "current_stream": lambda *_: _Stream(),
        "empty_cache": tracing.allocator.empty_cache,
    }
    for name, answer in answers.items():
        if hasattr(torch.accelerator, name):
            scope.enter_context(patch.object(torch.accelerator, name, answer))
    scope.enter_context(patch.object(torch._C, "_get_accelerator", _constant(torch.device("cuda"))))


def _alone_in_a_group(*_: Any, rank: int = -1, world_size: int = -1, **__: Any) -> None:
    """Take part in every collective with nobody, by torch's "fake" backend: whichever was asked for needs others."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    rank = rank if rank >= 0 else int(os.environ.get("RANK", "0"))
    world_size = world_size if world_size > 0 else int(os.environ.get("WORLD_SIZE", "1"))
    _init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)


def _leave_group() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _constant(value: Any) -> Callable[..., Any]:
    """Make a function of its own each time: torch's compiler tells functions apart by what they are."""
    return lambda *_, **__: value


def _noted(log: Log, value: Any) -> Callable[..., Any]:
    """Answer what differs from GPU to GPU, and note that it was asked."""

    def answer(*_: Any, **__: Any) -> Any:
        log.asks = True
        return value

    return answer


def _on_one_gpu(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Run the model where it lies: of one GPU, DataParallel makes no copies."""
    return self.module(*args, **kwargs)


def _uncompiled(model: Any = None, **_: Any) -> Any:
    """A compiled loop is traced as it was written."""
    return (lambda wrapped: wrapped) if model is None else model


def _optimizers_on_meta(scope: ExitStack) -> None:
    """Let optimizers and clipping choose foreach and fused as they would for CUDA."""
    from torch.optim import optimizer
    from torch.utils import _foreach_utils

    for where in (optimizer, _foreach_utils):
        for name in ("_get_foreach_kernels_supported_devices", "_get_fused_kernels_supported_devices"):
            if hasattr(where, name):
                known = getattr(where, name)()
                scope.enter_context(patch.object(where, name, lambda known=known: [*known, "meta"]))
