"""What is mounted where, and which of it is a file system that other machines can write to as well.

A descriptor's ``mnt_id`` in ``/proc/self/fdinfo`` names its line in ``/proc/self/mountinfo``. That is exact where a device number
is not: subvolumes of btrfs have their own, bind mounts share one, and a rename between two of those fails all the same. Unlike
`statfs` it tells one FUSE file system from another.

Sources: proc_pid_mountinfo(5), proc_pid_fdinfo(5); the rule for FUSE sources is that of df(1) ``--local``.
"""

from __future__ import annotations

import os
import re
from typing import Final

import attrs

#: File systems that live on a server, or that a virtual machine shares with its host.
_NETWORK: Final = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "smb", "ncpfs", "afs", "auristorfs", "coda", "ceph", "lustre", "gpfs", "beegfs",
    "beegfs_nodev", "9p", "pvfs2", "orangefs", "panfs", "acfs", "snfs", "stornext", "cvfs", "ocfs2", "gfs2", "quobyte", "wekafs",
    "vboxsf", "vmhgfs", "prl_fs", "davfs", "davfs2",
})  # fmt: skip
#: The same of the file systems that are programs; any other one whose source names a host counts, too.
_NETWORK_FUSE: Final = frozenset({
    "sshfs", "glusterfs", "ceph", "ceph-fuse", "s3fs", "rclone", "gcsfuse", "goofys", "mountpoint-s3", "blobfuse", "blobfuse2",
    "davfs", "davfs2", "juicefs", "mfs", "moosefs", "lizardfs", "saunafs", "seaweedfs", "cvmfs2", "curlftpfs", "smbnetfs",
    "gvfsd-fuse", "vmhgfs-fuse", "beegfs", "lucid", "lucidlink", "quobyte", "hdfs", "fuse_dfs", "afp", "afpfs",
})  # fmt: skip
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


@attrs.frozen(kw_only=True)
class Mount:
    """One line of ``/proc/self/mountinfo``."""

    id: int
    #: major:minor
    device: str
    #: Where it is mounted.
    path: str
    #: Type of the file system, such as ext4, nfs4 or fuse.sshfs.
    kind: str
    #: Device, or what the file system calls its origin.
    source: str
    #: Options of the mount and of its file system: (name, value or "").
    options: tuple[tuple[str, str], ...]

    @property
    def is_network(self) -> bool:
        """Whether other machines can have the same files open."""
        family, _, subtype = self.kind.partition(".")
        if family not in ("fuse", "fuseblk"):
            return family in _NETWORK
        remote = ":" in self.source or self.source.startswith("//")
        return subtype.lower() in _NETWORK_FUSE or (family == "fuse" and remote)

    def option(self, name: str) -> str | None:
        """The value of an option, "" for one without a value; None if it is not there."""
        return dict(self.options).get(name)


def read_mounts(text: str | None = None) -> dict[int, Mount]:
    """Every mount of this process by its id; `text` replaces the kernel's table in tests."""
    if text is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    mounts = (_mount(line) for line in text.splitlines() if " - " in line)
    return {mount.id: mount for mount in mounts}


def _mount(line: str) -> Mount:
    own, _, rest = line.partition(" - ")
    id, _, device, _, path, own_options, *_ = own.split(" ")
    kind, source, *options = rest.split(" ")
    every = ",".join([own_options, *options]).split(",")
    pairs = (option.partition("=") for option in every)
    return Mount(
        id=int(id), device=device, path=_unescape(path), kind=kind, source=_unescape(source),
        options=tuple((name, value) for name, _, value in pairs),
    )  # fmt: skip


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def mount_id(path: str) -> int:
    """The id of the mount that a file or folder lies in, -1 where the kernel does not tell. Raises `OSError`."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == "mnt_id":
                    return int(value)
    except FileNotFoundError:
        pass  # no /proc here
    finally:
        os.close(fd)
    return -1


def nearest(path: str) -> str:
    """A path, or its nearest ancestor that exists."""
    while not os.path.exists(path) and path != "/":
        path = os.path.dirname(path)
    return path


def same_place(one: str, other: str) -> bool:
    """Whether a rename or a hard link can lead from one existing path to the other.

    Bind mounts of one file system have one device number, subvolumes of one mount have several; neither can be crossed.
    """
    return (os.stat(one).st_dev, mount_id(one)) == (os.stat(other).st_dev, mount_id(other))


def is_bound_elsewhere(path: str) -> bool:
    """Whether the file system of a path is mounted at more than one place, so that a device number does not tell."""
    try:
        table = read_mounts()
    except OSError:
        return False
    mount = table.get(mount_id(path))
    return mount is not None and any(other.device == mount.device and other.id != mount.id for other in table.values())


def mount_of(path: str, text: str | None = None) -> Mount | None:
    """The mount that a path lies in, or would if it existed; None where the kernel does not tell.

    `text` replaces the kernel's table in tests. Raises `OSError`.
    """
    try:
        return read_mounts(text).get(mount_id(nearest(os.path.realpath(path))))
    except FileNotFoundError:
        return None
