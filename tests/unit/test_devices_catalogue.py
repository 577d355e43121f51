"""The catalogue of GPUs: names as people and drivers write them, sizes, and what is refused."""

import pytest

from scheduler.devices.catalogue import CATALOGUE, find
from scheduler.errors import UsageError

GIB = 1024**3


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("RTX 3080 20GB", "RTX 3080 20GB"),
        ("3080-20g", "RTX 3080 20GB"),
        ("rtx3080 10GiB", "RTX 3080 10GB"),
        ("RTX 3080", "RTX 3080 10GB"),  # the smallest
        ("4090d", "RTX 4090 D 24GB"),
        ("4090", "RTX 4090 24GB"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER 16GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("a100", "A100 40GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("Tesla V100-SXM2-32GB", "V100 32GB"),
        ("Tesla T4", "T4 16GB"),
        ("L40S", "L40S 48GB"),
        ("RTX 5060 Ti", "RTX 5060 Ti 8GB"),
        ("NVIDIA H100 NVL 94GB", "H100 94GB"),
        ("NVIDIA A10G", "A10G 24GB"),
        ("NVIDIA B300 SXM6 288GB", "B300 288GB"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000 96GB"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada 48GB"),
    ],
)
def test_names_as_people_and_drivers_write_them(text: str, name: str) -> None:
    assert find(text).name == name


def test_each_entry_is_found_by_its_own_name_and_is_plausible() -> None:
    for entry in CATALOGUE:
        assert find(entry.name) is entry
        assert entry.memory_gb is not None
        assert 0.85 * entry.memory_gb * GIB < entry.total_bytes < entry.memory_gb * GIB
        assert entry.capability is not None


def test_models_are_in_order_of_size() -> None:
    """Finding the smallest relies on it."""
    first = {find(entry.name.rpartition(" ")[0]).name for entry in CATALOGUE}
    smallest = {}
    for entry in sorted(CATALOGUE, key=lambda entry: -entry.total_bytes):
        smallest[entry.name.rpartition(" ")[0]] = entry.name
    assert first == set(smallest.values())


@pytest.mark.parametrize(("text", "total_bytes"), [("24GiB", 24 * GIB), ("24G", 24 * GIB), ("8.5 GiB", 17 * GIB // 2)])
def test_a_size_is_a_gpu_of_that_size(text: str, total_bytes: int) -> None:
    entry = find(text)
    assert (entry.total_bytes, entry.capability, entry.measured) == (total_bytes, None, False)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("RTX 3099", "RTX 3090"), ("H100 79GB", "H100 80GB"), ("RX 7900", "24GiB"), ("", "24GiB"), ("0GiB", "24GiB")],
)
def test_an_unknown_one_is_refused_with_its_neighbours(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as refusal:
        find(text)
    assert refusal.value.hint
    assert hint in refusal.value.hint


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "an empty name"),
        (" ", "an empty name"),
        ("-5GiB", "a GPU of -5GiB has no memory"),
        ("24", "without a unit"),
    ],
)
def test_what_is_neither_a_name_nor_a_size_is_called_what_it_is(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        find(text)
