"""`torch.autocast("cuda")` where there is no CUDA: its casts, its lists and its cache of cast weights.

Torch's own kernels for it pass by every tensor that is not on a GPU, so each is replaced, for as long as the emulation
lasts, by one that casts meta tensors. The lists are torch's (aten/src/ATen/autocast_mode.h); what torch registers and
no list here names runs in fp32, as most of it does.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

_KEY = "AutocastCUDA"
_LOWER = frozenset(
    "_convolution _thnn_fused_gru_cell _thnn_fused_lstm_cell _scaled_dot_product_flash_attention addbmm addmm addmv"
    " addr baddbmm bmm chain_matmul conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d"
    " convolution cudnn_convolution cudnn_convolution_transpose einsum gru_cell linalg_multi_dot linalg_vecdot linear"
    " lstm_cell matmul mm mv prelu rnn_relu_cell rnn_tanh_cell scaled_dot_product_attention".split()
)
_DTYPE_ARGUMENT = frozenset(
    "prod softmax log_softmax cumprod cumsum linalg_vector_norm linalg_matrix_norm sum norm".split()
)
_PROMOTE = frozenset(
    "addcdiv addcmul atan2 bilinear cat cross dot grid_sampler index_put scatter_add stack tensordot vdot".split()
)


class Autocast:
    """The cache, and the kernels; one for an emulation."""

    def __init__(self) -> None:
        self._cast: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def clear(self) -> None:
        self._cast.clear()

    @contextmanager
    def registered(self) -> Iterator[None]:
        """Within it, torch's autocast for CUDA acts on meta tensors."""
        library = torch.library.Library("aten", "IMPL", _KEY)
        for name in torch._C._dispatch_get_registrations_for_dispatch_key(_KEY):
            kernel = self._kernel(name.removeprefix("aten::"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a kernel of torch's own is overridden
                library.impl(name.removeprefix("aten::"), kernel)
        try:
            with torch._C._IncludeDispatchKeyGuard(torch._C.DispatchKey.AutocastCUDA):
                yield
        finally:
            self.clear()
            library._destroy()

    def _kernel(self, name: str) -> Callable[..., Any]:
        base, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, base), overload or "default")
        if base in _LOWER:
            cast = self._lower
        elif base in _PROMOTE:
            cast = _widest
        elif base in _DTYPE_ARGUMENT and any(item.name == "dtype" for item in operator._schema.arguments):
            place = next(n for n, item in enumerate(operator._schema.arguments) if item.name == "dtype")
            cast = partial(_dtype_argument, place)
        else:
            cast = _single
        plain = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)

        def kernel(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = cast(args, kwargs)
            with torch._C._ExcludeDispatchKeyGuard(plain):
                return operator(*args, **kwargs)

        return kernel

    def _lower(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        dtype = torch.get_autocast_dtype("cuda")
        return _each(args, lambda t: self._cached(t, dtype)), {
            key: _each(value, lambda t: self._cached(t, dtype)) for key, value in kwargs.items()
        }

    def _cached(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Cast; weights once until the outermost autocast ends."""
        if tensor.dtype == dtype or not _eligible(tensor):
            return tensor
        kept = (
            torch.is_autocast_cache_enabled()
            and tensor.requires_grad
            and tensor.is_leaf
            and tensor.dtype is torch.float32
            and not tensor._is_view()
        )
        if not kept:
            return tensor.to(dtype)
        if id(tensor) not in self._cast:
            self._cast[id(tensor)] = (tensor, tensor.to(dtype))
        return self._cast[id(tensor)][1]


def _eligible(tensor: torch.Tensor) -> bool:
    return tensor.is_meta and tensor.is_floating_point() and tensor.dtype is not torch.float64


def _single(args: Any, kwargs: Any) -> tuple[Any, Any]:
    def cast(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.float() if _eligible(tensor) else tensor

    return _each(args, cast), {key: _each(value, cast) for key, value in kwargs.items()}


def _dtype_argument(index: int, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Ask the operator itself for fp32, unless a dtype was given: it may read the half-precision input as it is."""
    dtype = args[index] if index < len(args) else kwargs.get("dtype")
    if dtype is not None or not isinstance(args[0], torch.Tensor) or not _eligible(args[0]):
        return args, kwargs
    if index < len(args):
        return (*args[:index], torch.float32, *args[index + 1 :]), kwargs
    return args, {**kwargs, "dtype": torch.float32}


def _widest(args: Any, kwargs: Any) -> tuple[Any, Any]:
    met: list[torch.dtype] = []
    _each((args, tuple(kwargs.values())), lambda t: met.append(t.dtype) if _eligible(t) else None)
    wide = torch.float32 if torch.float32 in met else torch.get_autocast_dtype("cuda")

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(wide) if _eligible(tensor) else tensor

    return _each(args, cast), {key: _each(value, cast) for key, value in kwargs.items()}


def _each(item: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    if isinstance(item, torch.Tensor):
        return change(item)
    if isinstance(item, tuple | list):
        return type(item)(_each(element, change) for element in item)
    return item
