"""An event as people read it: what happened, and why, in a few words. Reads rows of the event log."""

import json
from collections.abc import Mapping
from typing import Any

from scheduler.cli.terminal import one_line
from scheduler.units import format_bytes

Row = dict[str, Any]


def happened(event: Row) -> str:
    """What it was: `queued -> admitted`, `out of memory`."""
    if event["kind"] == "state":
        return f"{event['from_state'] or 'submitted'} -> {event['to_state']}"
    return str(event["kind"]).replace("_", " ")


def facts(detail: Mapping[str, Any]) -> str:
    """All that there is to say of it: `device virtual:0, micro-batch 8`."""
    hidden = {"path"} | ({"message"} if detail.get("message") == detail.get("reason") else set())  # `done` is said once
    shown = [(key, value) for key, value in detail.items() if value is not None and key not in hidden]
    return one_line(", ".join(f"{_words(key)} {_shown(key, value)}" for key, value in shown))


def cause(detail: Mapping[str, Any]) -> str:
    """Why, in one line: the sentence if there is one, else all that there is to say."""
    return one_line(str(detail["message"])) if detail.get("message") else facts(detail)


def as_json(event: Row) -> Row:
    return event | {"detail": json.loads(event["detail"])}


def _shown(key: str, value: object) -> str:
    if key.endswith("bytes") and isinstance(value, int):
        return format_bytes(value)
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


def _words(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ")
