"""A file that is sent: opened, read and hashed as the pieces of one transfer (core/transfer.py). No Twisted here.

Rules

1. Only regular files: what is no file, or has no size, is refused before anything of it is sent.
2. What is sent under one SHA-256 is one state of the file. One that has shrunk, grown, or was written to meanwhile is given up.
3. A transfer that goes on in another process reads, and hashes, again what was sent before.
4. Everything here may wait for a disk, or for a server of files: it is for a thread of its own, or a program that has time.
"""

from __future__ import annotations

import os
import stat
from hashlib import sha256
from typing import NamedTuple

from mysocket.core.batch import Piece
from mysocket.core.transfer import CHUNK, Chunk, Part
from mysocket.ends.escape import one_line
from mysocket.errors import FileChanged, FileUnread, MySocketError, NotSendable

#: Bytes that are read and hashed in one go.
BLOCK = 4 * CHUNK


class Stamp(NamedTuple):
    """What tells one state of a file from another: bytes; when it was written to (nanoseconds); which file it is."""

    size: int
    mtime_ns: int
    inode: int


def base_name(path: str) -> str:
    """What the file is called on its way. Bytes that are no UTF-8 are replaced."""
    return os.fsencode(os.path.basename(path)).decode(errors="replace")


def shown(path: str) -> str:
    """The path, for people: any program may have given that file its name."""
    return one_line(path, 4096)


class FileReader:
    """One file; :meth:`close` it.

    :param id: of the transfer, 16 bytes.
    :param stamp: the state that must be found, if it was opened before.
    :raises NotSendable: it cannot be opened, or is no regular file.
    :raises FileChanged: it has another state.

    :ivar offset: so many bytes were read.
    :ivar ended: END was given.
    """

    def __init__(self, path: str, id: bytes, stamp: Stamp | None = None) -> None:
        self.path = path
        self.shown = shown(path)
        self.id = id
        self.name = base_name(path)
        self._fd = _open(path)
        try:
            self.stamp = self._look() if stamp is None else stamp
            self._check()
        except MySocketError:
            self.close()
            raise
        self._hash = sha256()
        self.offset = 0
        self.ended = False

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.stamp.size

    def fileno(self) -> int:
        """Its descriptor, which is always ready."""
        return self._fd

    def offer(self) -> Piece:
        """The first piece."""
        return Chunk(Part.OFFER, self.id, self.size, text=self.name).piece()

    def read(self, size: int = BLOCK) -> list[Piece]:
        """The next pieces: at most so many bytes of the file, in whole chunks; behind the last of them END.

        :raises FileChanged: it is not what it was.
        :raises FileUnread: the system says why.
        """
        pieces = []
        end = min(self.size, self.offset + max(size // CHUNK, 1) * CHUNK)
        while self.offset < end:
            data = self._take(min(CHUNK, end - self.offset))
            pieces.append(Chunk(Part.DATA, self.id, self.offset - len(data), data).piece())
        if self.offset == self.size and not self.ended:
            if self._pread(1):
                raise FileChanged(f"it has grown beyond {self.size} bytes", where=self.shown)
            self.ended = True
            pieces.append(Chunk(Part.END, self.id, self.size, text=self.name, digest=self._hash.digest()).piece())
        # Behind the reading: what was read before somebody wrote is as it was.
        self._check()
        return pieces

    def skip(self, size: int) -> None:
        """Read so many bytes of what was sent before, or up to the end.

        :raises FileChanged: as :meth:`read`.
        :raises FileUnread: as :meth:`read`.
        """
        end = min(self.size, self.offset + size)
        while self.offset < end:
            self._take(min(CHUNK, end - self.offset))
        self._check()

    def cancel(self, why: str) -> Piece:
        """The last piece, where the rest will not come."""
        return Chunk(Part.CANCEL, self.id, self.offset, text=why).piece()

    def close(self) -> None:
        """Give the descriptor back."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _take(self, size: int) -> bytes:
        """So many bytes, read and hashed."""
        data = self._pread(size)
        while len(data) < size:
            more = self._pread(size - len(data), len(data))
            if not more:
                raise FileChanged(f"it has shrunk to {self.offset + len(data)} of {self.size} bytes", where=self.shown)
            data += more
        self._hash.update(data)
        self.offset += size
        return data

    def _pread(self, size: int, behind: int = 0) -> bytes:
        try:
            return os.pread(self._fd, size, self.offset + behind)
        except OSError as problem:
            raise FileUnread(problem.strerror or str(problem), where=self.shown) from None

    def _look(self) -> Stamp:
        try:
            found = os.fstat(self._fd)
        except OSError as problem:
            raise FileUnread(problem.strerror or str(problem), where=self.shown) from None
        return Stamp(found.st_size, found.st_mtime_ns, found.st_ino)

    def _check(self) -> None:
        found, known = self._look(), self.stamp
        if found.inode != known.inode:
            raise FileChanged("it is another file of the same name", where=self.shown)
        if found.size != known.size:
            raise FileChanged(f"it had {known.size} bytes, and has {found.size}", where=self.shown)
        if found.mtime_ns != known.mtime_ns:
            raise FileChanged("somebody has written to it", where=self.shown)


def _open(path: str) -> int:
    try:
        # Looked at before it is opened: a device may do something at that, and the writer of a FIFO would take us for its reader.
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            mode = os.fstat(fd).st_mode
            if stat.S_ISREG(mode):
                return fd
            os.close(fd)
    except (OSError, ValueError) as problem:
        text = problem.strerror if isinstance(problem, OSError) else None
        raise NotSendable(text or str(problem), where=shown(path)) from None
    if stat.S_ISDIR(mode):
        raise NotSendable("it is a directory; send an archive of it (tar -czf)", where=shown(path))
    raise NotSendable(
        "it is no regular file, so it has no size and no end; send it as messages, through stdin", where=shown(path)
    )
