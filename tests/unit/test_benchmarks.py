"""The benchmarks' judgement: what is compared, what is printed, and when they fail."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.measure import Bar, Command, Cost


def costs(*seconds: float) -> list[Cost]:
    return [Cost(one, one, 0) for one in seconds]


def test_a_ratio_is_of_medians_so_that_one_slow_round_decides_nothing() -> None:
    assert measure.over(costs(2, 2, 90), costs(1, 50, 1)) == 2


def test_bars_are_lines_of_name_value_limit_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert measure.judged([Bar("reached", 1.5, 1.5), Bar("missed", 6.25, 6.0)]) == 1
    assert capsys.readouterr().out.split("\n") == ["", "reached 1.5 1.5 ok", "missed 6.25 6 short", ""]
    assert measure.judged([Bar("reached", 1.0, 2.0)]) == 0
    assert measure.judged([Bar("reached", 2.0, 2.0, at_least=True)]) == 0
    assert measure.judged([Bar("missed", 1.9, 2.0, at_least=True)]) == 1


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        measure.cost(Command([sys.executable, "-c", "raise SystemExit(3)"]), measure.environment(tmp_path))


def test_the_cost_of_a_command_is_its_own(tmp_path: Path) -> None:
    work = "b = b'.' * (200 << 20); sum(range(10**6)); assert input() == 'asked'"
    found = measure.cost(Command([sys.executable, "-c", work], b"asked"), measure.environment(tmp_path))
    assert found.peak_bytes > 200 << 20
    assert found.wall_seconds > 0
    assert found.cpu_seconds > 0


def test_the_surroundings_are_not_those_of_the_service_in_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMQ_BROKER_URL", "redis://somewhere")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    made = measure.environment(tmp_path, OMP_NUM_THREADS="1")
    assert "MMQ_BROKER_URL" not in made
    assert "PYTHONDONTWRITEBYTECODE" not in made
    assert (made["MMQ_HOME"], made["OMP_NUM_THREADS"]) == (str(tmp_path), "1")
