"""The devices of a simulation, as `4x24GiB` or `4x24GiB,2x48GiB` names them."""

import re
from dataclasses import dataclass

from scheduler.units import format_bytes, parse_bytes

LOST_BYTES = 2**29  # of each device: 23.5 GiB are usable of 24
_GROUP = re.compile(r"\s*(\d+)\s*x\s*(\S+)\s*")


@dataclass(frozen=True)
class Hardware:
    name: str
    usable_bytes: tuple[int, ...]  # of each device

    @property
    def devices(self) -> int:
        return len(self.usable_bytes)


def parse(text: str) -> Hardware:
    """Read `NxSIZE[,NxSIZE...]`; ValueError with a sentence if it is none."""
    usable: list[int] = []
    for group in text.split(","):
        match = _GROUP.fullmatch(group)
        if not match or not int(match[1]):
            raise ValueError(f"{text!r} names no devices; write it like 4x24GiB or 4x24GiB,2x48GiB")
        size = parse_bytes(match[2])
        if size <= LOST_BYTES:
            raise ValueError(f"{match[2]!r} is too small: {format_bytes(LOST_BYTES)} of each device can't be used")
        usable += [size - LOST_BYTES] * int(match[1])
    return Hardware(name=text.replace(" ", ""), usable_bytes=tuple(usable))
