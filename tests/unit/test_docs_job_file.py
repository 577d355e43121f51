"""`docs/job-file.md` has every key with the type, the range and the default that the code has, and no other."""

from typing import Any

import msgspec
import pytest

from scheduler.jobs import document, jobfile, parameters, presets
from scheduler.jobs.fields import field_types, titles
from scheduler.jobs.spec import JobSpec, Model
from tests.unit.pages import REPOSITORY, Page, every_page, page, spans

PAGE = page("job-file.md")
SECTIONS = [name for name, kind in field_types(JobSpec).items() if isinstance(kind, type)]
TOP = "Top level"
RECIPES = {"pretrain": "kind: pretrain", "sft": "kind: sft", "lora": "kind: sft\ninit_from: a\ntrain: {method: lora}"}


def documented(heading: str) -> dict[str, list[str]]:
    return {spans(row[0])[0]: row[1:] for row in PAGE.table(heading)}


def types(heading: str) -> dict[str, Any]:
    kinds = field_types(JobSpec)
    if heading == TOP:
        return {name: kind for name, kind in kinds.items() if not isinstance(kind, type)}
    return field_types(kinds[heading])


def defaults(recipe: str) -> dict[str, Any]:
    """A job file's fields where it says nothing, as a person would write them."""
    spec, _ = jobfile.parse(f"{RECIPES[recipe]}\ndata: {{path: x}}\n", file="x")
    whole: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(spec))
    return whole


def test_every_section_has_a_heading() -> None:
    assert set(SECTIONS) <= set(PAGE.sections)
    assert all(f"`{name}`" in PAGE.sections[TOP] for name in SECTIONS)


@pytest.mark.parametrize("heading", [TOP, *SECTIONS])
def test_every_key_is_there_with_its_range(heading: str) -> None:
    assert {key: cells[0] for key, cells in documented(heading).items()} == {
        key: next(titles(kind)) for key, kind in types(heading).items()
    }


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("heading", [heading for heading in (TOP, *SECTIONS) if heading != "model"])
def test_the_defaults_are_the_codes(heading: str, recipe: str) -> None:
    expected = defaults(recipe) if heading == TOP else defaults(recipe)[heading]
    chosen = {"kind", "init_from", "method"} if recipe == "lora" else {"kind"}
    for key, (_, default, *_rest) in documented(heading).items():
        if key in chosen:
            continue
        written = spans(default)
        if not written:
            assert (heading, key) in {(TOP, "name"), ("data", "path")}
            continue
        value = written[list(RECIPES).index(recipe) if len(written) > 1 else 0]
        assert document.parse(f"value: {value}", file="x").value["value"] == expected[key], key


@pytest.mark.parametrize(("column", "name"), list(enumerate(presets.MODELS)))
def test_the_presets_are_the_codes(column: int, name: str) -> None:
    assert f"| key | {' | '.join(presets.MODELS)} |" in PAGE.sections["Presets"]
    filled = presets.fill_model({"preset": name})
    *fields, (title, *counts), (active_title, *actives) = PAGE.table("Presets")
    assert {spans(row[0])[0]: document.plain_scalar(spans(row[column + 1])[0]) for row in fields} == {
        key: value for key, value in filled.items() if key != "preset"
    }
    assert (title, active_title) == ("parameters", "of which active")
    assert counts[column] == f"{parameters.count(msgspec.convert(filled, Model)):,}"
    assert actives[column] == f"{parameters.active(msgspec.convert(filled, Model)):,}"


def job_files() -> list[tuple[str, str]]:
    """Every job file in the documentation and the examples."""
    quoted = [
        (f"{path.name}:{number}", block)
        for path in every_page()
        for number, block in enumerate(Page(path).blocks("yaml"))
    ]
    kept = sorted((REPOSITORY / "examples").rglob("*.yaml"))
    return quoted + [(str(path.relative_to(REPOSITORY)), path.read_text(encoding="utf-8")) for path in kept]


@pytest.mark.parametrize(("name", "text"), job_files())
def test_every_example_is_a_job_file(name: str, text: str) -> None:
    jobfile.parse(text, file=name)


def test_there_are_examples() -> None:
    assert len(job_files()) >= 10
