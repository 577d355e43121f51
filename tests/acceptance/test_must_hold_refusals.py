"""The door: a second service is refused there, and it is shut to everybody else."""

import stat

import pytest

from tests.acceptance.workplace import SLOWLY, Workplace, gone
from tests.processes import PATIENCE_SECONDS, modes, network_sockets, until

pytestmark = pytest.mark.timeout(600)  # the default is for tests without a real trainer in them


def test_the_second_up_names_who_holds_the_home(place: Workplace) -> None:
    pid = place.service()
    for words in (("up",), ("up", "--detach")):
        assert f"is already running for {place.home}: pid {pid}" in place.ok(*words)
    assert place.service() == pid


def test_two_ups_at_the_same_moment_make_one_service(own_place: Workplace) -> None:
    both = [own_place.start("up", "--detach") for _ in range(2)]
    told = [process.communicate(timeout=PATIENCE_SECONDS) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    pid = own_place.service()
    for out, _ in told:
        assert f"pid {pid}" in out
    until(lambda: sorted(own_place.children()) == ["broker", "controller", "worker"], "its parts, each once")


def test_nothing_listens_on_a_network_and_the_home_is_private(place: Workplace) -> None:
    job = place.submit("tiny.yaml", "-o", "train.max_steps=100000", *SLOWLY)
    place.until_steps(job, more=35)  # it has saved by then

    def everybody() -> set[int]:
        return {place.service(), *place.children().values(), *place.job_processes()}

    until(lambda: len(everybody()) == 6, "supervisor, broker, controller, worker, shim, trainer, and nobody else")
    there = everybody()
    assert network_sockets(*there) == set()
    assert stat.S_IMODE(place.home.stat().st_mode) == 0o700
    found = modes(place.home)
    sockets = {mode for mode in found.values() if stat.S_ISSOCK(mode)}
    assert {stat.S_IMODE(mode) for mode in sockets} == {0o600}
    databases = [mode for path, mode in found.items() if path.name.startswith("mmq.db")]
    assert len(databases) >= 2
    assert {stat.S_IMODE(mode) for mode in databases} == {0o600}
    assert [str(path) for path, mode in found.items() if mode & 0o077] == []
    assert not any(map(gone, there)), "somebody ended while we looked"
