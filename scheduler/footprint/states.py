"""The states of a model too large to trace: bytes a parameter by precision and optimizer, divided over devices.

The table of the field, in GB of 10^9 bytes as its papers have it. Owns no activations: they depend on the batch, and on
a model that is not known here. Sharding by ZeRO (Rajbhandari et al., 2020): stage 1 the optimizer, 2 the gradients too,
3 the weights too. Tensor and pipeline parallelism divide all three.
"""

import re
from dataclasses import dataclass
from math import prod

GB = 10**9
_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kmbt]?)", re.IGNORECASE)
_SCALE = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Bytes a parameter, of each kind of state."""

    name: str
    weights: float
    gradients: float
    optimizer: float  # both moments, and the fp32 copy of the weights where there is one
    note: str

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer


PRECISIONS = (
    Precision(name="fp32", weights=4, gradients=4, optimizer=8, note="AdamW"),
    Precision(name="mixed", weights=2, gradients=2, optimizer=12, note="half weights, fp32 copy and moments of AdamW"),
    Precision(name="amp", weights=4, gradients=4, optimizer=8, note="fp32 weights, autocast (as MiniMind and mmq)"),
    Precision(name="half", weights=2, gradients=2, optimizer=4, note="weights, gradients and moments in 16 bit"),
    Precision(name="half-8bit", weights=2, gradients=2, optimizer=2, note="16 bit, moments of AdamW in 8 bit"),
    Precision(name="half-sgd", weights=2, gradients=2, optimizer=0, note="16 bit, SGD without momentum"),
    Precision(name="fp8", weights=1, gradients=2, optimizer=8, note="weights in 8 bit, fp32 copy, 16-bit moments"),
)
ZERO_STAGES = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Split:
    """How many ways each device's share is cut."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1  # over which ZeRO shards
    zero: int = 0

    @property
    def devices(self) -> int:
        return prod((self.tensor, self.pipeline, self.data))


WHOLE = Split()


def parse_parameters(text: str) -> int:
    """Read `671B`, `63.9M` or a plain number; ValueError."""
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a number of parameters")
    count = round(float(match[1]) * _SCALE[match[2].lower()])
    if count < 1:
        raise ValueError(f"{text!r} is not a number of parameters")
    return count


def state_bytes(parameters: int, precision: Precision, split: Split = WHOLE) -> dict[str, int]:
    """Return the bytes of each kind of state on one device."""
    share = parameters / (split.tensor * split.pipeline)
    sizes = {"optimizer": precision.optimizer, "gradients": precision.gradients, "weights": precision.weights}
    return {
        kind: round(share * size / (split.data if split.zero >= stage else 1))
        for stage, (kind, size) in enumerate(sizes.items(), start=1)
    }


def splits(devices: int) -> list[Split]:
    """List the pure ways to use so many devices, and the common mixtures: tensor within a machine of 8."""
    choices = [Split(data=devices, zero=stage) for stage in ZERO_STAGES]
    if devices > 1:
        choices += [Split(tensor=devices), Split(pipeline=devices)]
    if devices > 8 and devices % 8 == 0:
        choices += [Split(tensor=8, pipeline=devices // 8), Split(tensor=8, data=devices // 8, zero=1)]
    return choices
