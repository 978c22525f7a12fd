"""How a part becomes the file: a name that no other file has, and nothing is ever replaced."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

from mysocket import failpoints
from mysocket.core.transfer import numbered
from mysocket.ends.partfile import MARK, PARTIAL, Key

#: Names that are known to be taken.
REMEMBERED = 4096

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
_NO_SUCH_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class Names:
    """Gives names in a directory.

    :param fd: the directory.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._numbers: dict[str, int] = {}  # the last one that was taken, by the name

    def give(self, key: Key, name: str) -> str:
        """Give the part of a transfer that name, or the next one that is free; which it is."""
        try:
            return self._link(key, name)
        except OSError as problem:
            if problem.errno not in _NO_SUCH_NAME:
                raise
        # Not every file system takes every name.
        return self._link(key, f"file-{key.id.hex()[:16]}")

    def _link(self, key: Key, name: str) -> str:
        fd = self._fd
        for wanted in self._free_names(name):
            try:
                os.link(key.part, wanted, src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
            except FileExistsError:
                continue
            except OSError as problem:
                if problem.errno not in _NO_LINKS:
                    raise
                return self._move(key, name)
            return wanted
        raise AssertionError("there are more numbers than files")

    def _free_names(self, name: str) -> Iterator[str]:
        """Names that may be free: the own one, and that behind the last number that was taken, for there may be thousands."""
        yield name
        for number in count(self._numbers.get(name, 1)):
            self._numbers[name] = number
            while len(self._numbers) > REMEMBERED:
                del self._numbers[next(iter(self._numbers))]
            yield numbered(name, number)

    def _move(self, key: Key, name: str) -> str:
        """The same without hard links."""
        fd = self._fd
        os.close(os.open(key.over, MARK, PARTIAL, dir_fd=fd))
        for wanted in self._free_names(name):
            with suppress(FileExistsError):
                os.close(os.open(wanted, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=fd))
                failpoints.reach("R6")
                try:
                    os.rename(key.part, wanted, src_dir_fd=fd, dst_dir_fd=fd)
                except OSError:
                    os.unlink(wanted, dir_fd=fd)
                    raise
                return wanted
        raise AssertionError("there are more numbers than files")
