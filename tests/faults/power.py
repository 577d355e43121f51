"""What a cut of the power could take away: found in the order of the changes of the disk, without cutting any.

A kill leaves what was written in the kernel's hands; a cut does not. So of each change that `world.c` tells, in order:
what is renamed must have been synced before, and what somebody was told of must be, and so must the folder it is in.
"""

from collections.abc import Iterable, Iterator
from pathlib import PurePath

_SHARED_MEMORY = "-shm"  # of SQLite, which makes it anew after a crash


def losses(changes: Iterable[str]) -> Iterator[str]:
    """What could be lost, of lines as `world.c` writes them and `PID told WHAT` among them."""
    unsynced: set[str] = set()  # files by what is in them, folders by the names in them
    for line in changes:
        _, what, *paths = line.split("\t")
        match what, paths:
            case "write", [path] if not path.endswith(_SHARED_MEMORY):
                unsynced.add(path)
            case "mkdir", [path]:
                unsynced.add(_folder(path))
            case "sync", [path]:
                unsynced.discard(path)
            case "remove", [path]:
                unsynced = {one for one in unsynced if one != path and not _is_within(path, one)}
            case "rename", [old, new]:
                early = {path for path in unsynced if path == old or _is_within(old, path)}
                yield from (f"{path} is renamed before it is synced" for path in sorted(early))
                unsynced = unsynced - early | {_folder(new)}
            case "told", [step]:
                yield from (f"{step} is told before {path} is synced" for path in sorted(unsynced))


def _folder(path: str) -> str:
    return str(PurePath(path).parent)


def _is_within(folder: str, path: str) -> bool:
    return path.startswith(f"{folder}/")
