"""A cache of what operators return on meta tensors: a model of equal layers asks for the same shapes again and again.

Torch's own shape rules, in Python for most operators, take half a millisecond; this takes ten microseconds. An
operator in place is cached if it leaves the layout of its arguments as it was, and then does nothing when it is met
again. One that returns a view never is.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch

META = torch.device("meta")


class _NewTensor(NamedTuple):
    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def make(self) -> torch.Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=META)


class ShapeCache:
    def __init__(self) -> None:
        self._results: dict[Hashable, Any] = {}
        self._methods: dict[Any, Callable[..., Any]] = {}

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        """Call an operator, or make the tensor that it would return."""
        method = self._methods.get(func)
        if method is None:
            method = self._methods[func] = self._method_for(func)
        return method(func, args, kwargs or {})

    def _method_for(self, func: Any) -> Callable[..., Any]:
        schema = func._schema
        single = len(schema.returns) == 1 and str(schema.returns[0].type) == "Tensor"
        if not schema.is_mutable:
            is_new = single and all(item.alias_info is None for item in schema.returns)
            return self._call_functional if is_new else _call_uncached
        if torch.Tag.inplace_view in func.tags:
            return _call_uncached
        if not schema.returns or (single and schema.returns[0].alias_info is not None):
            return self._call_in_place
        return _call_uncached

    def _call_functional(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call one that returns a new tensor, and writes to none."""
        key = _cache_key(func, args, kwargs)
        cached = self._results.get(key)
        if cached is not None:
            return cached.make()
        out = func(*args, **kwargs)
        if _is_plain(out, args):
            self._results[key] = _NewTensor(out.shape, out.stride(), out.dtype)
        return out

    def _call_in_place(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call one that writes in place. Without values there is nothing to do once their layout is known to stay."""
        key = _cache_key(func, args, kwargs)
        find_result = self._results.get(key)
        if find_result is not None:
            return find_result(args, kwargs)
        before = _layout(args), _layout(tuple(kwargs.values()))
        out = func(*args, **kwargs)
        if before == (_layout(args), _layout(tuple(kwargs.values()))):
            find_result = _result_finder(out, args, kwargs)
            if find_result is not None:
                self._results[key] = find_result
        return out


def _call_uncached(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _result_finder(out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any] | None:
    """Return a function that finds the result among the arguments; None where it is not there."""
    if out is None:
        return _no_result if all(tensor.is_meta for tensor in _tensors((args, tuple(kwargs.values())))) else None
    if not out.is_meta:
        return None
    index = next((number for number, item in enumerate(args) if item is out), None)
    if index is not None:
        return lambda args, _: args[index]
    name = next((name for name, item in kwargs.items() if item is out), None)
    return None if name is None else lambda _, kwargs: kwargs[name]


def _no_result(_: Any, __: Any) -> None:
    """The operator returns nothing."""


def _cache_key(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    return func, _signature(args), _signature(tuple(kwargs.items())) if kwargs else (), torch.get_default_dtype()


def _signature(item: Any) -> Hashable:
    if isinstance(item, torch.Tensor):
        return item.shape, item.stride(), item.dtype, item.is_meta
    if isinstance(item, tuple | list):
        return tuple(map(_signature, item))
    return type(item), item


def _layout(args: Any) -> list[Any]:
    return [
        (t.shape, t.stride(), t.storage_offset(), t.untyped_storage()._cdata, t.untyped_storage().nbytes())
        for t in _tensors(args)
    ]


def _tensors(item: Any) -> list[torch.Tensor]:
    if isinstance(item, torch.Tensor):
        return [item]
    return [tensor for element in item for tensor in _tensors(element)] if isinstance(item, tuple | list) else []


def _is_plain(out: Any, args: tuple[Any, ...]) -> bool:
    """Say whether the result is a meta tensor in memory of its own, as `empty_strided` would make it."""
    if not isinstance(out, torch.Tensor) or not out.is_meta:
        return False
    plain = torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device=META)
    return plain.untyped_storage().nbytes() == out.untyped_storage().nbytes() and not _aliases(out, args)


def _aliases(out: torch.Tensor, args: Any) -> bool:
    return any(tensor.untyped_storage()._cdata == out.untyped_storage()._cdata for tensor in _tensors(args))
