"""Python's garbage collector kept off what is imported and stays to the end.

Importing torch makes a million objects; collections that look through them are a fifth of the time that it takes, once
during the import and once more as the interpreter ends.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def frozen_imports() -> Iterator[None]:
    """Within it nothing is collected; what was made within is never looked through again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
