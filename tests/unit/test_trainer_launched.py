"""How a process of the trainer ends, alone and as one of several."""

import subprocess
import sys

import pytest

ENDS = """
import atexit, sys
from trainer.processes import launched
atexit.register(print, "the interpreter's own end")
sys.stdout.write("told")
launched.leave(75)
"""


@pytest.mark.parametrize(("world_size", "told"), [("1", "toldthe interpreter's own end\n"), ("2", "told")])
def test_one_of_several_ends_at_once_and_all_that_it_said_is_out(world_size: str, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS], env={"WORLD_SIZE": world_size}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (75, told, "")
