"""Out of memory to the end, on a real service: other means are tried in turn, what was refused is learned from, the
last word says what would fit, and a neighbour on the same device sees nothing of it.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.workplace import Workplace, workplace

pytestmark = pytest.mark.timeout(900)

MIB = 1024**2
PATIENCE_SECONDS = 500.0  # for jobs of several attempts
RUNGS = [(one, offloads) for offloads in (False, True) for one in ("off", "selective", "full")]
ONE_ROW: dict[str, dict[str, Any]] = {
    "model": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4},
    "data": {"max_seq_len": 256},
    "train": {"batch_size": 2, "max_steps": 6, "save_interval": 2},
    "memory": {"micro_batch": 1},
}


@pytest.fixture(scope="module")
def deceived() -> Iterator[Workplace]:
    """A service whose footprints of two jobs say 12 MiB too little, as one with an error in it would."""
    with workplace("virtual:1x512MiB") as place:
        place.write_rows("rows.jsonl", [" ".join(f"word{n}" for n in range(row, row + 60)) for row in range(64)])
        steady = ONE_ROW["train"] | {"max_steps": 40, "save_interval": 40}
        place.job_file("neighbour", **ONE_ROW | {"train": steady, "data": {"max_seq_len": 254}})
        place.job_file("narrow", **ONE_ROW)
        place.job_file("capped", **ONE_ROW | {"data": {"max_seq_len": 255}, "resources": {"max_memory": "96MiB"}})
        place.up()
        for name in ("narrow", "capped"):
            place.ok("estimate", f"{name}.yaml")
        with place.store() as database, database.transaction() as tx:
            for row in tx.query("SELECT key, answer FROM footprints"):
                lowered = json.dumps(lower(json.loads(row["answer"]), 12 * MIB))
                tx.execute("UPDATE footprints SET answer = :lowered WHERE key = :key", lowered=lowered, key=row["key"])
        yield place


def lower(answer: dict[str, Any], by_bytes: int) -> dict[str, Any]:
    for candidate in answer["candidates"]:
        candidate["reserved_bytes"] -= by_bytes
        candidate["process_bytes"] -= by_bytes
    return answer


def rungs(story: dict[str, Any]) -> list[tuple[str, bool]]:
    plans = [attempt["plan"] for attempt in story["attempts"]]
    return [(plan["activation_checkpointing"], plan["optimizer_offload"]) for plan in plans]


def test_one_row_too_large_turns_to_other_means_and_a_neighbour_sees_nothing(deceived: Workplace) -> None:
    place = deceived
    neighbour = place.submit("neighbour.yaml")
    place.until_steps(neighbour, more=1)
    narrow = place.submit("narrow.yaml")
    assert place.until_ended(narrow, neighbour, within_seconds=PATIENCE_SECONDS) == ["succeeded", "succeeded"]
    story = place.story(narrow)
    tried = rungs(story)
    assert tried == [
        one for one in RUNGS if one in tried
    ]  # each once, in this order; what was refused passes over some
    assert len(tried) > 1
    assert [one["reason"] for one in story["attempts"]] == ["out_of_memory"] * (len(tried) - 1) + ["done"]
    text = " ".join(place.ok("status", str(narrow)).split())
    assert "retry 1 of 6, with activation checkpointing" in text
    assert "means selective activation checkpointing" in text

    refused = place.events(narrow, "out_of_memory")
    assert refused[0]["at"] < place.events(neighbour, "finished")[0]["at"]
    assert place.events(neighbour, "out_of_memory") == []
    (attempt,) = place.story(neighbour)["attempts"]
    assert attempt["measured_process_bytes"] <= attempt["reserved_bytes"]

    again, alone = place.submit("narrow.yaml", "-o", "name=again"), place.submit("neighbour.yaml", "-o", "name=alone")
    assert place.until_ended(again, alone, within_seconds=PATIENCE_SECONDS) == ["succeeded", "succeeded"]
    both = [place.story(one)["attempts"] for one in (neighbour, alone)]  # which may have run by different means
    assert place.losses(neighbour) == pytest.approx(place.losses(alone), rel=1e-5), both
    later = place.story(again)["attempts"]
    assert later[0]["reserved_bytes"] > story["attempts"][0]["reserved_bytes"]
    assert place.losses(narrow) == pytest.approx(place.losses(again), rel=1e-5)


def test_with_every_means_used_up_the_last_word_says_what_would_fit(deceived: Workplace) -> None:
    place = deceived
    job = place.submit("capped.yaml")
    assert place.until_ended(job, within_seconds=PATIENCE_SECONDS) == ["failed"]
    story = place.story(job)
    assert story["reason"] == "out_of_memory"
    assert {one["reason"] for one in story["attempts"]} == {"out_of_memory"}
    assert len(story["attempts"]) <= 7
    assert "resources.max_memory is 96.0 MiB: with more than" in story["message"]
    assert "there would be room on virtual device 0 (512 MiB)" in story["message"]
