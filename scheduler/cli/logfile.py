"""Reading a log that grows, and that may be rotated or cut while it is read."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from scheduler.processes.regular import open_regular

CHUNK_BYTES = 1 << 16


class LogFile:
    """Remembers how far it was read. Rotated means: another file stands under the name, or it became shorter."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: BinaryIO | None = None

    def read(self) -> Iterator[str]:
        """What was written since the last call; first the rest of a file that was rotated away."""
        yield from self._rest()
        if self._rotated():
            self.close()
            with contextlib.suppress(FileNotFoundError):
                self._stream = open_regular(self._path)
            yield from self._rest()

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _rest(self) -> Iterator[str]:
        """Everything up to the last complete character."""
        kept = b""
        while self._stream is not None and (chunk := self._stream.read(CHUNK_BYTES)):
            text, kept = _decode(kept + chunk)
            yield text
        if kept and self._stream is not None:
            self._stream.seek(-len(kept), os.SEEK_CUR)

    def _rotated(self) -> bool:
        if self._stream is None:
            return True
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False  # the next one is not there yet
        ours = os.fstat(self._stream.fileno())
        return (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino) or now.st_size < self._stream.tell()


def _decode(raw: bytes) -> tuple[str, bytes]:
    """Text, and the bytes of a last character that is not complete yet."""
    for cut in range(min(3, len(raw)) + 1):
        head = raw[: len(raw) - cut]
        try:
            return head.decode(), raw[len(head) :]
        except UnicodeDecodeError as error:
            if error.end < len(head) or "unexpected end" not in error.reason:
                break
    return raw.decode(errors="replace"), b""
