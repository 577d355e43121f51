"""The states of a large model as people read them: a table by precision, and one by how devices share them."""

from collections.abc import Mapping, Sequence
from typing import Any

from scheduler.cli.terminal import Column, Line, table
from scheduler.footprint.states import GB, PRECISIONS, Precision, Split, splits, state_bytes

_STATES = tuple(Column(name, name.upper(), right=True) for name in ("weights", "gradients", "optimizer"))
_BY_PRECISION = (
    Column("precision", "PRECISION"),
    Column("each", "BYTES A PARAMETER", right=True),
    *_STATES,
    Column("total", "TOTAL", right=True),
    Column("note", "WITH", drop=1),
)
_BY_SPLIT = (Column("split", "SHARED BY"), *_STATES, Column("total", "A DEVICE", right=True))


def states(parameters: int, precision: Precision | None, devices: int) -> dict[str, Any]:
    """Work out the answer of `estimate --parameters --json`."""
    shown = [precision] if precision else list(PRECISIONS)
    chosen = precision or PRECISIONS[0]
    return {
        "parameters": parameters,
        "precisions": [
            {"precision": each.name, "bytes_a_parameter": each.total, "with": each.note, **_sizes(parameters, each)}
            for each in shown
        ],
        "devices": devices,
        "splits": [
            {"precision": each.name, **_ways(split), **_sizes(parameters, each, split)}
            for each in ([chosen] if precision else shown)
            for split in splits(devices)
        ],
    }


def text(answer: Mapping[str, Any]) -> str:
    lines = [Line(_cells(row) | {"precision": row["precision"], "note": row["with"]}) for row in answer["precisions"]]
    sections = [f"{answer['parameters']:,} parameters, in GB of 10^9 bytes:", table(_BY_PRECISION, lines)]
    if answer["devices"] > 1:
        for precision in dict.fromkeys(row["precision"] for row in answer["splits"]):
            rows: Sequence[Mapping[str, Any]] = [row for row in answer["splits"] if row["precision"] == precision]
            sections += [
                f"On each of {answer['devices']} devices, {precision}:",
                table(_BY_SPLIT, [Line(_cells(row) | {"split": _words(row)}) for row in rows]),
            ]
    sections.append("Activations, logits and the context come on top: they depend on the model and the batch.")
    return "\n\n".join(sections)


def _sizes(parameters: int, precision: Precision, split: Split | None = None) -> dict[str, int]:
    sizes = state_bytes(parameters, precision, split or Split())
    return {**{f"{kind}_bytes": size for kind, size in sizes.items()}, "total_bytes": sum(sizes.values())}


def _ways(split: Split) -> dict[str, int]:
    return {"tensor": split.tensor, "pipeline": split.pipeline, "data": split.data, "zero": split.zero}


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    kinds = ("weights", "gradients", "optimizer", "total")
    return {"each": f"{row.get('bytes_a_parameter', 0):g}"} | {kind: _gb(row[f"{kind}_bytes"]) for kind in kinds}


def _gb(size_bytes: int) -> str:
    size = size_bytes / GB
    if 0 < size < 0.001:
        return "<0.001"
    return f"{size:,.0f}" if size >= 100 else f"{size:.3g}"


def _words(row: Mapping[str, int]) -> str:
    parts = [f"{name} x {row[name]}" for name in ("tensor", "pipeline", "data") if row[name] > 1]
    stage = f", ZeRO stage {row['zero']}" if row["zero"] else ""
    return (", ".join(parts) or "one device") + stage
