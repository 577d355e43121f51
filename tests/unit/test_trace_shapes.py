"""What the cache of shapes must tell apart."""

import subprocess
import sys

import pytest
import torch

from trainer.model.minimind import made_of
from trainer.trace.shapes import ShapeCache

META = torch.device("meta")


def test_the_same_size_in_another_default_dtype_is_another_tensor() -> None:
    """Weights in bfloat16 and adapters of the same shape in float32."""
    shapes, empty = ShapeCache(), torch.ops.aten.empty.memory_format
    made = []
    for dtype in (torch.bfloat16, torch.float32, torch.bfloat16):
        with made_of(dtype):
            made.append(shapes.call(empty, ([16, 32],), {"device": META}).dtype)
    assert made == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_what_writes_in_place_gives_its_argument_and_does_nothing_the_second_time() -> None:
    shapes = ShapeCache()
    for _ in range(2):
        x, y = torch.empty(4, 6, device=META), torch.empty(6, device=META)
        assert shapes.call(torch.ops.aten.mul_.Tensor, (x, y), {}) is x
        product = torch.empty(4, 4, device=META)
        assert shapes.call(torch.ops.aten.mm.out, (x, x.t()), {"out": product}) is product
        assert shapes.call(torch.ops.aten._foreach_mul_.Scalar, ([x, y], 2.0), {}) is None
    with pytest.raises(RuntimeError):
        shapes.call(torch.ops.aten.mul_.Tensor, (x, torch.empty(5, device=META)), {})


def test_what_moves_its_argument_does_so_each_time() -> None:
    shapes = ShapeCache()
    for _ in range(2):
        x = torch.empty(4, 6, device=META)
        assert shapes.call(torch.ops.aten.t_.default, (x,), {}).shape == (6, 4)
        grown = shapes.call(torch.ops.aten.resize_.default, (x, [8, 8]), {})
        assert grown.untyped_storage().nbytes() == 256


SHARED = """
from trainer.trace.forks import map_in_forks
print(map_in_forks([1, 2, 3, 4, 5], lambda item: 10 // item, 3))
map_in_forks([1, 0], lambda item: 10 // item, 2)
"""


def test_work_is_shared_among_forks_in_order_and_a_failure_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", SHARED], capture_output=True, text=True, check=False)
    assert done.stdout == "[10, 5, 3, 2, 2]\n"
    assert "ZeroDivisionError" in done.stderr
    assert done.stderr.splitlines()[-1] == "RuntimeError: a part of the trace ended with 1"


REFUSED = """
from trainer.errors import BadConfiguration
from trainer.trace.forks import map_in_forks
def check(item):
    if item:
        raise BadConfiguration("no such model")
try:
    map_in_forks([0, 1], check, 2)
except BadConfiguration as error:
    print(error)
"""


def test_what_a_fork_finds_wrong_with_a_configuration_is_said_as_if_there_were_none() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("no such model\n", "")
