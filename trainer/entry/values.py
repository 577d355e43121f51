"""What integers and booleans on the GPU hold, as far as it can be known: they decide how large a mixture's parts are.

Beside the storage of such a tensor lies one on the host, of the same layout, so that views need no care. What is made
of known values alone is computed there. Where numbers with a fraction decide on places (a router's `topk`), there is
a stand-in: each choice as often as any other, or the same for all. Must not know memory.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

VALUES_AT_MOST = 1 << 24  # elements; of larger tensors nothing is known

_aten = torch.ops.aten
_CPU = torch.device("cpu")
_UNFILLED = {_aten.empty, _aten.new_empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty_strided}
_FRACTIONS_FOR_WHOLE = {_aten.histc}  # the host's kernel takes no integers, CUDA's does


class Values:
    def __init__(self, on_device: Callable[[Tensor], bool], *, uneven: bool = False) -> None:
        """Follow what is on the device. With `uneven`, a router sends all to the same experts."""
        self._on_device = on_device
        self.routed = False  # whether a stand-in for places was given, and something was asked of what is known
        self._uneven = uneven
        self._chosen = False
        self._storages: dict[int, torch.UntypedStorage] = {}

    def of(self, tensor: Tensor) -> Tensor | None:
        """Give what a tensor holds, on the host; None where nobody knows."""
        if not tensor.is_meta:
            return tensor
        storage = self._storages.get(tensor.untyped_storage()._cdata)
        if storage is None:
            return None
        self.routed = self._chosen
        return self._laid_out(storage, tensor)

    def forget(self, key: int) -> None:
        self._storages.pop(key, None)

    def learn(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        """Follow an operator: `args` as it was called with, `out` what it gave on the meta device."""
        if func._schema.is_mutable:
            self._rewrite(func, args, kwargs)
            return
        made = [tensor for tensor in tensors_in(out) if self._worth_knowing(tensor)]
        if not made:
            return
        if func.overloadpacket in _PLACES and args[0].is_floating_point():
            for tensor in made:
                self._choose(tensor, func, args, kwargs)
            return
        known = self._computed(func, args, kwargs)
        for meta, value in zip(tensors_in(out), tensors_in(known), strict=False):
            if self._worth_knowing(meta):
                self._keep(meta, value)

    def on_host(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operator with what is known, and stand-ins for what is not: true, or zero."""

        def stand_in(tensor: Tensor) -> Tensor:
            known = self.of(tensor)
            if known is None:
                known = torch.full(tensor.shape, tensor.dtype is torch.bool, dtype=tensor.dtype)
            return known.float() if func.overloadpacket in _FRACTIONS_FOR_WHOLE else known

        return func(*each(args, stand_in), **_on_cpu(each(kwargs, stand_in)))

    def keep_all(self, out: Any, known: Any) -> None:
        """Note what was computed for tensors of the meta device."""
        for meta, value in zip(tensors_in(out), tensors_in(known), strict=True):
            if self._worth_knowing(meta):
                self._keep(meta, value)

    def _rewrite(self, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Do to the known values what is done to their tensor; where that can't be known, nothing is any more."""
        arguments = dict(zip((item.name for item in func._schema.arguments), args, strict=False)) | kwargs
        written = [
            arguments.get(item.name)
            for item in func._schema.arguments
            if item.alias_info is not None and item.alias_info.is_write
        ]
        keys = [tensor.untyped_storage()._cdata for tensor in tensors_in(written) if tensor.is_meta]
        if any(key in self._storages for key in keys) and self._computed(func, args, kwargs) is None:
            for key in keys:
                self.forget(key)

    def _computed(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run an operator on known values; None unless all are known."""
        known = {id(tensor): self._peek(tensor) for tensor in tensors_in((args, tuple(kwargs.values())))}
        if any(value is None for value in known.values()):
            return None
        values, named = (each(item, lambda tensor: known[id(tensor)]) for item in (args, kwargs))
        try:
            result = func(*values, **_on_cpu(named))
        except (RuntimeError, NotImplementedError, IndexError):
            return None  # the host's kernels lack something, or the values are stand-ins that do not go together
        if func.overloadpacket in _UNFILLED:
            result.zero_()
        return result

    def _peek(self, tensor: Tensor) -> Tensor | None:
        routed = self.routed
        value = self.of(tensor)
        self.routed = routed
        return value

    def _choose(self, made: Tensor, func: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Give stand-ins for the places that numbers with a fraction decide on."""
        arguments = dict(zip((item.name for item in func._schema.arguments), args, strict=False)) | kwargs
        dim, among = arguments.get("dim", -1), args[0]
        choices = max(1, among.numel() if dim is None or not among.dim() else among.shape[dim])
        ranked = made.dim() == among.dim() > 0 and dim is not None  # several choices a row, or one
        shape = made.movedim(dim, -1).shape if ranked else made.shape
        numbers = torch.arange(made.numel()).reshape(shape)
        if self._uneven:
            numbers = numbers % shape[-1] if ranked else torch.zeros_like(numbers)
        numbers = numbers % choices
        self._chosen = True
        self._keep(made, numbers.movedim(-1, dim) if ranked else numbers)

    def _worth_knowing(self, tensor: Tensor) -> bool:
        whole = not tensor.dtype.is_floating_point and not tensor.dtype.is_complex
        return whole and tensor.numel() <= VALUES_AT_MOST and self._on_device(tensor)

    def _keep(self, meta: Tensor, value: Tensor) -> None:
        whole = meta.untyped_storage()
        if whole._cdata in self._storages or whole.nbytes() > 8 * VALUES_AT_MOST:
            return  # a view, of what is known already
        storage = torch.UntypedStorage(whole.nbytes())
        self._laid_out(storage, meta).copy_(value)
        self._storages[whole._cdata] = storage

    @staticmethod
    def _laid_out(storage: torch.UntypedStorage, like: Tensor) -> Tensor:
        bare = torch.empty(0, dtype=like.dtype, device=_CPU)
        return bare.set_(storage, like.storage_offset(), like.shape, like.stride())


_PLACES = {
    _aten.topk,
    _aten.sort,
    _aten.argsort,
    _aten.argmax,
    _aten.argmin,
    _aten.max,
    _aten.min,
    _aten.multinomial,
}


def each(item: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(item, Tensor):
        return change(item)
    if isinstance(item, tuple | list):
        return type(item)(each(element, change) for element in item)
    if isinstance(item, dict):
        return {key: each(element, change) for key, element in item.items()}
    return item


def tensors_in(item: Any) -> Iterator[Tensor]:
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, tuple | list):
        for element in item:
            yield from tensors_in(element)


def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    named = {key: value for key, value in kwargs.items() if key not in ("generator", "pin_memory")}
    return {**named, "device": _CPU} if "device" in named else named
