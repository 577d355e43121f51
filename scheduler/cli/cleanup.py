"""Which files of an ended job's run directory may go, and their removal. Knows the directory's layout, no policy."""

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

TRASH = ".removed"  # in the folder of run directories: what was taken away, and is on its way out


def superfluous(root: Path) -> list[Path]:
    """All checkpoints but the last whole one and the best, what was half-written, and the cache of rows."""
    checkpoints = list(_checkpoints(root))
    whole = [(path, manifest) for path, manifest in checkpoints if manifest is not None]
    if not whole:
        return [*_half_written(root), *_cache(root)]
    last = max((path for path, _ in whole), key=_step)
    losses = {path: manifest.get("validation_loss") for path, manifest in whole}
    scored = [(loss, _step(path), path) for path, loss in losses.items() if isinstance(loss, float)]
    best = min(scored)[-1] if scored else None
    older = [path for path, _ in checkpoints if _step(path) < _step(last) and path != best]
    return [*older, *_half_written(root), *_cache(root)]


def all_checkpoints(root: Path) -> list[Path]:
    """All checkpoints, and what else is superfluous."""
    return [*(path for path, _ in _checkpoints(root)), *_half_written(root), *_cache(root)]


def size_bytes(paths: Iterable[Path]) -> int:
    """What they take; a file that goes meanwhile takes nothing."""
    total = 0
    for path in paths:
        for file in (path, *path.rglob("*")):
            with contextlib.suppress(OSError):
                total += 0 if file.is_dir() and not file.is_symlink() else file.lstat().st_size
    return total


def move_to_trash(paths: Iterable[Path], trash: Path) -> None:
    """Rename the paths into the trash, which is quick; `empty_trash` removes them."""
    trash.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        path.rename(trash / f"{number}-{path.name}")


def empty_trash(jobs_dir: Path) -> None:
    """Remove what is in the trash, also what a killed command left there."""
    shutil.rmtree(jobs_dir / TRASH, ignore_errors=True)


def _checkpoints(root: Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Each with its manifest; None where it is not whole."""
    for path in sorted((root / "checkpoints").glob("step-*")):
        if path.name[5:].isdecimal() and path.is_dir() and not path.is_symlink():
            yield path, _manifest(path)


def _manifest(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text())
        if all((path / name).stat().st_size == facts["size_bytes"] for name, facts in manifest["files"].items()):
            return manifest
    return None


def _step(path: Path) -> int:
    return int(path.name[5:])


def _half_written(root: Path) -> list[Path]:
    return sorted([*root.glob(".tmp-*"), *(root / "checkpoints").glob(".tmp-*")])


def _cache(root: Path) -> list[Path]:
    return [path for path in (root / "cache",) if path.is_dir() and not path.is_symlink()]
