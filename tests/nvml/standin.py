"""Builds the stand-in for NVIDIA's library, and writes the state of the machine that it shows."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

SOURCE = Path(__file__).with_name("libnvidia-ml.c")
GIB = 1024**3


def build(directory: Path, *, without: Sequence[str] = ()) -> Path:
    """Compile `libnvidia-ml.so.1` into `directory`; functions in `without` are not exported, as in an old driver."""
    directory.mkdir(parents=True, exist_ok=True)
    compiled, library = directory / "standin.o", directory / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-fPIC", "-c", "-o", compiled, SOURCE], check=True)
    for function in without:
        subprocess.run(["objcopy", f"--localize-symbol={function}", compiled], check=True)
    subprocess.run(["gcc", "-shared", "-o", library, compiled], check=True)
    return library


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU of the stand-in; `more` are further lines of its section, such as `fail nvmlDeviceGetName 15`."""

    uuid: str = "GPU-0"
    name: str = "NVIDIA GeForce RTX 4090"
    total: int = 24 * GIB
    reserved: int = GIB // 4
    used: int = GIB
    capability: str = "8.9"
    utilisation: int = 37
    more: tuple[str, ...] = ()

    def but(self, *more: str, **changes: object) -> "Gpu":
        return replace(self, more=(*self.more, *more), **changes)  # type: ignore[arg-type]

    def lines(self) -> list[str]:
        names = ("uuid", "name", "total", "reserved", "used", "capability", "utilisation")
        return ["gpu", *(f"{name} {getattr(self, name)}" for name in names), *self.more]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine as the stand-in shows it, changed at any time by `show()`."""

    library: Path
    state: Path
    driver: str = field(default="570.124.06")

    def show(self, *gpus: Gpu, machine: Sequence[str] = ()) -> None:
        """Show these GPUs from the next call on; `machine` are lines about all of it."""
        lines = [f"driver {self.driver}", *machine, *(line for gpu in gpus for line in gpu.lines())]
        written = self.state.with_suffix(".new")
        written.write_text("\n".join(lines) + "\n")
        written.replace(self.state)

    @property
    def environment(self) -> dict[str, str]:
        """What a probe's process needs to load the stand-in."""
        return {
            **os.environ,
            "LD_LIBRARY_PATH": str(self.library.parent),
            "NVML_STANDIN_STATE": str(self.state),
        }
