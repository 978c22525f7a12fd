"""The directory that files are taken into: ours, and held open, so that it may be moved."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import NamedTuple

from mysocket.errors import CannotOpen


class Directory(NamedTuple):
    """Where files go: as the user named it, and open."""

    path: str
    fd: int

    def path_of(self, name: str) -> str:
        """Where a file of the directory is, for people; the directory may have been moved."""
        try:
            moved = not os.path.samestat(os.stat(self.path), os.fstat(self.fd))
        except OSError:
            moved = True
        return os.path.join(os.readlink(f"/proc/self/fd/{self.fd}") if moved else self.path, name)


def open_directory(path: str) -> Directory:
    """Open the directory, or make it.

    :raises CannotOpen: it is none, not ours, or cannot be written to.
    """
    try:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as problem:
        raise CannotOpen(problem.strerror or str(problem), where=path) from None
    try:
        judge(path, os.fstat(fd))
        if not os.access(".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True):
            raise CannotOpen("it cannot be written to", where=path)
    except CannotOpen:
        os.close(fd)
        raise
    return Directory(path, fd)


def current_umask() -> int:
    """The umask of this process. It can only be asked for by setting it: not while another thread makes files."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def judge(path: str, found: os.stat_result, owner: int | None = None) -> None:
    """Is it a directory of ours, or of ``owner``?

    :raises CannotOpen: it is not.
    """
    if not stat.S_ISDIR(found.st_mode):
        raise CannotOpen("it is not a directory", where=path)
    if found.st_uid != (os.geteuid() if owner is None else owner):
        raise CannotOpen(f"it belongs to user {found.st_uid}; files are taken into a directory of one's own", where=path)
