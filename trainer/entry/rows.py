"""Data loaders of a foreign loop, which read their rows in this process and leave them where they are.

Workers and pinned memory are the host's, and cost the GPU nothing; but a worker is a process, and pinning a thread, in
which there is no GPU to be found and nothing is traced.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch.utils.data import DataLoader


@contextmanager
def loading_in_process() -> Iterator[None]:
    """Within it, a loader that is made takes no workers and pins nothing, whatever it is told."""
    make = DataLoader.__init__

    def made(loader: Any, *args: Any, **kwargs: Any) -> None:
        make(loader, *args, **kwargs)
        loader.num_workers = loader.timeout = 0
        loader.pin_memory = False

    with patch.object(DataLoader, "__init__", made):
        yield
