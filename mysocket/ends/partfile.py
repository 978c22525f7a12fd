"""One part file: what has come of a transfer, and its hash so far."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

from mysocket import failpoints
from mysocket.core.batch import Bytes

#: Bytes that are read and hashed in one go.
BLOCK = 1024 * 1024
#: The mode of a part file.
PARTIAL = 0o600
#: How an empty file is made that may be there.
MARK = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
#: Names that only we give.
OURS = re.compile(r"\.mysocket-[0-9a-f]{32}-[0-9a-f]{32}\.(part|over)")


class Halted(Exception):
    """It was told to stop in the middle of something long."""


class Key(NamedTuple):
    """A transfer: the node that sends it, and its id."""

    node: bytes
    id: bytes

    @property
    def part(self) -> str:
        """The name of its part file."""
        return f".mysocket-{self.node.hex()}-{self.id.hex()}.part"

    @property
    def over(self) -> str:
        """The name of what says, where there is no part, that the transfer is over."""
        return self.part.removesuffix("part") + "over"


class PartFile:
    """A part file, or one that has its name already. ``size`` is what has come, without a gap; ``hashed`` how much of it is in
    ``hash``."""

    def __init__(self, fd: int, found: os.stat_result, *, named: bool = False) -> None:
        self.fd = fd
        self.inode = found.st_ino
        self.size = found.st_size
        self.named = named
        self.hash = sha256()
        self.hashed = 0
        #: It is hashed when it is whole, for it comes again from some place, and may do so often.
        self.hash_later = False
        self.dirty = False

    def begin(self) -> None:
        """The file comes from its beginning."""
        os.ftruncate(self.fd, 0)
        self.size = 0
        self.hash_later = False
        self._hash_anew()

    def _hash_anew(self) -> None:
        self.hash, self.hashed = sha256(), 0

    def write(self, data: Bytes, offset: int) -> None:
        """Write at ``offset``, which is not behind :attr:`size`."""
        self.dirty = True
        failpoints.reach("R5")
        rest, at = memoryview(data), offset
        while rest:
            part = rest[: len(rest) // 2] if failpoints.armed("R6") and len(rest) > 1 else rest
            written = os.pwrite(self.fd, part, at)
            failpoints.reach("R6")
            rest, at = rest[written:], at + written
        self.size = max(self.size, at)
        if offset == self.hashed:
            self.hash.update(data)
            self.hashed = at
        elif offset < self.hashed:
            # It comes again, from here on. It should be the same, and END tells.
            self.hash_later = True
            self._hash_anew()

    def catch_up(self, size: int, stopped: Callable[[], bool]) -> None:
        """Hash what was not, up to ``size``."""
        if self.hashed > size:
            self._hash_anew()
        while self.hashed < size:
            if stopped():
                raise Halted
            data = os.pread(self.fd, min(BLOCK, size - self.hashed), self.hashed)
            if not data:
                return  # somebody has cut it; the hash tells
            self.hash.update(data)
            self.hashed += len(data)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
