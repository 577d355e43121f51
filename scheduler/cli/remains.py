"""What of an ended job's run directory may go, and the taking away of it. Knows the directory's layout, no policy."""

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

TRASH = ".removed"  # in the folder of run directories: what was taken away, and is on its way out


def spare(root: Path) -> list[Path]:
    """What nobody misses: checkpoints but the last whole one and the best, what was half-written, the rows' cache."""
    checkpoints = list(_checkpoints(root))
    whole = [(path, manifest) for path, manifest in checkpoints if manifest is not None]
    if not whole:
        return [*_half_written(root), *_cache(root)]
    last = max(whole, key=lambda one: _step(one[0]))[0]
    scored = [one for one in whole if isinstance(one[1].get("validation_loss"), float)]
    best = min(scored, key=lambda one: (one[1]["validation_loss"], _step(one[0])), default=(None, None))[0]
    older = [path for path, _ in checkpoints if _step(path) < _step(last) and path != best]
    return [*older, *_half_written(root), *_cache(root)]


def checkpoints(root: Path) -> list[Path]:
    """All checkpoints, and what is spare besides."""
    return [*(path for path, _ in _checkpoints(root)), *_half_written(root), *_cache(root)]


def size_bytes(paths: Iterable[Path]) -> int:
    """What they take; a file that goes meanwhile takes nothing."""
    total = 0
    for path in paths:
        for file in (path, *path.rglob("*")):
            with contextlib.suppress(OSError):
                total += 0 if file.is_dir() and not file.is_symlink() else file.lstat().st_size
    return total


def take_away(paths: Iterable[Path], trash: Path) -> None:
    """Move what is to go out of the way, quickly; `empty` removes it."""
    trash.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        path.rename(trash / f"{number}-{path.name}")


def empty(jobs_dir: Path) -> None:
    """Remove what was taken away, now or by one that was killed."""
    shutil.rmtree(jobs_dir / TRASH, ignore_errors=True)


def _checkpoints(root: Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Each with its manifest; None where it is not whole."""
    for path in sorted((root / "checkpoints").glob("step-*")):
        if path.name[5:].isdecimal() and path.is_dir() and not path.is_symlink():
            yield path, _manifest(path)


def _manifest(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        found: dict[str, Any] = json.loads((path / "manifest.json").read_text())
        if all((path / name).stat().st_size == facts["size_bytes"] for name, facts in found["files"].items()):
            return found
    return None


def _step(path: Path) -> int:
    return int(path.name[5:])


def _half_written(root: Path) -> list[Path]:
    return sorted([*root.glob(".tmp-*"), *(root / "checkpoints").glob(".tmp-*")])


def _cache(root: Path) -> list[Path]:
    return [path for path in (root / "cache",) if path.is_dir() and not path.is_symlink()]
