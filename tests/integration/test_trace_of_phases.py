"""Whatever a run does between its steps, and wherever it is begun again: its peaks are those of the trace."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.test_trace_against_runs import configured, predicted, rows
from trainer.config import Config
from trainer.errors import Stopped
from trainer.reporting.events import EventLog
from trainer.session import run_session
from trainer.stopping import StopRequest

__all__ = ["rows"]

STEPS = 6


class StopsAfterSave(StopRequest):
    """Asks for an end once the run has saved a certain step."""

    def __init__(self, run_dir: Path, step: int) -> None:
        super().__init__()
        self._path = run_dir / "checkpoints" / f"step-{step}"

    def __bool__(self) -> bool:
        return self._path.exists()


@st.composite
def mixes(draw: st.DrawFn) -> dict[str, Any]:
    """Draw how often a run evaluates, saves and writes a sample, its plan, and after which save it is begun again."""
    batch = draw(st.sampled_from([4, 6, 9]))
    train = {f"{phase}_interval": draw(st.integers(1, STEPS)) for phase in ("eval", "save", "sample")}
    return {
        "model": {"hidden_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 2, "use_moe": draw(st.booleans())},
        "dtype": draw(st.sampled_from(["float32", "bfloat16"])),
        "effective_batch": batch,
        "micro_batch": draw(st.integers(1, batch)),
        "train": {**train, "max_steps": STEPS, "log_interval": 1},
        "plan": {
            "activation_checkpointing": draw(st.sampled_from(["off", "selective", "full"])),
            "optimizer_offload": draw(st.booleans()),
        },
        "begun_again_after": draw(st.sampled_from([None, 1, 2])),
    }


def peaks(config: Config, run_dir: Path) -> dict[str, int]:
    """Run to the end; give the peaks that the last process tells."""
    run_dir.mkdir(exist_ok=True)
    run_session(config, run_dir, EventLog(run_dir / "events.jsonl"), StopRequest())
    last = msgspec.json.decode((run_dir / "events.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "finished"
    return {name: last[f"{name}_peak_bytes"] for name in ("allocated", "reserved")}


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mix=mixes())
def test_a_prediction_holds_for_any_mix_of_phases(
    mix: dict[str, Any], rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mix")
    again = mix.pop("begun_again_after")
    if again is not None:
        mix["train"]["save_interval"] = again
    config = configured(rows, folder / "ledger", **mix)
    if again is not None:
        (folder / "run").mkdir()
        with pytest.raises(Stopped):
            run_session(
                config,
                folder / "run",
                EventLog(folder / "run" / "events.jsonl"),
                StopsAfterSave(folder / "run", again),
            )
    forecast, run = predicted(config).outcome, peaks(config, folder / "run")
    assert run == {"allocated": forecast.allocated_bytes, "reserved": forecast.reserved_bytes}
