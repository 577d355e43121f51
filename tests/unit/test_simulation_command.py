"""`mmq simulate`: what is printed, drawn, written and refused; and its page."""

import json
import re
from dataclasses import fields
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from scheduler.__main__ import main
from scheduler.cli.simulate import _POLICIES
from scheduler.cli.simulateplot import averaged
from scheduler.simulation import physics
from scheduler.simulation.comparison import compare
from scheduler.simulation.measures import Measures
from scheduler.simulation.policies import POLICIES
from scheduler.simulation.standard import draw
from scheduler.simulation.workload import Job, read, write
from tests.unit.pages import page, spans
from tests.unit.simulated import ONE, job

PAGE = page("simulation.md")


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    path = tmp_path / "queue.jsonl"
    write(draw(1, jobs=12), path)
    return path


def test_a_comparison_is_told_as_json(queue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--workload", str(queue), "--policy", "fcfs", "--policy", "mmq", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["policy"] for row in told["simulations"]] == ["fcfs", "mmq"]
    assert told["jobs"] == 12
    assert told["simulations"][1]["over_commits"] == 0


def test_a_comparison_is_told_in_words(
    queue: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(queue.parent)
    assert main(["simulate", "--workload", queue.name, "--devices", "1x24GiB", "--devices", "2x24GiB"]) == 0
    said = capsys.readouterr().out
    assert all(len(re.findall(rf"^\S+ +{policy} ", said, re.MULTILINE)) == 4 for policy in POLICIES)
    assert "2x24GiB in place of 1x24GiB, mmq: completion" in said
    assert max(map(len, said.split("\n"))) <= 80


def test_the_plot_is_a_picture(queue: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "plot.svg"
    assert (
        main(["simulate", "--workload", str(queue), "--policy", "fcfs", "--policy", "mmq", "--plot", str(drawn)]) == 0
    )
    lines = ElementTree.parse(drawn).getroot().findall("{*}polyline")
    assert len(lines) == 3 * 2


def test_averages_are_over_time() -> None:
    (result,) = compare([job(1, alone_seconds=85), job(2, alone_seconds=85)], [ONE], ["fcfs"])
    assert averaged(result, lambda moment: moment.queued, 4, 200) == [1, 1, 0, 0]
    assert averaged(result, lambda moment: moment.ended, 5, 250) == [0, 0, 1, 1, 2]
    assert averaged(result, lambda moment: moment.busy, 1, 200) == [pytest.approx(170 * 0.5 / 200)]


def test_a_workload_is_only_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "w.jsonl"
    assert main(["simulate", "--workload", "standard:9", "--save", str(where)]) == 0
    assert read(where) == draw(9)
    assert capsys.readouterr().out == f"400 jobs are in {where}\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--devices", "24GiB"), "write it like 4x24GiB"),
        (("--workload", "nowhere.jsonl"), "there is no workload file nowhere.jsonl"),
        (("--policy", "best"), "'best' is not one of"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_the_command_offers_every_policy() -> None:
    assert list(_POLICIES) == list(POLICIES)


def test_the_page_has_every_field_of_a_workload() -> None:
    known = {one.encode_name for one in msgspec.structs.fields(Job)}
    assert {span for row in PAGE.table("The workload") for span in spans(row[0])} == known


def test_the_page_has_every_policy() -> None:
    assert {spans(row[0])[0]: row[1] for row in PAGE.table("The policies")} == {
        name: entry.sentence for name, entry in POLICIES.items()
    }


def test_the_page_has_the_worlds_figures() -> None:
    text = PAGE.sections["The world"]
    assert f"{physics.START_SECONDS:.0f} s" in text
    assert f"{physics.RESUME_SECONDS:.0f} s" in text
    assert f"{physics.NEIGHBOUR_COST:g}" in text


def test_every_field_of_a_simulation_is_documented() -> None:
    documented = {span for row in page("commands.md").table("Simulations") for span in spans(row[0])}
    assert documented == {"devices", "policy", *(one.name for one in fields(Measures))}
