"""One job on several devices: what its processes are told of them."""

from pathlib import Path

import pytest

from scheduler.devices.device import DeviceInfo, Launch
from scheduler.devices.gang import combine, label, with_nccl_room
from scheduler.devices.virtual import VirtualDevices
from scheduler.footprint.context import context_bytes
from trainer import session
from trainer.config import parse_config
from trainer.errors import BadConfiguration

GIB = 1024**3
GPU = {"kind": "cuda", "number": 0, "limit_bytes": 3, "context_bytes": 1}


def test_gpus_are_seen_by_all_in_the_order_of_the_processes() -> None:
    launches = [Launch(device=GPU, environment={"CUDA_VISIBLE_DEVICES": uuid}) for uuid in ("GPU-b", "GPU-a")]
    launch = combine(launches)
    assert launch.device == GPU
    assert launch.environment["CUDA_VISIBLE_DEVICES"] == "GPU-b,GPU-a"
    assert int(launch.environment["OMP_NUM_THREADS"]) >= 1
    assert combine(launches[:1]) is launches[0]


def test_room_is_left_for_what_nccl_holds() -> None:
    launch = Launch(device=GPU, environment={})
    for capability, processes, more in (
        ("8.0", 1, 0),
        ("8.0", 2, 544),
        ("9.0", 8, 992),
        ("10.0", 4, 992),
        ("8.9", 8, 0),
    ):
        info = DeviceInfo(id="", kind="cuda", number=0, name="", total_bytes=1, capability=capability)
        assert with_nccl_room(launch, info, processes).device["context_bytes"] == 1 + more * 1024**2
        assert context_bytes("cuda", capability, processes) == context_bytes("cuda", capability) + more * 1024**2


def test_they_are_named_by_kind_and_numbers() -> None:
    infos = [DeviceInfo(id=f"{n}", kind="cuda", number=n, name="", total_bytes=1, capability=None) for n in (1, 3)]
    assert (label(infos), label(infos[:1])) == ("cuda:1,3", infos[0].label)


def test_each_process_opens_its_own_virtual_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = VirtualDevices(2, GIB, ledger_dir=tmp_path, host="here")
    launch = combine([devices.launch(info, GIB // 2) for info in devices.discover()])
    assert launch.environment["CUDA_VISIBLE_DEVICES"] == ""
    config = parse_config({"kind": "pretrain", "data": {"path": "rows"}, "device": launch.device})
    for rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        device = session._open(config)
        assert device.limit_bytes == GIB // 2
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"virtual-{number}" for number in range(rank + 1)]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(BadConfiguration, match="2 are named, and this is process 2"):
        session._open(config)
