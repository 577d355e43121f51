"""Why a loop can't be traced: the entry itself, or an operator or a part of torch, and what helps.

Must not import torch: it is asked where there may be none.
"""

from typing import Any


class Untraceable(Exception):
    """Of a kind that we know; the message is a sentence for the person."""


class BadEntry(Untraceable):
    """The entry can't be used; the message says why, and what one must be."""


class NoUpdate(Untraceable):
    """The loop does not train, as far as can be seen."""


class NoKernel(Untraceable):
    """An operator whose result can't be known without running it."""


class NotTraced(Untraceable):
    """A part of torch that has no stand-in here."""


def no_kernel(func: Any) -> NoKernel:
    name = func._schema.name
    if func.namespace == "aten":
        message = f"torch's {name} has no shape that is known without values: leave it out of the step that is traced"
    else:
        message = (
            f"{name} is an extension's kernel, of which nothing is known: give it a shape with"
            f" torch.library.register_fake({name!r}), or let an argument (--set) switch it off"
        )
    return NoKernel(message)
