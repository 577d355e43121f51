"""Remembers what an operator gave on meta tensors of the same shapes: a model of equal layers asks again and again.

Owns the memory of shapes. Torch's own answer, in Python for most operators, takes half a millisecond; this ten
microseconds. Operators that write to or alias their arguments are never remembered.
"""

from collections.abc import Hashable
from typing import Any

import torch

META = torch.device("meta")
_Shape = tuple[torch.Size, tuple[int, ...], torch.dtype]


class ShapeMemory:
    def __init__(self) -> None:
        self._known: dict[Hashable, _Shape] = {}
        self._pure: dict[Any, bool] = {}

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        """Call an operator, or make the tensor that it would give."""
        pure = self._pure.get(func)
        if pure is None:
            pure = self._pure[func] = _is_pure(func)
        if not pure:
            return func(*args, **(kwargs or {}))
        key = (func, _key(args), _key(tuple(kwargs.items())) if kwargs else (), torch.get_default_dtype())
        known = self._known.get(key)
        if known is not None:
            shape, stride, dtype = known
            return torch.empty_strided(shape, stride, dtype=dtype, device=META)
        out = func(*args, **(kwargs or {}))
        if _is_fresh(out, args):
            self._known[key] = (out.shape, out.stride(), out.dtype)
        return out


def _is_pure(func: Any) -> bool:
    """Say whether it gives one new tensor and touches nothing."""
    schema = func._schema
    single = len(schema.returns) == 1 and str(schema.returns[0].type) == "Tensor"
    return single and not schema.is_mutable and all(item.alias_info is None for item in schema.returns)


def _key(item: Any) -> Hashable:
    if isinstance(item, torch.Tensor):
        return item.shape, item.stride(), item.dtype, item.device.type
    if isinstance(item, tuple | list):
        return tuple(map(_key, item))
    return type(item), item


def _is_fresh(out: Any, args: tuple[Any, ...]) -> bool:
    """Say whether the result is a meta tensor in memory of its own that `empty_strided` would make alike."""
    if not isinstance(out, torch.Tensor) or not out.is_meta:
        return False
    alike = torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device=META)
    return alike.untyped_storage().nbytes() == out.untyped_storage().nbytes() and not _aliases(out, args)


def _aliases(out: torch.Tensor, args: Any) -> bool:
    if isinstance(args, torch.Tensor):
        return bool(args.untyped_storage()._cdata == out.untyped_storage()._cdata)
    return isinstance(args, tuple | list) and any(_aliases(out, item) for item in args)
