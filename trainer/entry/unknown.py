"""What is said of what can't be traced: which operator or part of torch, and what helps."""

from typing import Any


class NoKernel(Exception):
    """An operator whose result can't be known without running it."""


class NotTraced(Exception):
    """A part of torch that has no stand-in here."""


def no_kernel(func: Any) -> NoKernel:
    name = func._schema.name
    if func.namespace == "aten":
        told = f"torch's {name} gives no shape without values: leave it out of the step that is traced"
    else:
        told = (
            f"{name} is an extension's kernel, which nothing is known of: give it a shape with"
            f" torch.library.register_fake({name!r}), or let an argument (--set) switch it off"
        )
    return NoKernel(told)
