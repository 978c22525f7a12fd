"""Files that are coming: their part files, and how they get their names. All of it may wait for a disk: it is for a thread of
its own (:mod:`mysocket.ends.filewriter`).

Rules

1. What has come of a transfer is in ``.mysocket-NODE-ID.part``, mode 0600. NODE is the id of the sending node, which a restart of
   it or of us does not change, so that a sender finds its part again, and no sender can name the part of another.
2. The directory is held open, and everything is opened in it without following links: it may be moved, and what somebody puts
   there is not written to.
3. Bytes are only written where no gap comes before them. What is written again, because it came again, is the same.
4. A whole file is compared with its SHA-256 and synced, and only then gets its name, by link(2), which never replaces a file.
   The part stays until the END, or a CANCEL, is committed: what comes again after a crash finds a part, with a second name if the
   file has its own, and nothing is done twice. Nothing is written to a part that has a name.
5. Where there are no hard links, the name is made first, empty, and the part moved there; an empty ``….over`` says then what the
   second name would. A crash between the two leaves an empty file of that name, and the file gets the next one.
6. Without a spool nobody knows what the sender will say again after a restart of ours. So ``….over`` takes the place of the part
   when that has its name, until the sender is known to know.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import NamedTuple

from mysocket import failpoints
from mysocket.core.transfer import Chunk, Part, safe_name
from mysocket.ends.directory import Directory
from mysocket.ends.naming import Names
from mysocket.ends.partfile import MARK, OURS, PARTIAL, Key, PartFile
from mysocket.errors import DiskFailed, OutputFailed

#: Part files that are held open, at most.
OPEN_PARTS = 64
#: Transfers that are over, and known so that what comes of them again is passed over.
REMEMBERED = 4096
#: Seconds after which a part that has a name, and was left by a process that was killed, is removed at a start. Not at once: the
#: END that named it may not be committed, and come again.
NAMED_KEPT = 30 * 86400.0

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Full(Exception):
    """There is no room on the disk now."""


class Fate(Enum):
    """What became of a chunk."""

    WRITTEN = auto()
    #: The file is whole, and has its name.
    SAVED = auto()
    #: There is nothing more to do for its transfer.
    PASSED = auto()
    CANCELLED = auto()
    #: What was acknowledged before is not there any more.
    LOST = auto()


class Result(NamedTuple):
    """What became of a chunk.

    :param offset: bytes of the file that are there.
    :param path: of the file that was saved.
    :param text: what was lost, and how it shows.
    """

    fate: Fate
    offset: int = 0
    path: str = ""
    text: str = ""


PASSED = Result(Fate.PASSED)


class Parts:
    """The part files in a directory.

    :param directory: closed with :meth:`close`.
    :param durable: what is written is synced, by :meth:`settle` at the latest.
    :param umask: what a new file is not allowed.
    :param stopped: something long is to be given up.
    """

    def __init__(
        self, directory: Directory, *, durable: bool, umask: int = 0o022, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self.directory = directory
        self._durable = durable
        self._mode = 0o666 & ~umask
        self._stopped = stopped
        self._parts: dict[Key, PartFile] = {}
        self._open: dict[Key, PartFile] = {}  # the one that was used last is the last
        self._touched: dict[Key, PartFile] = {}  # since the last settle()
        self._over: dict[Key, bool] = {}  # transfers of which nothing more is taken; True: saved
        self._names = Names(directory.fd)
        self._names_changed = False

    def clean(self, now: float | None = None) -> None:
        """Remove parts that have had a name for long: whoever named them was killed before it could remove them."""
        now = time.time() if now is None else now
        with suppress(OSError), os.scandir(self.directory.fd) as found:
            old = [entry.name for entry in found if OURS.fullmatch(entry.name) and self._is_old(entry, now)]
            for name in old:
                os.unlink(name, dir_fd=self.directory.fd)

    def _is_old(self, entry: os.DirEntry[str], now: float) -> bool:
        found = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode) or now - found.st_ctime <= NAMED_KEPT:
            return False
        return entry.name.endswith(".over") or self._is_named(found)

    def take(self, key: Key, chunk: Chunk) -> Result:
        """A chunk has come. Nothing is changed by one that comes again.

        :raises Full: it has to come again when there is room.
        :raises Halted: :meth:`stopped` says so.
        :raises OutputFailed: it cannot be written.
        :raises DiskFailed: it cannot be synced.
        """
        with self._told(key.part):
            try:
                result = _TAKE[chunk.part](self, key, chunk)
            except OSError as problem:
                if problem.errno != errno.EFBIG:
                    raise
                # No room that is made helps, and what is behind it would never come.
                result = self._lost(key, f"cannot be kept: {problem.strerror}")
            self._bound()
        return result

    def _offer(self, key: Key, chunk: Chunk) -> Result:
        if self._over.get(key):
            return PASSED
        self._over.pop(key, None)
        part = self._find(key)
        if part is None:
            if self._is_over(key):
                return PASSED
            part = self._make(key)
        elif part.named:
            return PASSED
        part.begin()
        return Result(Fate.WRITTEN)

    def _begun(self, key: Key, offset: int) -> PartFile | Result:
        """The part of a transfer of which ``offset`` bytes have come; or what becomes of the chunk, where there is none."""
        if key in self._over:
            return PASSED
        part = self._find(key)
        if part is not None:
            return part
        if self._is_over(key):
            return PASSED
        return self._lost(key, f"is gone: {offset} bytes of it had come") if offset else self._make(key)

    def _data(self, key: Key, chunk: Chunk) -> Result:
        part = self._begun(key, chunk.offset)
        if isinstance(part, Result):
            return part
        if part.named:
            return PASSED
        if chunk.offset > part.size:
            return self._lost(key, f"has {part.size} bytes here, and {chunk.offset} had come")
        if part.hashed < chunk.offset and not part.hash_later:
            part.catch_up(chunk.offset, self._stopped)  # what an earlier process has written
        self._touched[key] = part
        part.write(chunk.data, chunk.offset)
        return Result(Fate.WRITTEN, part.size)

    def _end(self, key: Key, chunk: Chunk) -> Result:
        part = self._begun(key, chunk.offset)
        if isinstance(part, Result):
            return part
        if part.named:
            self._finish(key, saved=True)
            return PASSED
        if part.size < chunk.offset:
            return self._lost(key, f"has {part.size} bytes here, and {chunk.offset} had come")
        if part.size > chunk.offset:
            os.ftruncate(part.fd, chunk.offset)
            part.size = chunk.offset
        part.catch_up(chunk.offset, self._stopped)
        if part.hash.digest() != chunk.digest or os.fstat(part.fd).st_size != chunk.offset:
            return self._lost(key, f"is not what was sent: its {chunk.offset} bytes here have another SHA-256")
        if not self._in_place(key, part):
            return self._lost(key, f"is gone: {chunk.offset} bytes of it had come")
        os.fchmod(part.fd, self._mode)
        if self._durable:
            # With the name comes its content: who finds the name after a power cut must not find less.
            self._sync(part.fd, key.part)
        failpoints.reach("R5")
        self._names_changed = True
        path = self.directory.path_of(self._names.give(key, safe_name(chunk.text)))
        failpoints.reach("R6")
        self._finish(key, saved=True)
        return Result(Fate.SAVED, chunk.offset, path)

    def _cancel(self, key: Key, chunk: Chunk) -> Result:
        if key in self._over:
            return PASSED
        part = self._find(key)
        if part is None or part.named:
            return PASSED
        size = part.size
        self._finish(key, saved=False)
        return Result(Fate.CANCELLED, size)

    def forget(self, key: Key) -> None:
        """The END, or the CANCEL, of the transfer is committed, and will not come again: its part is of no more use."""
        failpoints.reach("R8")
        self._unlink(key, key.part)
        self._unlink(key, key.over)

    def retire(self, key: Key) -> None:
        """The END, or the CANCEL, is acknowledged, and may come again to a later process: its part is of no more use."""
        failpoints.reach("R8")
        with self._told(key.over):
            os.close(os.open(key.over, MARK, PARTIAL, dir_fd=self.directory.fd))
        self._unlink(key, key.part)

    def _unlink(self, key: Key, name: str) -> None:
        self._drop(key)
        self._names_changed = True
        with self._told(name), suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.directory.fd)

    def settle(self) -> set[Key]:
        """Sync what was taken since the last time, if that is wanted.

        :return: transfers whose part somebody has removed meanwhile: what was taken of them is lost.
        :raises DiskFailed: nobody knows what of it is on the disk.
        """
        gone: set[Key] = set()
        for key, part in self._touched.items():
            if part.fd < 0:
                continue
            if self._durable and part.dirty:
                self._sync(part.fd, key.part, data=True)
            part.dirty = False
            if not os.fstat(part.fd).st_nlink:
                gone.add(key)
        self._touched.clear()
        if self._durable and self._names_changed:
            self._sync(self.directory.fd, "")
        self._names_changed = False
        for key in gone:
            self._lost(key, "")
        return gone

    def close(self) -> None:
        """Give everything back; parts stay."""
        for part in self._parts.values():
            part.close()
        os.close(self.directory.fd)

    # Part files -----------------------------------------------------------------------------------------------------------------

    def _find(self, key: Key) -> PartFile | None:
        """The part of a transfer, which an earlier process may have made; None: there is none."""
        known = self._parts.get(key)
        if known is not None and known.fd >= 0:
            self._open[key] = self._open.pop(key, known)
            return known
        try:
            fd, found = self._open_file(key.part, os.O_RDWR)
        except FileNotFoundError:
            self._parts.pop(key, None)
            return None
        if known is None or known.inode != found.st_ino:
            known = PartFile(fd, found, named=self._is_named(found))
        known.fd = fd
        self._parts[key] = self._open[key] = known
        return known

    def _make(self, key: Key) -> PartFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(key.part, flags, PARTIAL, dir_fd=self.directory.fd)
        os.fchmod(fd, PARTIAL)
        self._names_changed = True
        self._parts[key] = self._open[key] = part = PartFile(fd, os.fstat(fd))
        return part

    def _open_file(self, name: str, flags: int) -> tuple[int, os.stat_result]:
        """Open a regular file of ours, and nothing else."""
        # Non-blocking: a FIFO must not hold us before it is refused.
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        found = os.stat(name, dir_fd=self.directory.fd, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode):
            fd = os.open(name, flags, dir_fd=self.directory.fd)
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                return fd, found
            os.close(fd)
        raise OutputFailed("it is not a regular file of this user; remove it", where=self.directory.path_of(name))

    def _bound(self) -> None:
        """Not too many are open at a time."""
        while len(self._open) > OPEN_PARTS:
            key = next(iter(self._open))
            part = self._open.pop(key)
            if self._durable and part.dirty:
                self._sync(part.fd, key.part, data=True)
            part.dirty = False
            part.close()

    def _in_place(self, key: Key, part: PartFile) -> bool:
        """Is it still what has its name?"""
        with suppress(FileNotFoundError):
            found = os.stat(key.part, dir_fd=self.directory.fd, follow_symlinks=False)
            return os.path.samestat(found, os.fstat(part.fd))
        return False

    def _is_named(self, found: os.stat_result) -> bool:
        """Has a part the name of the whole file, too? A second name alone does not say so: there are backups that make one."""
        if found.st_nlink < 2:
            return False
        if stat.S_IMODE(found.st_mode) != PARTIAL:
            return True
        with os.scandir(self.directory.fd) as entries:
            return any(entry.inode() == found.st_ino and not OURS.fullmatch(entry.name) for entry in entries)

    def _is_over(self, key: Key) -> bool:
        """Is it over with the transfer, whose part is not there?"""
        try:
            os.stat(key.over, dir_fd=self.directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        self._finish(key, saved=True)
        return True

    def _lost(self, key: Key, text: str) -> Result:
        self._finish(key, saved=False)
        return Result(Fate.LOST, text=text)

    def _finish(self, key: Key, *, saved: bool) -> None:
        self._drop(key)
        self._over[key] = saved
        while len(self._over) > REMEMBERED:
            del self._over[next(iter(self._over))]

    def _drop(self, key: Key) -> None:
        part = self._parts.pop(key, None)
        self._open.pop(key, None)
        self._touched.pop(key, None)
        if part is not None:
            part.close()

    # Errors ---------------------------------------------------------------------------------------------------------------------

    def _sync(self, fd: int, name: str, *, data: bool = False) -> None:
        """:param data: what tells of the file itself, its mode and its times, need not be safe."""
        try:
            (os.fdatasync if data else os.fsync)(fd)
        except OSError as problem:
            failpoints.reach("D2")
            raise DiskFailed(problem.strerror or str(problem), where=self.directory.path_of(name)) from None

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            if problem.errno in _NO_ROOM:
                failpoints.reach("D1")
                raise Full from None
            raise OutputFailed(problem.strerror or str(problem), where=self.directory.path_of(name)) from None


_TAKE: dict[Part, Callable[[Parts, Key, Chunk], Result]] = {
    Part.OFFER: Parts._offer,
    Part.DATA: Parts._data,
    Part.END: Parts._end,
    Part.CANCEL: Parts._cancel,
}
