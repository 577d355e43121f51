"""`mmq gpus`: the devices, from the store while the service keeps it fresh, else read directly."""

import json
import time
from pathlib import Path
from typing import Any

import click

from scheduler.cli import context, deviceview
from scheduler.cli.terminal import one_line, say
from scheduler.config import Settings
from scheduler.errors import SchemaMismatch
from scheduler.store import views
from scheduler.units import format_bytes

Row = dict[str, Any]

FRESH_SECONDS = 30.0


@click.command(name="gpus")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """Show the devices: total, free and reserved memory, and foreign processes. Needs no running service."""
    devices = _devices(context.settings())
    if as_json:
        click.echo(json.dumps({"devices": devices}))
        return
    click.echo(deviceview.devices_table(devices))
    for device in devices:
        for process in device["foreign_processes"]:
            size = (
                format_bytes(process["bytes"])
                if process["bytes"]
                else "an unknown amount of memory (the driver does not say)"
            )
            click.echo(f"  {device['device']}: process {process['pid']} ({_name(process['pid'])}) holds {size}")


def _devices(settings: Settings) -> list[Row]:
    try:
        with context.read_store(settings) as database:
            stored, holders = views.devices(database), views.holders(database)
    except SchemaMismatch:
        stored, holders = [], []
    fresh = [row for row in stored if row["read_at"] and time.time() - row["read_at"] < FRESH_SECONDS]
    if not fresh:
        say("note", "no service is reading the devices; they were read directly")
    return [deviceview.as_json(row, holders) for row in (stored if fresh else _live(settings, stored))]


def _live(settings: Settings, stored: list[Row]) -> list[Row]:
    """Discover and read the devices now, as rows; what is reserved still comes from the store."""
    from scheduler.devices.choice import open_devices

    promised = {row["id"]: row["reserved_bytes"] for row in stored}
    devices = open_devices(settings.devices, settings)
    try:
        infos = devices.discover()
        readings = {reading.device_id: reading for reading in devices.read()}
    finally:
        devices.close()
    return [
        {
            "id": info.id,
            "host": settings.host,
            "kind": info.kind,
            "number": info.number,
            "name": info.name,
            "total_bytes": info.total_bytes,
            "reserved_bytes": promised.get(info.id, 0),
            "used_bytes": readings[info.id].used_bytes,
            "processes": json.dumps([list(pair) for pair in readings[info.id].processes]),
            "utilisation": readings[info.id].utilisation,
            "read_at": readings[info.id].at,
            "error": readings[info.id].error,
        }
        for info in infos
    ]


def _name(pid: int) -> str:
    """A process's name, if it is there to be asked."""
    try:
        return one_line(Path(f"/proc/{pid}/comm").read_text(errors="replace")) or "?"
    except OSError:
        return "?"
