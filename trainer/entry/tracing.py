"""Sees every storage of a foreign loop and writes down those that would lie on the GPU.

Owns the question where a tensor lies: on the GPU if it was made or moved there, or computed from one that is; all else
is the host's, and free. On the meta device neither has values, so a question for one gets a stand-in answer.
"""

from typing import Any

import torch

from trainer.entry.kernels import temporaries_bytes
from trainer.entry.log import Log
from trainer.memory.accounting import Accounting
from trainer.trace.shapes import ShapeMemory

META = torch.device("meta")
HOST_VALUES_AT_MOST = 1 << 16  # elements; larger floating-point tensors of the host are kept without values

_aten = torch.ops.aten
_SCALAR = _aten._local_scalar_dense.default


class _Writer:
    """An allocator that grants everything, and writes it down."""

    allocated_bytes = reserved_bytes = allocated_peak_bytes = reserved_peak_bytes = 0

    def __init__(self, log: Log) -> None:
        self.log = log

    def malloc(self, size_bytes: int) -> int:
        return self.log.take(size_bytes, "activations")

    def free(self, block: int) -> None:
        self.log.give_back(block)

    def empty_cache(self) -> None:
        self.log.empty_cache()

    def reset_peaks(self) -> None:
        """There are none yet: the log is played later."""


class Tracing(Accounting):
    """A dispatch mode; `phase` names what the blocks taken from now on are for."""

    def __init__(self, log: Log, *, workspace_bytes: int) -> None:
        super().__init__(_Writer(log), workspace_bytes=workspace_bytes, temporaries=temporaries_bytes)
        self.log = log
        self.vocabulary = 0  # logits are what is this wide
        self._shapes = ShapeMemory()
        self._true: set[int] = set()  # storages of booleans whose answer is yes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((args, tuple(kwargs.values()))))
        metas = any(tensor.is_meta for tensor in tensors)
        if func is _SCALAR and metas:
            return self._answer(args[0])
        if not tensors:
            return self._factory(func, args, kwargs)
        if not metas and kwargs.get("device") != META:
            return func(*args, **kwargs)
        if func is _aten.copy_.default and not args[0].is_meta:
            return args[0]  # to the host: nothing to copy
        args, kwargs = _all_meta(args, kwargs)
        if func in _DATA_DEPENDENT:
            func, args, kwargs = _DATA_DEPENDENT[func](*args, **kwargs)
        arrives = func is _aten._to_copy.default and kwargs.get("device") == META
        with self._side(arrives or any(map(self.on_device, tensors))):
            out = super().__torch_dispatch__(func, types, args, kwargs)
        if func in _ALL and isinstance(out, torch.Tensor):
            self._true.add(out.untyped_storage()._cdata)
        return out

    def on_device(self, tensor: torch.Tensor) -> bool:
        return tensor.is_meta and tensor.untyped_storage()._cdata in self._watches

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        return self._shapes.call(func, args, kwargs)

    def take(self, size_bytes: int, func: Any, tensor: torch.Tensor | None) -> Any:
        self._name_phase()
        if tensor is None:
            return self.log.take(size_bytes, "temporaries")
        wide = self.vocabulary and tensor.dim() and tensor.shape[-1] == self.vocabulary and tensor.dim() > 1
        return self.log.take(size_bytes, "logits" if wide else "activations")

    def hold_workspace(self) -> Any:
        return self.log.take(self.workspace_bytes, "workspace")

    def _name_phase(self) -> None:
        """Backward is where autograd runs; what comes after it without gradients (clipping) is the optimizer's."""
        if torch._C._current_graph_task_id() != -1:
            self.log.enter("backward")
        elif self.log.phase == "backward":
            self.log.enter("forward" if torch.is_grad_enabled() else "optimizer")

    def block_of(self, tensor: torch.Tensor) -> int | None:
        watch = self._watches.get(tensor.untyped_storage()._cdata)
        return None if watch is None else watch.block

    def _side(self, device: bool) -> Any:
        return _HERE if device else self.host()

    def _factory(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Make a tensor out of nothing: on the GPU if that is named; a large one of the host without values."""
        if kwargs.get("device") == META:
            return super().__torch_dispatch__(func, (), args, kwargs)
        if "device" not in {item.name for item in func._schema.arguments}:
            return func(*args, **kwargs)
        with self.host():
            bare = {**kwargs, "device": META, "pin_memory": None}
            if "pin_memory" not in {item.name for item in func._schema.arguments}:
                del bare["pin_memory"]
            out = func(*args, **bare)
        large = isinstance(out, torch.Tensor) and out.numel() > HOST_VALUES_AT_MOST and out.is_floating_point()
        return out if large else func(*args, **kwargs)

    def _answer(self, tensor: torch.Tensor) -> bool | int | float:
        """Answer for a tensor without values: `all` holds, nothing else does; no overflow was found; counts are 1."""
        if tensor.dtype is torch.bool:
            return tensor.untyped_storage()._cdata in self._true
        return 0.0 if tensor.is_floating_point() else 1

    def _release(self, watch: Any) -> None:
        self._true.discard(watch.key)
        super()._release(watch)


class _Here:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


_HERE = _Here()
_ALL = {_aten.all.default, _aten.all.dim, _aten.all.dims}


def _masked_select(tensor: torch.Tensor, mask: torch.Tensor) -> Any:
    """Every element: the worst there can be."""
    return _aten.empty.memory_format, ([mask.numel()],), {"dtype": tensor.dtype, "device": META}


_DATA_DEPENDENT = {_aten.masked_select.default: _masked_select}


def _tensors(item: Any) -> Any:
    if isinstance(item, torch.Tensor):
        yield item
    elif isinstance(item, tuple | list):
        for one in item:
            yield from _tensors(one)


def _all_meta(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    return _meta(args), {key: _meta(value) for key, value in kwargs.items()}


def _meta(item: Any) -> Any:
    """Let a host tensor with values stand beside those without; single numbers may anyway."""
    if isinstance(item, torch.Tensor):
        return item if item.is_meta or not item.dim() else torch.empty_like(item, device=META)
    if isinstance(item, tuple | list):
        return type(item)(map(_meta, item))
    return item
