"""`mmq estimate`'s part: no service, no GPU, and the store's cache."""

import fcntl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.controller import estimate as estimates
from scheduler.errors import MmqError, NoDatabase, UsageError
from scheduler.footprint.context import context_bytes
from scheduler.footprint.tracer import TIME_LIMIT_SECONDS, Answer
from scheduler.store.opening import open_database
from tests.controller.bench import MIB, Bench, answer_of, settings_at, spec_of

GIB = 1024 * MIB


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Answer like a tracer: 1000 MiB and 300 a row."""
    asked: list[dict[str, Any]] = []

    def trace(key: str, request: dict[str, Any], *, time_limit_seconds: float) -> Answer:
        stages = 2 if len(request["modes"]) == 6 else 1  # the fastest means, and the others
        assert time_limit_seconds == TIME_LIMIT_SECONDS * stages
        asked.append(request)
        return Answer(key=key, body=answer_of(request, base_mib=1000, row_mib=300))

    monkeypatch.setattr(estimates, "trace", trace)
    return asked


def test_plan_parts_and_candidates_for_a_gpu_by_name(tmp_path: Path, traced: list[dict[str, Any]]) -> None:
    told = estimates.estimates(spec_of(tmp_path), ["RTX 3080 10GB"], settings_at(tmp_path / "home"))[0].as_json()
    assert told["fits"]
    assert told["gpu"]["name"] == "RTX 3080 10GB"
    assert (told["plan"]["micro_batch"], told["plan"]["accumulation_steps"]) == (8, 1)
    assert told["plan"]["process_bytes"] == 3400 * MIB
    assert told["reserve_bytes"] == 3400 * MIB + 3400 * MIB // 50
    assert set(told["parts"]) == {"weights", "context"}
    assert len(told["candidates"]) == 24
    assert traced[0]["target"]["capability"] == "8.0"  # for which torch chooses as for 8.6


def test_a_smaller_gpu_gets_a_smaller_micro_batch(tmp_path: Path, traced: list[dict[str, Any]]) -> None:
    told = estimates.estimates(spec_of(tmp_path), ["2GiB"], settings_at(tmp_path))[0].as_json()
    plan = told["plan"]
    assert plan["micro_batch"] * plan["accumulation_steps"] == 8
    assert [row["fits"] for row in told["candidates"]].count(False) > 0


def test_what_does_not_fit_says_so(tmp_path: Path, traced: list[dict[str, Any]]) -> None:
    told = estimates.estimates(spec_of(tmp_path), ["512MiB"], settings_at(tmp_path))[0].as_json()
    assert (told["fits"], told["plan"]) == (False, None)
    assert told["parts"]["weights"] == 500 * MIB  # of the smallest, with the optimizer offloaded


def test_without_a_gpu_named_it_is_the_largest_device_here(tmp_path: Path, traced: list[dict[str, Any]]) -> None:
    told = estimates.estimates(spec_of(tmp_path), [], settings_at(tmp_path, "virtual:2x6GiB"))[0].as_json()
    assert (told["gpu"]["kind"], told["gpu"]["total_bytes"]) == ("virtual", 6 * GIB)


def test_the_service_and_the_estimate_share_a_cache(bench: Bench, traced: list[dict[str, Any]]) -> None:
    bench.submit()
    bench.cycles()
    first = estimates.estimates(spec_of(bench.home), [], bench.settings)[0]
    assert [len(request["modes"]) for request in traced] == [5]  # the service had needed the fastest means alone
    assert first.plan is not None
    assert first.plan.candidate.process_bytes == 180 * MIB
    estimates.estimates(spec_of(bench.home), ["24GiB"], bench.settings)[0]
    estimates.estimates(spec_of(bench.home), ["24GiB"], bench.settings)[0]
    assert len(traced) == 2  # all that a GPU is asked about, by one child


def test_an_estimate_before_anything_else_is_kept_for_the_next_one(
    tmp_path: Path, traced: list[dict[str, Any]]
) -> None:
    settings = settings_at(tmp_path / "home")
    first, again = (estimates.estimates(spec_of(tmp_path), ["24GiB"], settings)[0].as_json() for _ in range(2))
    assert first == again
    assert len(traced) == 1


def test_an_estimate_that_can_not_be_kept_is_told_all_the_same(tmp_path: Path, traced: list[dict[str, Any]]) -> None:
    (tmp_path / "home").write_text("in the way of a folder")
    with pytest.raises(NoDatabase):
        open_database(settings_at(tmp_path / "home"), lean=True)
    assert estimates.estimates(spec_of(tmp_path), ["24GiB"], settings_at(tmp_path / "home"))[0].plan is not None


def test_the_devices_of_a_running_service_go_before_those_of_the_environment(
    bench: Bench, traced: list[dict[str, Any]]
) -> None:
    bench.cycles(1)
    elsewhere = replace(bench.settings, devices="virtual:1x6GiB")
    assert estimates.estimates(spec_of(bench.home), [], elsewhere)[0].place.total_bytes == 6 * GIB
    for whole_or_part in (bench.settings.service_lock, bench.settings.home / "service-controller.lock"):
        with whole_or_part.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert estimates.estimates(spec_of(bench.home), [], elsewhere)[0].place.total_bytes == GIB


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="not a GPU known"):
        estimates.estimates(spec_of(tmp_path), ["RTX 9999"], settings_at(tmp_path))[0]
    monkeypatch.setattr(estimates, "trace", lambda key, request, **_: Answer(key=key, error="the tracer died"))
    with pytest.raises(MmqError, match="the tracer died"):
        estimates.estimates(spec_of(tmp_path), ["24GiB"], settings_at(tmp_path))[0]


def test_several_devices_have_a_plan_each_and_alike_ones_one(tmp_path: Path, traced: list[dict[str, Any]]) -> None:
    named = estimates.estimates(spec_of(tmp_path), ["2GiB", "24GiB", "512MiB"], settings_at(tmp_path / "home"))
    fitting = [one.plan.micro_batch for one in named if one.plan is not None]
    assert len(fitting) == 2
    assert fitting[0] < fitting[1] == 8
    assert len(traced) == 1  # all of one kind
    told = named[2].brief()
    assert (told["fits"], told["plan"]) == (False, None)
    assert told["least_bytes"] > 512 * MIB
    (here,) = estimates.estimates(spec_of(tmp_path), [], settings_at(tmp_path, "virtual:2x6GiB"))
    assert here.place.count == 2
    assert here.place.name.startswith("virtual:0,1 ")


def test_gpus_for_which_torch_chooses_alike_share_a_trace_and_keep_their_own_context(
    tmp_path: Path, traced: list[dict[str, Any]]
) -> None:
    alike = ["RTX 3060", "RTX 4090", "A100 80GB", "24GiB"]
    settings = settings_at(tmp_path / "home")
    told = estimates.estimates(spec_of(tmp_path), alike, settings)
    assert len(traced) == 1
    contexts = [context_bytes("cuda", one.place.target.capability) for one in told]
    assert len(set(contexts)) == 2  # a size has the context of a GPU of no known generation
    outside = {one.footprint.candidates[0].process_bytes - context for one, context in zip(told, contexts, strict=True)}
    assert len(outside) == 1
    estimates.estimates(spec_of(tmp_path), [*alike, "RTX 5090", "H100", "T4"], settings)
    assert len(traced) == 1 + 2  # the first is in the store
