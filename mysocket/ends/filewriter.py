"""One thread writes the files that are received (:mod:`mysocket.ends.parts`).

While it writes and syncs one group of chunks, the next gathers: no more than was granted to peers, for a chunk is acknowledged
when it is safe.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple
from typing import Protocol as Interface

from mysocket import failpoints
from mysocket.core.transfer import Chunk, Part
from mysocket.ends.directory import Directory
from mysocket.ends.partfile import Halted, Key
from mysocket.ends.parts import PASSED, Fate, Full, Parts, Result
from mysocket.errors import MySocketError

#: Seconds after which it is looked again whether a full disk has room.
RETRY = 1.0
#: Bytes, and chunks, that are written and synced together.
GROUP = 8 * 1024 * 1024
GROUP_CHUNKS = 4096


class Given(NamedTuple):
    """A chunk for the thread, and what to do then; without a chunk: the last of the transfer is committed, and may come again or
    not."""

    key: Key
    peer: str
    chunk: Chunk | None
    done: Callable[[], None]
    lost: Callable[[MySocketError], None]
    again: bool = False


class Listener(Interface):
    """Hears of it, in the reactor thread."""

    def has_done(self, results: list[tuple[Given, Result]]) -> None:
        """So much is done, and safe."""

    def has_failed(self, error: MySocketError) -> None:
        """Nothing more is written."""

    def found_full(self, where: str) -> None:
        """The disk of ``where`` has no room; nothing: it has again."""


class FileWriter:
    """See the module.

    :param post: calls its argument in the reactor thread, soon. The only thing here that another thread uses.
    :param now: time in seconds.
    :param durable: what is done is synced.
    :param umask: what new files are not allowed.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        listener: Listener,
        post: Callable[[Callable[[], None]], None],
        now: Callable[[], float],
        durable: bool,
        umask: int,
    ) -> None:
        self._directory = directory
        self._listener = listener
        self._post = post
        self._now = now
        self._wake = threading.Condition()
        self._queue: deque[Given] = deque()
        self._closing: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        # The rest belongs to the thread.
        self.parts = Parts(directory, durable=durable, umask=umask, stopped=lambda: self._closing is not None)
        self._cancelled: set[Key] = set()  # transfers whose CANCEL is in the queue, and found no room before it
        self._retry_at: float | None = None
        self._broken = False

    # For the reactor thread -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="mysocket-downloads", daemon=True)
        self._thread.start()

    def give(self, given: Given) -> None:
        """Do it, in the order of the calls."""
        with self._wake:
            self._queue.append(given)
            self._wake.notify()

    def close(self, done: Callable[[], None]) -> None:
        """Write what can be written at once, then call ``done``. Nothing may be given any more."""
        with self._wake:
            self._closing = done
            self._wake.notify()
        if self._thread is None:
            while self.step(wait=False):
                pass

    # For the thread -------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self.parts.clean()
            while self.step():
                pass
        except Exception as problem:
            # A thread that ends without a word would leave everything waiting for ever.
            error = MySocketError(f"files cannot be written any more: {problem!r}")
            self._post(lambda: self._listener.has_failed(error))
            raise

    def step(self, *, wait: bool = True) -> bool:
        """Write one group.

        :param wait: for chunks, if there are none, and for room.
        :return: whether there may be more to do, ever (with ``wait``), or now.
        """
        with self._wake:
            while not self._is_due():
                if self._closing is not None:
                    self.parts.close()
                    self._post(self._closing)
                    return False
                if not wait:
                    return False
                due = self._retry_at if self._queue and not self._broken else None
                self._wake.wait(None if due is None else max(0.001, due - self._now()))
            group = self._group()
        self._write(group)
        return True

    def _is_due(self) -> bool:
        """Is there something that can be written now?"""
        if not self._queue or self._broken:
            return False
        return self._retry_at is None or self._closing is None and self._now() >= self._retry_at

    def _group(self) -> list[Given]:
        group: list[Given] = []
        size = 0
        while self._queue and size < GROUP and len(group) < GROUP_CHUNKS:
            given = self._queue.popleft()
            size += len(given.chunk.data) if given.chunk is not None else 0
            group.append(given)
        return group

    def _write(self, group: list[Given]) -> None:
        results: list[tuple[Given, Result]] = []
        full = halted = False
        try:
            for given in group:
                try:
                    results.append((given, self._do(given)))
                except Full:
                    if not self._is_cancelled(given.key, group[len(results) :]):
                        full = True
                        break
                    self._cancelled.add(given.key)
                    results.append((given, PASSED))
                except Halted:
                    halted = True
                    break
            gone = self.parts.settle()
        except MySocketError as problem:
            # What is not synced is not acknowledged; nobody knows what of it is there.
            error, self._broken = problem, True
            self._post(lambda: self._listener.has_failed(error))
            return
        with self._wake:
            self._queue.extendleft(reversed(group[len(results) :]))
        self._look_at_room(full)
        if halted:
            self._broken = True
        told = [*_gone(results, gone)]
        if told:
            failpoints.reach("R7")
            self._post(lambda: self._listener.has_done(told))

    def _do(self, given: Given) -> Result:
        if given.chunk is None:
            (self.parts.retire if given.again else self.parts.forget)(given.key)
            return PASSED
        if given.key in self._cancelled:
            if given.chunk.part is not Part.CANCEL:
                return PASSED
            self._cancelled.remove(given.key)
        return self.parts.take(given.key, given.chunk)

    def _is_cancelled(self, key: Key, group: list[Given]) -> bool:
        """Does the CANCEL of a transfer wait behind a chunk that finds no room? Nobody needs that, and CANCEL makes room."""
        with self._wake:
            waiting = [*group, *self._queue]
        return any(one.key == key and one.chunk is not None and one.chunk.part is Part.CANCEL for one in waiting)

    def _look_at_room(self, full: bool) -> None:
        if full and self._retry_at is None:
            self._post(lambda: self._listener.found_full(self._directory.path))
        elif not full and self._retry_at is not None:
            self._post(lambda: self._listener.found_full(""))
        self._retry_at = self._now() + RETRY if full else None


def _gone(results: list[tuple[Given, Result]], gone: set[Key]) -> Iterator[tuple[Given, Result]]:
    """What was written to files that somebody has removed meanwhile: the first of each says so."""
    said: set[Key] = set()
    for given, result in results:
        if given.chunk is None:
            continue
        if given.key in gone and result.fate is Fate.WRITTEN:
            first = given.key not in said
            said.add(given.key)
            result = Result(Fate.LOST, text=f"is gone: {result.offset} bytes of it had come") if first else PASSED
        yield given, result
