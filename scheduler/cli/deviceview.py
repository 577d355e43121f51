"""A device as it is shown: its memory, what is reserved, what foreign processes hold. Reads rows of `store.views`."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from scheduler.cli.terminal import Column, Line, one_line, table
from scheduler.units import format_bytes

Row = dict[str, Any]

_COLUMNS = (
    Column("device", "DEVICE"),
    Column("name", "NAME", least=8, drop=2),
    Column("total", "TOTAL", right=True),
    Column("reserved", "RESERVED", right=True),
    Column("foreign", "FOREIGN", right=True),
    Column("free", "FREE", right=True),
    Column("busy", "BUSY", right=True, drop=1),
    Column("jobs", "JOBS", least=6),
)


def as_json(row: Row, holders: Iterable[Row]) -> Row:
    """One device. `free_bytes` is what may still be promised, as the admission cycle counts it.

    A live attempt takes what it was promised, or what it is seen to hold if that is more; what is used beyond
    our own processes is foreign. Beside a job that shares with none nothing may be.
    """
    processes = json.loads(row["processes"] or "[]")
    held = dict(processes)
    mine = [holder for holder in holders if holder["device_id"] == row["id"]]
    ours = sum(held.get(holder["pid"], 0) for holder in mine)
    taken = sum(max(holder["reserved_bytes"], held.get(holder["pid"], 0)) for holder in mine)
    used = row["used_bytes"]
    foreign = None if used is None else max(0, used - ours)
    pids = {holder["pid"] for holder in mine}
    exclusive = any(json.loads(holder["plan"]).get("exclusive") for holder in mine)
    left = None if foreign is None else max(0, row["total_bytes"] - foreign - taken)
    return {
        "id": row["id"],
        "device": f"{row['kind']}:{row['number']}",
        "kind": row["kind"],
        "number": row["number"],
        "name": row["name"],
        "host": row["host"],
        "total_bytes": row["total_bytes"],
        "reserved_bytes": row["reserved_bytes"],
        "used_bytes": used,
        "free_bytes": 0 if exclusive and left is not None else left,
        "foreign_bytes": foreign,
        "foreign_processes": [{"pid": pid, "bytes": size} for pid, size in processes if pid not in pids],
        "jobs": sorted({holder["job_id"] for holder in mine}),
        "utilisation": row["utilisation"],
        "read_at": row["read_at"],
        "error": row["error"],
    }


def devices_table(devices: Sequence[Row]) -> str:
    """The table of devices, with what is wrong with one under its row."""
    if not devices:
        return "no devices are known; `mmq up` finds them"
    return table(_COLUMNS, [_line(device) for device in devices])


def _line(device: Row) -> Line:
    cells = {
        "device": device["device"],
        "name": one_line(device["name"]),
        "total": format_bytes(device["total_bytes"]),
        "reserved": format_bytes(device["reserved_bytes"]),
        "foreign": _size(device["foreign_bytes"]),
        "free": _size(device["free_bytes"]),
        "busy": "" if device["utilisation"] is None else f"{device['utilisation']:.0%}",
        "jobs": ",".join(map(str, device["jobs"])),
    }
    return Line(cells, {"free": "green"} if device["free_bytes"] else {}, device["error"] and one_line(device["error"]))


def _size(count: int | None) -> str:
    return "?" if count is None else format_bytes(count)
