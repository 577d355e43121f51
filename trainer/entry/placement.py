"""Lets a loop say `cuda` where there is none: what it makes or moves there is made on the meta device.

Owns the translation of devices, both ways. What is counted is the tracing's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from trainer.entry.tracing import HOST_VALUES_AT_MOST, META, Tracing

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
_Tensor = torch.Tensor
_FROM_DATA = {torch.tensor, torch.as_tensor, torch.asarray}


class Placement(TorchFunctionMode):
    def __init__(self, tracing: Tracing) -> None:
        super().__init__()
        self._tracing = tracing
        self._special: dict[Any, Callable[..., Any]] = {
            _Tensor.to: self._to,
            _Tensor.cuda: lambda tensor, *_, **__: self._moved(tensor, None),
            _Tensor.cpu: lambda tensor, *_, **__: self._fetched(tensor, None),
            _Tensor.tolist: lambda tensor: self._values(tensor).tolist(),
            _Tensor.numpy: lambda tensor, **_: self._values(tensor).numpy(),
            _Tensor.pin_memory: lambda tensor, *_: tensor,
            _Tensor.device.__get__: self.device_of,
            _Tensor.is_cuda.__get__: self._tracing.on_device,
            _Tensor.is_meta.__get__: lambda tensor: False,
            _Tensor.is_cpu.__get__: lambda tensor: not self._tracing.on_device(tensor),
            _Tensor.__format__: lambda tensor, how: format(tensor.item() if not tensor.dim() else repr(tensor), how),
            _Tensor.__array__: lambda tensor, *given: self._values(tensor).__array__(*given),
            torch.isfinite: self._finite,
            _Tensor.isfinite: self._finite,
            _Tensor.get_device: lambda tensor: 0 if self._tracing.on_device(tensor) else -1,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        special = self._special.get(func)
        if special is not None:
            return special(*args, **kwargs)
        if func in _FROM_DATA and is_cuda(kwargs.get("device")):
            del kwargs["device"]
            return self._moved(func(*args, **kwargs), None).requires_grad_(bool(kwargs.get("requires_grad")))
        if "device" in kwargs and is_cuda(kwargs["device"]):
            kwargs["device"] = META
            kwargs.pop("generator", None)
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return func(*args, **kwargs)

    @contextmanager
    def also_in_hooks(self) -> Iterator[None]:
        """Let what torch runs without modes say `cuda` too: a backward pass, and the hooks of tensors saved for it."""
        hooks = torch.autograd.graph.saved_tensors_hooks
        make = hooks.__init__

        def made(hooks: Any, pack_hook: Callable[..., Any], unpack_hook: Callable[..., Any]) -> None:
            make(hooks, self._within(pack_hook), self._within(unpack_hook))

        with (
            patch.object(torch.autograd, "_engine_run_backward", self._within(torch.autograd._engine_run_backward)),
            patch.object(hooks, "__init__", made),
        ):
            yield

    def _within(self, called: Callable[..., Any]) -> Callable[..., Any]:
        def within(*args: Any, **kwargs: Any) -> Any:
            if any(mode is self for mode in _get_current_function_mode_stack()):
                return called(*args, **kwargs)
            with self:
                return called(*args, **kwargs)

        return within

    def device_of(self, tensor: torch.Tensor) -> torch.device:
        return CUDA if self._tracing.on_device(tensor) else CPU

    def _to(self, tensor: torch.Tensor, *given: Any, **kwargs: Any) -> torch.Tensor:
        args = list(given)
        if args and isinstance(args[0], torch.Tensor):
            args, kwargs = [], {"device": self.device_of(args[0]), "dtype": args[0].dtype, **kwargs}
        while args and args[0] is None:
            args.pop(0)
        if args and isinstance(args[0], bool):
            args = []  # neither a device nor a dtype: whether to wait, and whether to copy
        copy = kwargs.pop("copy", False)
        device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
        if device is not None and is_cuda(device):
            return self._moved(tensor, dtype)
        if device is not None and device.type == "cpu":
            return self._fetched(tensor, dtype)
        if memory_format is not None:
            return tensor.to(dtype=dtype or tensor.dtype, copy=copy, memory_format=memory_format)
        return tensor.to(dtype or tensor.dtype, copy=copy)

    def _moved(self, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        if self._tracing.on_device(tensor):
            return tensor if dtype is None else tensor.to(dtype)
        return torch.ops.aten._to_copy(tensor, dtype=dtype or tensor.dtype, device=META)

    def _fetched(self, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        if not self._tracing.on_device(tensor):
            return tensor if dtype is None else tensor.to(dtype)
        return self._values(tensor, dtype)

    def _finite(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Let all be finite: loops that ask go on then."""
        finite = torch.isfinite(*args, **kwargs)
        self._tracing.affirm(finite)
        return finite

    def _values(self, tensor: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Give what a tensor holds, as far as it is known; else zeros, or nothing where that would be much."""
        if not tensor.is_meta:
            return tensor
        known = self._tracing.values.of(tensor)
        if known is not None:
            return known.clone() if dtype is None else known.to(dtype, copy=True)
        large = tensor.numel() > HOST_VALUES_AT_MOST
        with self._tracing.host(), torch.no_grad():
            return torch.zeros(tensor.shape, dtype=dtype or tensor.dtype, device=META if large else CPU)


def is_cuda(device: Any) -> bool:
    """Say whether a device is the GPU, as a loop names it or as it was translated on the way."""
    if isinstance(device, bool) or not isinstance(device, int | str | torch.device):
        return False
    return isinstance(device, int) or str(device).partition(":")[0] in ("cuda", "meta")
