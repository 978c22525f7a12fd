"""A receiver of files without a thread, a disk that fails where a test says, and the end that `kill -9` makes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from mysocket.core.transfer import Chunk
from mysocket.ends import naming, partfile, parts
from mysocket.ends.directory import open_directory
from mysocket.ends.downloads import Download, Downloads
from mysocket.errors import MySocketError

NODE, OTHER = b"n" * 16, b"o" * 16
#: What changes something on the disk.
CHANGES = ("pwrite", "link", "unlink", "rename", "ftruncate", "fchmod", "fsync", "fdatasync")


class Killed(BaseException):
    """The process is gone."""


class FakeOs:
    """The module `os`, for a process that is killed at its n-th change of the disk, or whose disk refuses something.

    :ivar kill_at: 2n: before the n-th change, 2n + 1: behind it, or in the middle of it if it is a write.
    """

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.changes = 0
        #: How often each was called.
        self.calls: dict[str, int] = {}
        #: What fails, by the name of the function: with which error, and how often (-1: always).
        self.faults: dict[str, tuple[int, int]] = {}
        #: Called before a function of that name.
        self.hooks: dict[str, Callable[[], None]] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in (*CHANGES, "open"):
            return real

        def call(*args: Any, **named: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **named)
            what = "make" if name == "open" else name
            self.calls[what] = self.calls.get(what, 0) + 1
            if (hook := self.hooks.pop(what, None)) is not None:
                hook()
            number, left = self.faults.get(what, (0, 0))
            if left:
                self.faults[what] = (number, left - 1)
                raise OSError(number, os.strerror(number))
            return self._change(what, real, args, named)

        return call

    def _change(self, what: str, real: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        now, self.changes = self.changes, self.changes + 1
        if self.kill_at == 2 * now:
            raise Killed
        if self.kill_at == 2 * now + 1:
            if what == "pwrite":
                fd, data, offset = args
                real(fd, data[: len(data) // 2], offset)
            else:
                real(*args, **named)
            raise Killed
        return real(*args, **named)


class Receiver:
    """Downloads of one process, and what they say."""

    def __init__(self, path: Path, *, durable: bool = False, accept_loss: bool = False, fake: FakeOs | None = None) -> None:
        self.fake = fake if fake is not None else FakeOs()
        self.path = path
        self.time = 0.0
        self.posted: list[Callable[[], None]] = []
        self.said: list[str] = []
        self.failed: list[MySocketError] = []
        self.lost: list[MySocketError] = []
        self.accepted: list[str] = []
        self.full: list[str] = []
        self.changes: list[tuple[str, int]] = []
        self.latest: Download | None = None
        #: The numbers of the chunks that are done, in the order of the calls.
        self.done: list[int] = []
        self.given = 0
        self.downloads = Downloads(
            open_directory(str(path)),
            post=self.posted.append,
            now=lambda: self.time,
            tell=self.said.append,
            failed=self.failed.append,
            durable=durable,
            accept_loss=accept_loss,
        )
        self.downloads.on_change = self._changed
        self.downloads.on_full = self.full.append
        self.downloads.on_loss = self.accepted.append

    def _changed(self, download: Download) -> None:
        self.latest = download
        self.changes.append((download.state, download.offset))

    def take(self, *chunks: Chunk, node: bytes = NODE, peer: str = "hosta") -> None:
        """Give chunks; nothing happens yet."""
        for chunk in chunks:
            number = self.given
            self.given += 1
            self.downloads.take(node, peer, chunk, lambda number=number: self.done.append(number), self.lost.append)  # type: ignore[misc]

    def work(self) -> None:
        """Write all that can be written, and hear of it."""
        with self._disk():
            while self.downloads.writer.step(wait=False):
                pass
        self.hear()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in (naming, partfile, parts):
                stack.enter_context(mock.patch.object(module, "os", self.fake))
            yield

    def hear(self) -> None:
        while self.posted:
            self.posted.pop(0)()

    def receive(self, *chunks: Chunk, node: bytes = NODE, peer: str = "hosta") -> None:
        """Give chunks one by one, each a group of its own."""
        for chunk in chunks:
            self.take(chunk, node=node, peer=peer)
            self.work()

    def close(self) -> bool:
        """End well; whether it did."""
        closed: list[bool] = []
        with self._disk():
            self.downloads.close(lambda: closed.append(True))
        self.hear()
        return closed == [True]

    def kill(self) -> None:
        """End as `kill -9` would: descriptors are closed, and nothing else happens."""
        found = self.downloads.writer.parts
        for part in found._parts.values():
            part.close()
        os.close(found.directory.fd)

    @property
    def files(self) -> dict[str, bytes]:
        """What is in the directory, but for parts."""
        return {name: data for name, data in self._all() if not name.startswith(".mysocket-")}

    @property
    def parts(self) -> dict[str, bytes]:
        """The parts in the directory."""
        return {name: data for name, data in self._all() if name.startswith(".mysocket-")}

    def _all(self) -> Iterator[tuple[str, bytes]]:
        for path in sorted(self.path.iterdir()):
            if path.is_file() and not path.is_symlink():
                yield path.name, path.read_bytes()


@contextmanager
def receiver(path: Path, **named: Any) -> Iterator[Receiver]:
    """One that is killed in the end, if it was not closed."""
    made = Receiver(path, **named)
    try:
        yield made
    finally:
        try:
            made.kill()
        except OSError as problem:
            assert problem.errno == errno.EBADF
