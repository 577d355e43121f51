"""Which file systems a SQLite file must not lie on: those where locks of several processes can't be trusted."""

from pathlib import Path

from scheduler.errors import MmqError

NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "lustre", "gpfs", "ceph"})
MOUNTS = Path("/proc/self/mounts")


def refuse_network_file_system(path: Path, mounts: Path = MOUNTS) -> None:
    """Raise MmqError where the file would lie on a network file system."""
    try:
        table = mounts.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # no /proc: nothing to go by
    if not any(kind in table for kind in NETWORK):
        return
    kind, mount = _holding(str(path.parent.resolve()), table)
    if kind in NETWORK:
        raise MmqError(
            f"{path} lies on {mount}, a network file system ({kind}); SQLite's locks don't hold there",
            hint="export MMQ_HOME=/a/directory/on/a/local/disk",
        )


def _holding(directory: str, table: str) -> tuple[str, str]:
    """Kind and mount point of the file system that holds a directory: the longest match, and of equals the last."""
    longest = ("", "")
    for line in table.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mount = fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = directory == mount or directory.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(longest[1]):
            longest = (fields[2], mount)
    return longest
