"""Sees every storage that torch makes and loses, and tells an allocator.

Owns the dispatch mode. Must not know devices, ledgers or what the allocator does with it. One mode watches
real tensors on the CPU (a virtual device) and meta tensors (a trace): both see the same sequence of events.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.memory.allocation import Allocator

if TYPE_CHECKING:
    from typing import Self  # a foreign loop's interpreter may be of Python 3.10

Temporaries = Callable[[Any, tuple[Any, ...]], Iterable[int]]
PLAIN = (torch.Tensor, torch.nn.Parameter)
_READ_SCALAR = torch.ops.aten._local_scalar_dense.default
_MATMULS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm}


class _Watch(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to a storage that carries its block, so that its death can give the block back."""

    __slots__ = ("block", "key")

    block: Any
    key: int


class Accounting(TorchDispatchMode):
    """Count each new storage until it dies.

    `workspace_bytes` is cuBLAS's scratch memory: held for good by each thread that multiplies, the main one
    and autograd's. `temporaries` gives the bytes that a kernel takes inside and gives back before it returns.
    """

    def __init__(
        self, allocator: Allocator, *, workspace_bytes: int = 0, temporaries: Temporaries | None = None
    ) -> None:
        super().__init__()
        self.allocator = allocator
        self.workspace_bytes = workspace_bytes
        self.temporaries = temporaries
        self._watches: dict[int, _Watch] = {}
        self._traits: dict[Any, _Traits] = {}
        self._workspaces: dict[bool, Any] = {}
        self._on_host = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled, and to be skipped by the compiler would import all of it: two seconds."""
        return False

    @contextmanager
    def host(self) -> Iterator[None]:
        """Storages made within are host memory: never counted."""
        self._on_host += 1
        try:
            yield
        finally:
            self._on_host -= 1

    def __enter__(self) -> "Self":
        self._unresized = _listen_at_resizing(self._resized)
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        torch.UntypedStorage.resize_ = self._unresized
        super().__exit__(*error)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if types and any(kind not in PLAIN for kind in types):
            return self._of_others(func, types, args, kwargs)
        if func is _READ_SCALAR and args[0].is_meta:
            return 1.0  # the stand-in answer of a tensor that has no value
        out = self.call(func, args, kwargs)
        if self._on_host:
            return out
        traits = self._traits.get(func)
        if traits is None:
            traits = self._traits[func] = _Traits(func)
        if traits.makes_storage:
            self._watch_all(out, args, func)
            if self.temporaries is not None:
                self._pass_through(self.temporaries(func, args), func)
        if traits.multiplies and self.workspace_bytes:
            self._multiply()
        return out

    def _of_others(self, func: Any, types: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        """Let tensors that are made of others (DTensor's) have their way: the operators on those come here next.

        Fake ones, by which torch works out shapes, have no memory and nothing beneath them.
        """
        if any(kind.__name__ == "FakeTensor" for kind in types):
            return func(*args, **(kwargs or {}))
        return NotImplemented

    def call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        """Run the operator."""
        return func(*args, **kwargs) if kwargs else func(*args)

    def take(self, size_bytes: int, func: Any, tensor: torch.Tensor | None) -> Any:
        """Ask the allocator for what an operator needs: a result, or (no tensor) memory of the kernel's own."""
        return self.allocator.malloc(size_bytes)

    def hold_workspace(self) -> Any:
        """Ask the allocator for a workspace that is never given back."""
        return self.allocator.malloc(self.workspace_bytes)

    def drop_workspaces(self) -> None:
        """Give the workspaces back; the next product of each thread takes its own anew."""
        for block in self._workspaces.values():
            self.allocator.free(block)
        self._workspaces.clear()

    def _watch_all(self, out: Any, args: tuple[Any, ...], func: Any) -> None:
        if isinstance(out, torch.Tensor):
            self._watch(out, args, func)
        elif isinstance(out, tuple | list):
            for item in out:
                self._watch_all(item, args, func)

    def _watch(self, tensor: torch.Tensor, args: tuple[Any, ...], func: Any) -> None:
        if type(tensor) not in PLAIN:
            return  # a fake one: it is as large as its shape says, and takes nothing
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._watches:
            return
        size_bytes = storage.nbytes()
        if not size_bytes or _is_input(key, args):
            return
        watch = _Watch(storage, self._release)
        watch.block = self.take(size_bytes, func, tensor)
        watch.key = key
        self._watches[key] = watch

    def _release(self, watch: _Watch) -> None:
        del self._watches[watch.key]
        if watch.block is not None:
            self.allocator.free(watch.block)

    def _resized(self, storage: torch.UntypedStorage) -> None:
        """Follow a storage that is emptied, and filled again later: FSDP's gathered weights."""
        watch, size_bytes = self._watches.get(storage._cdata), storage.nbytes()
        if watch is None:
            return
        if watch.block is not None:
            self.allocator.free(watch.block)
            watch.block = None
        if size_bytes:
            watch.block = self.take(size_bytes, RESIZE, None)

    def _multiply(self) -> None:
        in_backward = torch._C._current_graph_task_id() != -1
        if in_backward not in self._workspaces:
            self._workspaces[in_backward] = self.hold_workspace()

    def _pass_through(self, sizes_bytes: Iterable[int], func: Any) -> None:
        blocks: list[Any] = []
        try:
            blocks.extend(self.take(size, func, None) for size in sizes_bytes)
        finally:
            for block in blocks:
                self.allocator.free(block)


class _Resize:
    """Stands for an operator where a storage changes its size: torch has none.

    It is called as the one that makes such a storage in the first place, so that a loop's first turn is as any later.
    """

    def name(self) -> str:
        return "aten::empty.memory_format"


RESIZE = _Resize()


def _listen_at_resizing(heard: Callable[[torch.UntypedStorage], None]) -> Callable[..., Any]:
    """Tell of every storage that is resized, which no dispatch mode sees; give what did it before."""
    before = torch.UntypedStorage.resize_

    def resize_(storage: torch.UntypedStorage, size: int) -> Any:
        old_bytes, result = storage.nbytes(), before(storage, size)
        try:
            heard(storage)
        except BaseException:
            before(storage, old_bytes)  # refused: it is as it was
            raise
        return result

    torch.UntypedStorage.resize_ = resize_
    return before


class _Traits:
    """What an operator does to memory: its schema marks views and in-place results."""

    __slots__ = ("makes_storage", "multiplies")

    def __init__(self, func: Any) -> None:
        self.makes_storage = any(item.alias_info is None for item in func._schema.returns)
        self.multiplies = func.overloadpacket in _MATMULS


def _is_input(key: int, args: Iterable[Any]) -> bool:
    """Say whether a storage that nobody watches came in as an argument: host memory, or older than us."""
    for item in args:
        if isinstance(item, torch.Tensor):
            if item.untyped_storage()._cdata == key:
                return True
        elif isinstance(item, tuple | list) and _is_input(key, item):
            return True
    return False
