"""The states of models beyond one machine: the field's figures, and what sharding leaves on a device."""

import pytest

from scheduler.cli.statesview import states, text
from scheduler.footprint.states import GB, PRECISIONS, Split, parse_parameters, splits, state_bytes

BY_NAME = {each.name: each for each in PRECISIONS}
DEEPSEEK_V3 = 671 * 10**9


def test_the_figures_of_the_field() -> None:
    half = state_bytes(DEEPSEEK_V3, BY_NAME["half"])
    assert half["weights"] / GB == 1342
    assert sum(half.values()) / GB == 5368  # 2-byte gradients and two 2-byte moments
    assert state_bytes(7 * 10**9, BY_NAME["fp32"])["weights"] / GB == 28
    assert BY_NAME["mixed"].total == BY_NAME["fp32"].total == 16


@pytest.mark.parametrize(
    ("written", "count"), [("671B", DEEPSEEK_V3), ("63.9M", 63_900_000), ("1t", 10**12), ("7000000000", 7 * 10**9)]
)
def test_numbers_of_parameters_as_people_write_them(written: str, count: int) -> None:
    assert parse_parameters(written) == count


@pytest.mark.parametrize("written", ["", "many", "-1", "0", "671 GB", "1e9"])
def test_what_is_no_number_of_parameters(written: str) -> None:
    with pytest.raises(ValueError, match="not a number of parameters"):
        parse_parameters(written)


def test_zero_shards_the_optimizer_first_then_gradients_then_weights() -> None:
    whole = state_bytes(10**9, BY_NAME["mixed"])
    for stage, sharded in enumerate([set(), {"optimizer"}, {"optimizer", "gradients"}, set(whole)]):
        share = state_bytes(10**9, BY_NAME["mixed"], Split(data=8, zero=stage))
        assert share == {kind: size // (8 if kind in sharded else 1) for kind, size in whole.items()}


def test_tensor_and_pipeline_parallelism_divide_everything() -> None:
    whole = state_bytes(10**9, BY_NAME["half"])
    assert state_bytes(10**9, BY_NAME["half"], Split(tensor=4, pipeline=2)) == {k: v // 8 for k, v in whole.items()}
    assert all(split.devices == 32 for split in splits(32))


def test_the_table_says_it_in_words_and_in_json() -> None:
    answer = states(DEEPSEEK_V3, BY_NAME["half"], 16)
    assert [row["total_bytes"] for row in answer["precisions"]] == [5368 * GB]
    shown = text(answer)
    assert "671,000,000,000 parameters" in shown
    assert any({"half", "1,342", "5,368"} <= set(line.split()) for line in shown.splitlines())
    assert "ZeRO stage 3" in shown
    assert "ZeRO" not in text(states(DEEPSEEK_V3, None, 1))
