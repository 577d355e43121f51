"""`mmq estimate` on a job file of MiniMind's own pretraining: what the documentation shows, to the letter."""

import pytest

from scheduler.controller import estimate as estimates
from tests.acceptance.conftest import Mmq
from tests.acceptance.workplace import REPOSITORY
from tests.unit.pages import page

pytestmark = pytest.mark.timeout(300)  # the default is for tests without a whole model's trace in them

COMMAND = "mmq estimate pretrain.yaml --gpu "


def test_the_example_is_what_is_printed_cold_and_kept(mmq: Mmq, monkeypatch: pytest.MonkeyPatch) -> None:
    (shown,) = (block for block in page("commands.md").blocks("console") if COMMAND in block)
    _, _, told = shown.partition("\n")
    job = ("estimate", REPOSITORY / "examples" / "pretrain.yaml", "--gpu", "RTX 4090")
    assert mmq(*job).out == told

    def again(*_: object, **__: object) -> None:
        raise AssertionError("it is in the store")

    monkeypatch.setattr(estimates, "trace", again)
    assert mmq(*job).out == told
