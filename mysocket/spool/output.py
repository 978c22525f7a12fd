"""The ``--output`` FILE of a spool: its length is committed with the positions of what is in it, so nothing is in it twice.

Rules

1. The length is committed before the first byte is written, and after each sync, in the transaction that commits the positions.
2. A tail behind the committed length comes from a process that died before it could commit. It is cut off when a peer and this
   side have agreed where its stream goes on, for then the sender is known to hold it. If they do not agree, it stays.
3. Nobody else writes to the file.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Any

from mysocket import failpoints
from mysocket.core.batch import Bytes
from mysocket.errors import CannotOpen, DiskFailed, OutputDeleted, OutputShared, OutputShortened

#: Buffers in one writev (IOV_MAX is 1024).
BUFFERS = 256


class OutputFile:
    """An open output file.

    :param path: its name, for people and for the spool.
    :param row: what the spool knows of the output: ``path``, ``inode`` and ``length``.
    :param accept_loss: take a file that is shorter than it was.
    :raises CannotOpen, OutputShortened: it cannot be taken.
    """

    def __init__(self, path: str, row: dict[str, Any], *, accept_loss: bool = False) -> None:
        self.path = os.path.realpath(path)
        #: What to tell the user, or nothing.
        self.news = ""
        self._fd, made = self._open()
        status = os.fstat(self._fd)
        self._inode = status.st_ino
        #: Bytes that are written, of those that count.
        self.length = status.st_size
        self._tail = False
        if row.get("path") != self.path:
            return
        known = int(row["length"])
        if made or row["inode"] != self._inode:
            self.news = f"{path} is another file than before: appending to it from byte {self.length}"
        elif self.length < known:
            if not accept_loss:
                os.close(self._fd)
                raise OutputShortened(where=path, size=self.length, length=known)
            self.news = f"accepted: {path} has {self.length} bytes, {known} were written"
        else:
            self._tail = self.length > known
            self.length = known

    def _open(self) -> tuple[int, bool]:
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        try:
            try:
                fd, made = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o666), True
            except FileExistsError:
                fd, made = os.open(self.path, flags | os.O_CREAT, 0o666), False
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever made it, maybe a moment ago: its name has to survive as well.
            directory = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except BlockingIOError:
            os.close(fd)
            raise CannotOpen("another mysocket writes to it", where=self.path) from None
        except OSError as problem:
            raise CannotOpen(problem.strerror or str(problem), where=self.path) from None
        return fd, made

    @property
    def row(self) -> dict[str, Any]:
        """What the spool has to know."""
        return {"path": self.path, "inode": self._inode, "length": self.length}

    @property
    def in_place(self) -> bool:
        """Is this still the file of its name?"""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self.path))
        except OSError:
            return False

    def settle_tail(self, *, cut: bool) -> None:
        """What was written and not committed is cut off, or else counts from now on."""
        if self._tail and cut:
            os.ftruncate(self._fd, self.length)
        elif self._tail:
            self.length = os.fstat(self._fd).st_size
        self._tail = False

    def write(self, data: list[Bytes]) -> int:
        """Write at the end, as far as there is room; what fits in part only is not written at all.

        :return: how many of ``data`` are written.
        :raises DiskFailed: it was refused for another reason.
        """
        failpoints.reach("R5")
        rest = data
        try:
            while rest:
                part = rest[:BUFFERS]
                if failpoints.armed("R6"):
                    part = [memoryview(part[0])[: len(part[0]) // 2]]
                try:
                    written = os.writev(self._fd, part)
                except OSError as problem:
                    if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    whole = len(data) - len(rest)
                    self.length -= len(data[whole]) - len(rest[0])
                    os.ftruncate(self._fd, self.length)
                    return whole
                failpoints.reach("R6")
                self.length += written
                rest = _behind(rest, written)
        except OSError as problem:
            raise DiskFailed(problem.strerror or str(problem), where=self.path) from None
        return len(data)

    def sync(self) -> None:
        """Make what is written safe.

        :raises DiskFailed: nobody knows what of it is.
        :raises OutputShared, OutputDeleted: somebody else has a hand in the file.
        """
        try:
            os.fdatasync(self._fd)
        except OSError as problem:
            failpoints.reach("D2")
            raise DiskFailed(problem.strerror or str(problem), where=self.path) from None
        status = os.fstat(self._fd)
        if not status.st_nlink:
            raise OutputDeleted(where=self.path)
        if status.st_size != self.length:
            raise OutputShared(where=self.path, size=status.st_size, length=self.length)

    def close(self) -> None:
        os.close(self._fd)


def _behind(data: list[Bytes], written: int) -> list[Bytes]:
    """What is left of ``data``."""
    for index, part in enumerate(data):
        if written < len(part):
            return [memoryview(part)[written:], *data[index + 1 :]]
        written -= len(part)
    return []
