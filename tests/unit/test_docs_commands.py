"""`docs/commands.md` has every command with all its options, the exit codes and the fields of the JSON; no others."""

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from scheduler.admission.plan import choose
from scheduler.admission.wish import Wish
from scheduler.cli import deviceview, jobdetail, jobview
from scheduler.cli.group import COMMANDS, mmq
from scheduler.config import Settings
from scheduler.controller.estimate import Estimate, Place
from scheduler.devices.catalogue import find
from scheduler.errors import ExitCode
from scheduler.footprint.context import context_bytes
from scheduler.footprint.curve import Candidate, Footprint, Modes
from scheduler.footprint.request import Target
from scheduler.store.schema import Table
from scheduler.store.views import JobDetail
from scheduler.units import format_bytes, parse_bytes
from tests.unit.pages import REPOSITORY, every_page, page, spans

PAGE = page("commands.md")
SETTINGS = Settings.from_environment({"MMQ_HOME": "/nowhere"})
FOR_TRAINERS = {"MMQ_JOB_ID", "MMQ_ATTEMPT", "MMQ_MICRO_BATCH", "MMQ_ACCUMULATION_STEPS", "MMQ_RUN_DIR"} | {
    "MMQ_CHECKPOINT_DIR",
    "MMQ_DEVICE",  # marks the processes of the cpu device
    "MMQ_TRACER_PARENT",  # whom a tracer ends with
}


class Blank(dict[str, Any]):
    """A row whose every column is empty."""

    def __missing__(self, key: str) -> None:
        return None


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its full name, subcommands too."""
    for name in COMMANDS:
        command: click.Command = import_module(f"scheduler.cli.{name}").command
        yield f"mmq {name}", command
        if isinstance(command, click.Group):
            yield from ((f"mmq {name} {sub}", each) for sub, each in command.commands.items())


ALL = dict(commands())


def context_of(name: str) -> click.Context:
    context = click.Context(mmq, info_name="mmq")
    for word in name.split()[1:]:
        command = ALL[f"{context.command_path} {word}"]
        context = click.Context(command, info_name=word, parent=context)
    return context


def options(name: str) -> set[str]:
    """What `--help` shows in its first column, but for help itself."""
    context = context_of(name)
    shown = [option.get_help_record(context) for option in ALL[name].params if isinstance(option, click.Option)]
    return {record[0] for record in shown if record is not None}


def documented(heading: str) -> set[str]:
    return {span for row in PAGE.table(heading) for span in spans(row[0])}


def test_every_command_has_a_section_and_no_other_has() -> None:
    assert [heading for heading in PAGE.sections if heading.startswith("mmq ")] == list(ALL)


@pytest.mark.parametrize("name", ALL)
def test_every_option_is_documented_and_none_invented(name: str) -> None:
    section = PAGE.sections[name]
    table = {span for row in PAGE.table(name) for span in spans(row[0])} if "\n|" in section else set()
    assert table == options(name)


@pytest.mark.parametrize("name", ALL)
def test_the_usage_is_the_commands_own(name: str) -> None:
    assert spans(PAGE.sections[name])[0] == " ".join(ALL[name].get_usage(context_of(name)).split()[1:])


def test_the_exit_codes_are_the_codes() -> None:
    rows = {int(code): spans(name)[0] for code, name, _ in PAGE.table("Exit codes")}
    assert rows == {code.value: code.name for code in ExitCode}


def test_every_variable_is_documented() -> None:
    sources = [path for package in ("scheduler", "worker", "trainer") for path in (REPOSITORY / package).rglob("*.py")]
    read = {name for path in sources for name in re.findall(r'"(MMQ_[A-Z_]+)"', path.read_text())}
    assert documented("Commands") == read - FOR_TRAINERS


def test_the_fields_of_jobs() -> None:
    assert documented("Jobs") == set(jobview.as_json(Blank(id=1), SETTINGS))


def test_the_fields_of_a_job_in_full() -> None:
    columns = (column.name for table in ("attempts", "jobs") for column in Table.metadata.tables[table].columns)
    job = dict.fromkeys([*columns, "attempt"]) | {"id": 1, "spec": "{}"}
    document = jobdetail.as_json([jobdetail.detail(JobDetail(job, [], [], [], []), SETTINGS)], [])
    more = set(document["jobs"][0]) - documented("Jobs")
    sentence = PAGE.sections["Jobs"].partition("adds to each job")[2].partition(", and has")[0]
    assert set(spans(sentence)) == more
    assert set(document) == {"jobs", "devices", "attempts", "events"}


@pytest.mark.parametrize("name", ["attempts", "events"])
def test_the_fields_of_attempts_and_events(name: str) -> None:
    columns = {column.name for column in Table.metadata.tables[name].columns}
    assert columns == {span for row in PAGE.table(name.capitalize()) for span in spans(row[0])}


def test_the_fields_of_devices() -> None:
    row = Blank(total_bytes=1, reserved_bytes=0, used_bytes=0)
    assert documented("Devices") == set(deviceview.as_json(row, []))


def test_the_fields_of_an_estimate() -> None:
    candidate = Candidate(micro_batch=1, modes=Modes(), allocated_bytes=1, reserved_bytes=1, process_bytes=1)
    footprint = Footprint(candidates=(candidate,), parameters=1, torch="2")
    wish, place = Wish(effective_batch=1, max_seq_len=8), Place(name="", target=Target(kind="virtual"), total_bytes=9)
    plan = choose(wish, footprint, "virtual", available_bytes=9, usable_bytes=9)
    estimate = Estimate(place=place, wish=wish, footprint=footprint, plan=plan).as_json()
    assert documented("Estimates") == set(estimate)
    rows = {spans(row[0])[0]: row[1] for row in PAGE.table("Estimates")}
    assert set(re.findall(r'"(\w+)"', rows["candidates"])) == set(estimate["candidates"][0])
    assert set(re.findall(r'"(\w+)"', rows["gpu"])) == set(estimate["gpu"])
    assert set(estimate["plan"]) < set(estimate["candidates"][0])


def test_the_example_of_an_estimate_adds_up() -> None:
    """Whether it is what is printed takes a trace: see `test_must_hold_estimate`."""
    shown = PAGE.sections["mmq estimate"]
    parts = dict(re.findall(r"^  (\w+) +([\d.]+ [MG]iB)$", shown, flags=re.MULTILINE))
    assert parts["context"] == format_bytes(context_bytes("cuda", find("RTX 4090").capability))
    (peak,) = re.findall(r"At the peak, ([\d.]+ GiB):", shown)
    assert sum(map(parse_bytes, parts.values())) == pytest.approx(parse_bytes(peak), rel=0.02)


def typed() -> list[tuple[str, str]]:
    """Every `$ mmq ...` line of every page."""
    lines = ((path, line) for path in every_page() for line in path.read_text(encoding="utf-8").splitlines())
    return [(path.name, line[2:]) for path, line in lines if line.startswith("$ mmq ")]


@pytest.mark.parametrize(("where", "line"), sorted(set(typed())))
def test_every_command_line_shown_can_be_typed(
    where: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parses it, and runs nothing."""
    monkeypatch.chdir(tmp_path)
    _, *words = shlex.split(re.split(r" [|>]|\s#", line)[0])
    name, *rest = words
    with ALL[f"mmq {name}"].make_context(name, rest) as context:
        assert context.command is ALL[f"mmq {name}"]


def test_lines_are_shown() -> None:
    assert len(typed()) > 10
