"""The clock and the disk of the processes under test, as `world.c` makes them: changed at any time, for all at once."""

import mmap
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("world.c")
FIELDS = ("clock_offset_seconds", "countdown", "kills", "full")
PREFIX_BYTES = 512
SIZE = 8 * len(FIELDS) + PREFIX_BYTES
CHANGES = "PYTHON_FAULTS_CHANGES"  # names the file in which each change of the disk is told


class World:
    """`shared` is the file that all who live in it share."""

    def __init__(self, shared: Path) -> None:
        self.shared = shared
        with shared.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), SIZE)

    @classmethod
    def make(cls, folder: Path, disk: Path) -> "World":
        """Build the library, and a calm world in which `disk` is what of the file system is the disk."""
        command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", folder / "world.so", SOURCE, "-ldl"]
        subprocess.run(command, check=True)
        (folder / "world").write_bytes(b"\0" * 8 * len(FIELDS) + str(disk).encode().ljust(PREFIX_BYTES, b"\0"))
        return cls(folder / "world")

    @property
    def environment(self) -> dict[str, str]:
        """For who is to live in it."""
        return {"LD_PRELOAD": str(self.shared.with_name("world.so")), "PYTHON_FAULTS_WORLD": str(self.shared)}

    def set(self, **values: int) -> None:
        for name, value in values.items():
            struct.pack_into("q", self._memory, 8 * FIELDS.index(name), value)

    def get(self, name: str) -> int:
        return int(struct.unpack_from("q", self._memory, 8 * FIELDS.index(name))[0])

    def kill_at(self, change: int) -> None:
        """Kill whoever is about to make the change of this number, counted from now."""
        self.set(kills=1, countdown=change)

    def full_from(self, change: int) -> None:
        """Let no space be left from the change of this number on, counted from now."""
        self.set(kills=0, full=0, countdown=change)

    def calm(self) -> None:
        self.set(countdown=0, kills=0, full=0)
