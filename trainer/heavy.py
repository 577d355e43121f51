"""Importing much, and ending after it, without Python's searches for garbage among what stays to the end.

Torch makes a million objects as it is imported; looking through them is a fifth of the time that takes, once on the
way in and once more on the way out.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_to_the_end() -> Iterator[None]:
    """Within it nothing is searched; what was made within is never searched again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
