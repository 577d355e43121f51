"""What the memory of shapes must tell apart."""

import torch

from trainer.model.minimind import made_of
from trainer.trace.shapes import ShapeMemory

META = torch.device("meta")


def test_the_same_size_in_another_default_dtype_is_another_tensor() -> None:
    """Weights in bfloat16 and adapters of the same shape in float32."""
    shapes, empty = ShapeMemory(), torch.ops.aten.empty.memory_format
    made = []
    for dtype in (torch.bfloat16, torch.float32, torch.bfloat16):
        with made_of(dtype):
            made.append(shapes.call(empty, ([16, 32],), {"device": META}).dtype)
    assert made == [torch.bfloat16, torch.float32, torch.bfloat16]
