"""A float32 number as a bfloat16 and the rest of it: 16 bits each, and together the number.

The bfloat16 is the nearest one, which is what a model computes with. The rest is the difference of the two bit
patterns; only of a number right between two bfloat16s is the last bit of it lost.
"""

import torch
from torch import Tensor

BITS = 16


def join(half: Tensor, rest: Tensor) -> Tensor:
    """Give the float32 numbers, in memory of their own."""
    return _bits(half).add_(rest).view(torch.float32)


def split(whole: Tensor, half: Tensor, rest: Tensor) -> None:
    """Write float32 numbers into their two parts."""
    half.copy_(whole)
    rest.copy_(_bits(half).neg_().add_(whole.view(torch.int32)).clamp_(max=(1 << BITS - 1) - 1))


def rest_of(whole: Tensor) -> Tensor:
    """Give what numbers of any float type lack when they are kept as bfloat16."""
    half, rest = whole.bfloat16(), torch.empty_like(whole, dtype=torch.int16)
    split(whole.float(), half, rest)
    return rest


def _bits(half: Tensor) -> Tensor:
    """Give the bit patterns of the numbers as float32, in int32."""
    return half.view(torch.int16).int().bitwise_left_shift_(BITS)
