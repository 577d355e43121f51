"""What is refused at the door: bad files, a second service; and that the door is shut to everybody else."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.workplace import Workplace, gone

pytestmark = pytest.mark.timeout(300)  # the default is for tests without a real trainer in them

Spoil = Callable[[Path], object]


def edit(old: str, new: str) -> Spoil:
    def spoil(root: Path) -> None:
        text = (root / "bad.yaml").read_text()
        assert old in text
        (root / "bad.yaml").write_text(text.replace(old, new))

    return spoil


def break_a_row(root: Path) -> None:
    (root / "broken.jsonl").write_text('{"text": "good"}\n{"text": "cut sh\n')
    edit("rows.jsonl", "broken.jsonl")(root)


@pytest.mark.parametrize(
    ("spoil", "where", "reason", "remedy"),
    [
        (edit('"max_steps"', '"max_stpes"'), "bad.yaml:17: train.max_stpes:", "unknown key", "max_steps"),
        (
            edit(": 120", ': "many"'),
            "bad.yaml:17: train.max_steps:",
            "must be a whole number",
            "for example max_steps: 1000",
        ),
        (
            edit('"batch_size": 8', '"batch_size": -8'),
            "bad.yaml:18: train.batch_size:",
            "got -8",
            "for example batch_size: 32",
        ),
        (
            edit("rows.jsonl", "rwos.jsonl"),
            "bad.yaml:13: data.path:",
            "there is no file",
            "did you mean rows.jsonl?",
        ),
        (break_a_row, "broken.jsonl:2:", "JSON", ""),
    ],
    ids=["misspelt key", "wrong type", "impossible value", "missing data file", "broken data line"],
)
def test_a_bad_file_is_refused_with_place_reason_and_remedy(
    place: Workplace, spoil: Spoil, where: str, reason: str, remedy: str
) -> None:
    place.job_file("bad")
    spoil(place.root)
    before = place.query("SELECT COUNT(*) AS jobs FROM jobs")
    done = place.mmq("submit", "bad.yaml")
    assert (done.code, done.out) == (2, "")
    assert where in done.err
    assert reason in done.err
    assert remedy in done.err.partition("hint: ")[2]
    assert "Traceback" not in done.err
    assert place.query("SELECT COUNT(*) AS jobs FROM jobs") == before


def test_the_second_up_names_who_holds_the_home(place: Workplace) -> None:
    pid = place.service()
    for words in (("up",), ("up", "--detach")):
        assert f"runs already for {place.home}: pid {pid}" in place.ok(*words)
    assert place.service() == pid


def test_two_ups_at_the_same_moment_make_one_service(own_place: Workplace) -> None:
    both = [own_place.start("up", "--detach") for _ in range(2)]
    told = [process.communicate(timeout=90) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    pid = own_place.service()
    for out, _ in told:
        assert f"pid {pid}" in out
    assert sorted(own_place.children()) == ["broker", "controller", "worker"]


def test_nothing_listens_on_a_network_and_the_home_is_private(place: Workplace) -> None:
    job = place.submit("tiny.yaml", "-o", "train.max_steps=300")
    place.until_steps(job, more=35)  # it has saved by then
    everybody = {place.service(), *place.children().values(), *place.job_processes()}
    assert len(everybody) == 6, "supervisor, broker, controller, worker, shim, trainer"
    assert {inode for pid in everybody for inode in sockets_of(pid)} & network_sockets() == set()
    assert stat.S_IMODE(place.home.stat().st_mode) == 0o700
    found = {path: path.lstat().st_mode for path in place.home.rglob("*") if not path.is_symlink()}
    sockets = {mode for mode in found.values() if stat.S_ISSOCK(mode)}
    assert {stat.S_IMODE(mode) for mode in sockets} == {0o600}
    databases = [mode for path, mode in found.items() if path.name.startswith("mmq.db")]
    assert len(databases) >= 2
    assert {stat.S_IMODE(mode) for mode in databases} == {0o600}
    assert [str(path) for path, mode in found.items() if mode & 0o077] == []
    assert not any(map(gone, everybody)), "somebody ended while we looked"


def sockets_of(pid: int) -> set[str]:
    links = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    return {link.removeprefix("socket:[").rstrip("]") for link in links if link.startswith("socket:[")}


def network_sockets() -> set[str]:
    """Every socket of an internet address, whether it listens or is connected: none may be ours."""
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6", "udp", "udp6", "raw")]
    return {line.split()[9] for table in tables for line in table}
