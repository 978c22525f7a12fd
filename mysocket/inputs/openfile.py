"""A file that is open and read from its beginning, while somebody may write to it, cut it, or give it another name."""

from __future__ import annotations

import os
import stat

from mysocket.inputs.place import REACH, Place, fingerprint

Identity = tuple[int, int]


class Truncated(Exception):
    """What was read is not in the file any more."""


class NoFile(Exception):
    """It is something else.

    :ivar passes: a file may be there one day.
    """

    def __init__(self, text: str, *, passes: bool) -> None:
        super().__init__(text)
        self.passes = passes


def open_file(path: str) -> OpenFile:
    """
    :raises OSError:
    :raises NoFile: it is no regular file.
    """
    # Looked at before it is opened: a device may do something at that, and the writer of a FIFO would take us for its reader.
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode):
            return OpenFile(path, fd, found)
        os.close(fd)
        mode = found.st_mode
    if stat.S_ISDIR(mode):
        raise NoFile("it is a directory", passes=True)
    raise NoFile("it is no regular file, so it has no place to come back to; give it as stdin (< FILE)", passes=False)


class OpenFile:
    """One file. The bytes before :attr:`offset` were given away, those from there to :attr:`at` are held as its tail.

    :ivar path: a name that it has, or had.
    :ivar size: bytes that it was seen to have.
    :ivar settled: nobody writes to it any more.
    """

    def __init__(self, path: str, fd: int, found: os.stat_result) -> None:
        self.path = path
        #: Where the name led then.
        self.real = os.path.realpath(path)
        self.fd = fd
        self.identity: Identity = (found.st_dev, found.st_ino)
        self.size, self.mtime_ns = found.st_size, found.st_mtime_ns
        self.settled = False
        self.reset()

    def reset(self) -> None:
        """Begin at its beginning."""
        self.offset = self.at = 0
        self._tail: list[bytes] = []
        # What lies at the beginning of the file; before the offset; before what is read next.
        self._head = self._before = self._recent = b""

    def close(self) -> None:
        """Give the descriptor back."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    @property
    def held(self) -> int:
        """Bytes of the tail."""
        return self.at - self.offset

    # Where it stands ------------------------------------------------------------------------------------------------------------

    def place(self) -> Place:
        """Where it stands behind what was given."""
        return self._place(self.offset, self._before)

    def probe(self) -> Place:
        """Where it stands behind its tail."""
        return self._place(self.at, self._recent)

    def _place(self, offset: int, before: bytes) -> Place:
        return Place(*self.identity, offset, max(self.size, offset), self.mtime_ns, fingerprint(self._head[:offset], before))

    def resume(self, place: Place, offset: int | None = None) -> bool:
        """Go on at a place (or at ``offset`` before it), if what lies before it is what was read; False: it is not."""
        if os.fstat(self.fd).st_size < place.offset:
            return False
        if fingerprint(self._bytes_before(place.offset, 0), self._bytes_before(place.offset)) != place.print:
            return False
        self.reset()
        self.offset = self.at = place.offset if offset is None else offset
        self._head = self._bytes_before(self.at, 0)
        self._before = self._recent = self._bytes_before(self.at)
        return True

    def _bytes_before(self, offset: int, start: int | None = None) -> bytes:
        reach = min(REACH, offset)
        return os.pread(self.fd, reach, offset - reach if start is None else start)

    # Reading --------------------------------------------------------------------------------------------------------------------

    def has_data(self) -> bool:
        """Is anything in it?"""
        return os.fstat(self.fd).st_size > 0

    def notice(self, size: int) -> None:
        """It has so many bytes, if it is still what was read."""
        if size > self.size and self._is_there():
            self.size = size

    def take(self, size: int) -> bytes:
        """At most so many bytes that come next; nothing: there are no more. They are to be given to :meth:`hold`.

        :raises Truncated: what was read before is gone; so it is not known what these are.
        """
        data = os.pread(self.fd, size, self.at)
        # Behind the reading: if what was read before is still there, then it was there at that time.
        found = os.fstat(self.fd)
        if found.st_size < self.at or ((data or found.st_mtime_ns != self.mtime_ns) and not self._is_there()):
            raise Truncated
        self.size, self.mtime_ns = found.st_size, found.st_mtime_ns
        return data

    def _is_there(self) -> bool:
        if os.pread(self.fd, len(self._recent), self.at - len(self._recent)) != self._recent:
            return False
        return self.at <= REACH or os.pread(self.fd, REACH, 0) == self._head

    def hold(self, data: bytes) -> None:
        """These bytes are the end of the tail now."""
        self._tail.append(data)
        self.at += len(data)
        if len(self._head) < REACH:
            self._head += data[: REACH - len(self._head)]
        self._recent = _last(self._recent, data)

    def give(self, size: int | None = None) -> bytes:
        """The tail, or so many of its first bytes: they are given away."""
        size = self.held if size is None else size
        block = self._tail[0] if len(self._tail) == 1 else b"".join(self._tail)
        self._tail = []
        if size < len(block):
            self._tail.append(block[size:])
            block = block[:size]
        self.offset += len(block)
        self._before = _last(self._before, block)
        return block


def _last(before: bytes, data: bytes) -> bytes:
    return data[-REACH:] if len(data) >= REACH else (before + data)[-REACH:]
