"""CUDA GPUs, as NVML shows them. Asks the probe's process; never loads NVML itself.

Fails closed: while a GPU can't be read, its readings carry the error, and nothing is admitted there.
"""

import time
from collections.abc import Callable

from scheduler.devices.device import DeviceInfo, DeviceReading, Launch
from scheduler.devices.nvml_child import ProbeChild, ProbeFailed
from scheduler.devices.nvml_report import GpuReport, Report
from scheduler.errors import MmqError
from scheduler.footprint.context import context_bytes

_HINT = "nvidia-smi shows more; after a driver update, reboot; MMQ_DEVICES=cpu does without GPUs"


class NvmlDevices:
    kind = "cuda"

    def __init__(self, probe: ProbeChild, *, clock: Callable[[], float] = time.time) -> None:
        self._probe = probe
        self._clock = clock
        self._known: list[DeviceInfo] = []

    def discover(self) -> list[DeviceInfo]:
        """List the GPUs that can be identified; while NVML does not answer, those it listed last."""
        report = self._ask()
        if not report.error:
            self._known = [_info(gpu) for gpu in report.gpus if gpu.uuid]
        if not self._known:
            raise MmqError(f"no GPU can be used: {_why(report)}", hint=_HINT)
        return list(self._known)

    def read(self) -> list[DeviceReading]:
        report, at = self._ask(), self._clock()
        return [_reading(info, report, at) for info in self._known]

    def launch(self, info: DeviceInfo, limit_bytes: int | None) -> Launch:
        """The trainer sees this one GPU, by UUID: an index means another GPU to CUDA than to NVML."""
        return Launch(
            device={
                "kind": self.kind,
                "number": 0,
                "limit_bytes": limit_bytes,
                "context_bytes": context_bytes(self.kind, info.capability),
            },
            environment={"CUDA_VISIBLE_DEVICES": info.id, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
        )

    def close(self) -> None:
        self._probe.close()

    def _ask(self) -> Report:
        try:
            return self._probe.ask()
        except ProbeFailed as failure:
            return Report(error=str(failure))


def find_gpus(probe: ProbeChild) -> NvmlDevices | None:
    """Open the GPUs of this host; None if it has none. MmqError if it has a driver that does not work."""
    try:
        report = probe.ask()
    except ProbeFailed as failure:
        report = Report(error=str(failure))
    if report.absent:
        probe.close()
        return None
    if report.error:
        probe.close()
        raise MmqError(f"the NVIDIA driver does not work: {report.error}", hint=_HINT)
    return NvmlDevices(probe)


def _info(gpu: GpuReport) -> DeviceInfo:
    return DeviceInfo(
        id=gpu.uuid or "",
        kind=NvmlDevices.kind,
        number=gpu.index,
        name=gpu.name,
        total_bytes=gpu.total_bytes,
        capability=gpu.capability,
    )


def _reading(info: DeviceInfo, report: Report, at: float) -> DeviceReading:
    gpu = next((gpu for gpu in report.gpus if gpu.uuid == info.id), None)
    if gpu is None or gpu.error:
        error = gpu.error if gpu else _missing(info, report)
        return DeviceReading(
            device_id=info.id,
            at=at,
            total_bytes=info.total_bytes,
            used_bytes=0,
            processes=(),
            utilisation=None,
            error=error,
        )
    return DeviceReading(
        device_id=info.id,
        at=at,
        total_bytes=gpu.total_bytes,
        used_bytes=gpu.used_bytes,
        processes=gpu.processes,
        utilisation=gpu.utilisation,
        warnings=gpu.warnings,
    )


def _missing(info: DeviceInfo, report: Report) -> str:
    """Say why a known GPU is not in the report: NVML failed as a whole, this GPU failed, or it is gone."""
    unnamed = (gpu.error for gpu in report.gpus if gpu.uuid is None and gpu.index == info.number)
    return report.error or next(unnamed, None) or "this GPU is no longer there"


def _why(report: Report) -> str:
    troubles = [f"GPU {gpu.index}: {gpu.error}" for gpu in report.gpus if gpu.error]
    return report.error or "; ".join(troubles) or "NVML finds none"
