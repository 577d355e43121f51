"""Selective checkpointing: what is cheap to make is not kept for the backward pass but made again there.

Owns the recipes. `cheap` marks a call whose result another operator will save; within `forgetting()` autograd keeps the
call in the place of its result. Products and attention are never run twice, so it costs a few passes over memory, where
running a whole block again costs a third of its arithmetic. The second result is the first, bit for bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling


class _Recipe:
    """How to make one tensor again; made once for all who saved it, and gone with the last of them."""

    def __init__(self, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
        self._function = function
        self._arguments = tuple(
            argument.detach() if isinstance(argument, Tensor) else argument for argument in arguments
        )
        self._made: Tensor | None = None
        self.wanted = 0

    def make(self) -> Tensor:
        if self._made is None:
            with torch.no_grad():
                self._made = self._function(*self._arguments)
        made = self._made
        self.wanted -= 1
        if not self.wanted:
            self._made = None
        return made


class _Forgotten:
    """A saved tensor of which only the recipe is left, and how it lay in the memory of the result."""

    def __init__(self, recipe: _Recipe, tensor: Tensor) -> None:
        recipe.wanted += 1
        self._recipe = recipe
        self._layout = tensor.shape, tensor.stride(), tensor.storage_offset()

    def make(self) -> Tensor:
        return self._recipe.make().as_strided(*self._layout)


class _Recipes:
    """Those of one block. Each result lives as long, so that no other tensor takes its place in memory."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[_Recipe, Tensor]] = {}

    def note(self, result: Tensor, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
        self._known[result.untyped_storage()._cdata] = _Recipe(function, arguments), result.detach()

    def forget(self, tensor: Tensor) -> Tensor | _Forgotten:
        recipe = self._known.get(tensor.untyped_storage()._cdata)
        return tensor if recipe is None else _Forgotten(recipe[0], tensor)

    def end(self) -> None:
        self._known.clear()


_recipes: ContextVar[_Recipes | None] = ContextVar("recipes", default=None)


def cheap(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Call a function that gives a new tensor and depends on its arguments alone."""
    result = function(*arguments)
    recipes = None if is_compiling() else _recipes.get()
    if recipes is not None:
        recipes.note(result, function, arguments)
    return result


@contextmanager
def forgetting() -> Iterator[None]:
    """Within it, results of `cheap` calls are not kept for the backward pass."""
    recipes = _Recipes()
    token = _recipes.set(recipes)
    try:
        with torch.autograd.graph.saved_tensors_hooks(recipes.forget, _made):
            yield
    finally:
        _recipes.reset(token)
        recipes.end()  # autograd holds on to its hooks, and so to them


def _made(saved: Tensor | _Forgotten) -> Tensor:
    return saved if isinstance(saved, Tensor) else saved.make()
