"""Sees every storage of a foreign loop and writes down those that would lie on the GPU.

Owns the question where a tensor lies: on the GPU if it was made or moved there, or computed from one that is; all else
is the host's, and free. On the meta device neither has values; a question for one gets what is known of it (`Values`),
or a stand-in answer.
"""

from typing import Any

import torch

from trainer.entry.kernels import temporaries_bytes
from trainer.entry.log import Log
from trainer.entry.unknown import no_kernel
from trainer.entry.values import Values, each, tensors_in
from trainer.memory.accounting import PLAIN, Accounting
from trainer.processes.parts import held
from trainer.trace.shapes import ShapeCache

META = torch.device("meta")
HOST_RUN_AT_MOST = 1 << 26  # elements; on more no operator is tried on the host to learn the shape of its result
HOST_VALUES_AT_MOST = 1 << 16  # elements; larger floating-point tensors of the host are kept without values

_aten = torch.ops.aten
_SCALAR = _aten._local_scalar_dense.default
_GROUPED = getattr(getattr(_aten, "_grouped_mm", None), "default", None)  # not in older torch


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

    def __init__(self, log: Log, *, workspace_bytes: int, uneven: bool = False) -> None:
        super().__init__(_Writer(log), workspace_bytes=workspace_bytes, temporaries=temporaries_bytes)
        self.log = log
        self.values = Values(self.on_device, uneven=uneven)
        self.vocabulary = 0  # logits are what is this wide
        self._shapes = ShapeCache()
        self._true: set[int] = set()  # storages of booleans whose answer is yes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if types and any(kind not in PLAIN for kind in types):
            return self._of_others(func, types, args, kwargs)
        with torch._C.DisableTorchFunction():  # in a backward pass the translation of calls is still there
            return self._traced(func, types, args, _translated(kwargs or {}))

    def _traced(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = list(tensors_in((args, tuple(kwargs.values()))))
        metas = any(tensor.is_meta for tensor in tensors)
        if func is _SCALAR and metas:
            return self._answer(args[0])
        if not tensors:
            out = self._factory(func, args, kwargs)
        elif not metas and kwargs.get("device") != META:
            return func(*args, **kwargs)
        elif func is _aten.copy_.default and not args[0].is_meta:
            known = self.values.of(args[1])
            return args[0] if known is None else func(args[0], known)
        else:
            args = self._places_for_masks(func, args)
            out = self._on_device_or_not(func, types, args, kwargs, tensors)
        self.values.learn(func, args, kwargs, out)
        return out

    def _on_device_or_not(
        self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[torch.Tensor]
    ) -> Any:
        self._given = args, kwargs
        if func.overloadpacket not in _COUNTED_ON_HOST:
            args, kwargs = each(args, _meta), each(kwargs, _meta)
        arrives = kwargs.get("device") == META
        with self._side(arrives or any(map(self.on_device, tensors))):
            out = super().__torch_dispatch__(func, types, args, kwargs)
        del self._given  # or it would keep tensors alive until the next operator
        if func in _ALL and isinstance(out, torch.Tensor):
            self.affirm(out)
        return out

    def affirm(self, tensor: torch.Tensor) -> None:
        """Answer yes to whoever asks for this boolean."""
        tensor = held(tensor)
        if self.on_device(tensor):
            self._true.add(tensor.untyped_storage()._cdata)

    def _places_for_masks(self, func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Turn masks into places, as indexing on CUDA does."""
        if func.overloadpacket not in _INDEXED:
            return args
        places: list[Any] = []
        for item in args[1]:
            if item is not None and item.dtype is torch.bool and item.is_meta:
                places.extend(self.__torch_dispatch__(_aten.nonzero.default, (), (item,)).unbind(1))
            else:
                places.append(item)
        return (args[0], places, *args[2:])

    def on_device(self, tensor: torch.Tensor) -> bool:
        tensor = held(tensor)
        return tensor.is_meta and tensor.untyped_storage()._cdata in self._watches

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        if func.overloadpacket in _SIZED_BY_VALUES:
            return self._sized_by_values(func, args, kwargs or {})
        if func is _GROUPED:
            return _grouped_products(func, args, kwargs or {})
        try:
            return self._shapes.call(func, args, kwargs)
        except NotImplementedError as error:  # no kernel for the meta device
            return self._as_on_host(func, error)

    def _sized_by_values(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As many as are chosen; where that is not known, all: the most there can be."""
        args_as_given, _ = self._given
        if self.values.of(args_as_given[-1]) is not None:
            return self._as_on_host(func, None)
        if func is _aten.masked_select.default:
            return torch.empty(args[1].numel(), dtype=args[0].dtype, device=META)
        if func is _aten.nonzero.default:
            return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.int64, device=META)
        if kwargs.get("output_size") is None:
            raise no_kernel(func)
        return func(*args, **kwargs)

    def _as_on_host(self, func: Any, error: Exception | None) -> Any:
        """Run an operator on the host, with stand-ins for what is not known, and give meta tensors of those shapes."""
        args, kwargs = self._given
        tensors = list(tensors_in((args, tuple(kwargs.values()))))
        if func.namespace != "aten" or sum(tensor.numel() for tensor in tensors) > HOST_RUN_AT_MOST:
            raise no_kernel(func) from error
        try:
            values = self.values.on_host(func, args, kwargs)
        except (RuntimeError, NotImplementedError) as refusal:
            raise no_kernel(func) from refusal
        out = each(values, lambda tensor: torch.empty_like(tensor, device=META))
        if all(self.values.of(tensor) is not None for tensor in tensors):
            self.values.keep_all(out, values)
        return out

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
        watch = self._watches.get(held(tensor).untyped_storage()._cdata)
        return None if watch is None else watch.block

    def _side(self, device: bool) -> Any:
        return _ON_DEVICE if device else self.host()

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
        """Answer; without values `all` and `isfinite` hold, nothing else does; no overflow was found; counts are 1."""
        known = self.values.of(tensor)
        if known is not None:
            answer: bool | int | float = known.item()
            return answer
        if tensor.dtype is torch.bool:
            return tensor.untyped_storage()._cdata in self._true
        return 0.0 if tensor.is_floating_point() else 1

    def _release(self, watch: Any) -> None:
        self._true.discard(watch.key)
        self.values.forget(watch.key)
        super()._release(watch)


class _OnDevice:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


_ON_DEVICE = _OnDevice()
_ALL = {_aten.all.default, _aten.all.dim, _aten.all.dims, _aten._is_all_true.default}

_INDEXED = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}
_COUNTED_ON_HOST = {_aten._pack_padded_sequence}  # which takes its lengths from there, also on CUDA
_SIZED_BY_VALUES = {_aten.nonzero, _aten.masked_select, _aten.repeat_interleave}


def _grouped_products(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor:
    """In any dtype, as on CUDA; the meta device's own takes bfloat16 alone."""
    narrow = [each(item, lambda tensor: tensor.bfloat16() if tensor.is_floating_point() else tensor) for item in args]
    out: torch.Tensor = func(*narrow, **kwargs)
    return torch.empty_strided(out.shape, out.stride(), dtype=args[0].dtype, device=META)


def _translated(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Let a device that was named by default, which comes past the translation of calls, be translated too."""
    device = kwargs.get("device")
    return {**kwargs, "device": META} if device is not None and torch.device(device).type == "cuda" else kwargs


def _meta(tensor: torch.Tensor) -> torch.Tensor:
    """Let a host tensor with values stand beside those without; single numbers may anyway."""
    return tensor if tensor.is_meta or not tensor.dim() else torch.empty_like(tensor, device=META)
