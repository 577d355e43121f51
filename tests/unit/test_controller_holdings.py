"""Whose memory it is: by pid, by descent, and where the driver does not say how much."""

from scheduler.controller.holdings import held_bytes
from scheduler.devices.device import DeviceReading

PARENTS = {101: 100, 102: 101, 500: 1, 100: 1}
ROOTS = {100: 7, 200: 8}
RESERVED = {7: 50, 8: 40}


def reading(used: int, *processes: tuple[int, int]) -> DeviceReading:
    return DeviceReading(
        device_id="d", at=0.0, total_bytes=1000, used_bytes=used, processes=processes, utilisation=None
    )


def held(one: DeviceReading) -> dict[int, int]:
    return held_bytes(one, ROOTS, RESERVED, parent=PARENTS.get)


def test_descendants_count_with_their_attempt_and_others_do_not() -> None:
    assert held(reading(100, (100, 10), (102, 20), (500, 60), (999, 10))) == {7: 30}


def test_a_silent_driver_leaves_the_rest_to_ours_up_to_their_reservations() -> None:
    assert held(reading(60, (100, 0))) == {7: 50}
    assert held(reading(30, (100, 0))) == {7: 30}
    assert held(reading(70, (100, 0), (200, 0))) == {7: 50, 8: 20}
    assert held(reading(70, (100, 45), (200, 0))) == {7: 45, 8: 25}


def test_with_a_stranger_among_the_silent_nothing_is_ours() -> None:
    assert held(reading(60, (100, 0), (500, 0))) == {}
