"""Devices of a host, the latest look at each, and what is promised of them."""

import json
from collections.abc import Iterable, Sequence
from typing import Protocol

from scheduler.store.database import Database, Reader
from scheduler.store.records import Device, Reading, Reservation


class DeviceFacts(Protocol):
    """What is known of a device before it is stored."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def capability(self) -> str | None: ...


class ReadingFacts(Protocol):
    """A look at a device before it is stored."""

    @property
    def device_id(self) -> str: ...
    @property
    def at(self) -> float: ...
    @property
    def used_bytes(self) -> int: ...
    @property
    def processes(self) -> Sequence[tuple[int, int]]: ...
    @property
    def utilisation(self) -> float | None: ...
    @property
    def error(self) -> str | None: ...


def upsert(db: Database, devices: Iterable[DeviceFacts], host: str) -> None:
    """Store what a host has now; its devices not among these stay, marked absent."""
    with db.transaction() as tx:
        tx.execute("UPDATE devices SET present = 0 WHERE host = :host", host=host)
        for device in devices:
            tx.execute(
                "INSERT INTO devices (id, host, kind, number, name, total_bytes, capability, present)"
                " VALUES (:id, :host, :kind, :number, :name, :total_bytes, :capability, 1)"
                " ON CONFLICT (id) DO UPDATE SET host = excluded.host, kind = excluded.kind,"
                " number = excluded.number, name = excluded.name, total_bytes = excluded.total_bytes,"
                " capability = excluded.capability, present = 1",
                id=device.id,
                host=host,
                kind=device.kind,
                number=device.number,
                name=device.name,
                total_bytes=device.total_bytes,
                capability=device.capability,
            )


def write_readings(db: Database, readings: Iterable[ReadingFacts]) -> None:
    """Replace the latest look at each of these devices, in one transaction."""
    with db.transaction() as tx:
        for reading in readings:
            tx.execute(
                "INSERT INTO readings (device_id, at, used_bytes, processes, utilisation, error)"
                " VALUES (:device_id, :at, :used_bytes, :processes, :utilisation, :error)"
                " ON CONFLICT (device_id) DO UPDATE SET at = excluded.at, used_bytes = excluded.used_bytes,"
                " processes = excluded.processes, utilisation = excluded.utilisation, error = excluded.error",
                device_id=reading.device_id,
                at=reading.at,
                used_bytes=reading.used_bytes,
                processes=json.dumps([list(pair) for pair in reading.processes]),
                utilisation=reading.utilisation,
                error=reading.error,
            )


def list_devices(db: Reader) -> list[Device]:
    """All devices ever seen, by host and number; `present` tells which are there."""
    return [Device.from_row(row) for row in db.query("SELECT * FROM devices ORDER BY host, kind, number, id")]


def readings(db: Reader) -> dict[str, Reading]:
    """The latest look at each device, by its id."""
    return {row["device_id"]: Reading.from_row(row) for row in db.query("SELECT * FROM readings")}


def reservations(db: Reader) -> list[Reservation]:
    """All memory promised to live attempts."""
    rows = db.query("SELECT * FROM reservations ORDER BY device_id, attempt_id")
    return [Reservation.from_row(row) for row in rows]
