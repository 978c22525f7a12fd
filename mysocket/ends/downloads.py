"""Files that are received: chunks of any number of transfers in, files in a directory out.

This is the reactor thread's side, which knows what people see; one thread writes (:mod:`mysocket.ends.parts`). While it writes
and syncs one group of chunks, the next gathers: no more than was granted to peers, for a chunk is acknowledged when it is safe.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from mysocket import failpoints
from mysocket.core.transfer import Chunk, Part, safe_name
from mysocket.ends.directory import Directory
from mysocket.ends.escape import one_line
from mysocket.ends.partfile import Halted, Key
from mysocket.ends.parts import PASSED, Fate, Full, Parts, Result
from mysocket.ends.progress import size_text
from mysocket.errors import MySocketError, StateLoss

#: Seconds after which it is looked again whether a full disk has room.
RETRY = 1.0
#: Seconds between two words about how far a transfer is.
INTERVAL = 0.1
#: Bytes, and chunks, that are written and synced together.
GROUP = 8 * 1024 * 1024
GROUP_CHUNKS = 4096


@dataclass(eq=False)
class Download:
    """One transfer, for people.

    :ivar peer: who sends it.
    :ivar name: what it will be called, but for a number; empty: not known yet, for it began before this process.
    :ivar size: bytes of the whole file, or None: not known yet.
    :ivar offset: bytes that are there.
    :ivar path: the file, once it is saved.
    """

    id: bytes
    peer: str
    name: str = ""
    size: int | None = None
    offset: int = 0
    path: str | None = None
    state: Literal["receiving", "saved", "cancelled", "lost"] = "receiving"
    told_at: float = field(default=float("-inf"), repr=False)

    @property
    def called(self) -> str:
        """The name, in the middle of a sentence."""
        return one_line(self.name) if self.name else "a file"


class Given(NamedTuple):
    """A chunk for the thread, and what to do then; without a chunk: the last of the transfer is committed, and may come again or
    not."""

    key: Key
    peer: str
    chunk: Chunk | None
    done: Callable[[], None]
    lost: Callable[[MySocketError], None]
    again: bool = False


def _nothing() -> None:
    pass


class Downloads:
    """See the module.

    :param post: calls its argument in the reactor thread, soon. The only thing here that another thread uses.
    :param now: time in seconds.
    :param tell: takes a sentence for the user.
    :param failed: called once, with the error that ends all writing.
    :param durable: what is done is synced.
    :param accept_loss: go on without a file that has lost something here.
    :param umask: what new files are not allowed.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        post: Callable[[Callable[[], None]], None],
        now: Callable[[], float],
        tell: Callable[[str], None] = lambda text: None,
        failed: Callable[[MySocketError], None] = lambda error: None,
        durable: bool = False,
        accept_loss: bool = False,
        umask: int = 0o022,
    ) -> None:
        #: Called with a transfer of which there is news: each change of its state, and how far it is, ten times a second.
        self.on_change: Callable[[Download], None] = lambda download: None
        #: Called behind the ``done`` of a group of chunks.
        self.on_written: Callable[[], None] = _nothing
        #: Hears of a full disk by its directory, and "" when it has room again.
        self.on_full: Callable[[str], None] = lambda where: None
        #: Hears what is missing, where that is accepted.
        self.on_loss: Callable[[str], None] = tell
        self.tell = tell
        self.directory = directory
        self._post = post
        self._now = now
        self._failed = failed
        self._accept_loss = accept_loss
        self._under_way: dict[Key, Download] = {}
        self._over = False
        self._wake = threading.Condition()
        self._queue: deque[Given] = deque()
        self._closing: Callable[[], None] | None = None
        self._thread: threading.Thread | None = None
        # The rest belongs to the thread.
        self._parts = Parts(directory, durable=durable, umask=umask, stopped=lambda: self._closing is not None)
        self._retry_at: float | None = None
        self._broken = False

    # For the reactor thread -----------------------------------------------------------------------------------------------------

    @property
    def under_way(self) -> list[Download]:
        """What is being received."""
        return list(self._under_way.values())

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="mysocket-downloads", daemon=True)
        self._thread.start()

    def take(
        self,
        node: bytes,
        peer: str,
        chunk: Chunk,
        done: Callable[[], None],
        lost: Callable[[MySocketError], None] = lambda _: None,
    ) -> None:
        """Write a chunk that came from ``node``, then call ``done``; in the order of the calls.

        :param peer: names the node for people.
        :param lost: called instead, with :class:`StateLoss`, if what came before it is not there any more. What comes from the
            same node behind it is not to be acknowledged either.
        """
        self._give(Given(Key(node, chunk.id), peer, chunk, done, lost))

    def forget(self, node: bytes, id: bytes) -> None:
        """The END, or the CANCEL, of a transfer is committed, and will not come again."""
        self._give(Given(Key(node, id), "", None, _nothing, lambda _: None))

    def retire(self, node: bytes, id: bytes) -> None:
        """It is acknowledged, and may come again to another process; :meth:`forget` will be called, if ever."""
        self._give(Given(Key(node, id), "", None, _nothing, lambda _: None, again=True))

    def _give(self, given: Given) -> None:
        with self._wake:
            self._queue.append(given)
            self._wake.notify()

    def broken_off(self, *, besides: bytes) -> None:
        """Nothing more will come from any node but that one: parts stay, and the user is told where."""
        for key in [key for key in self._under_way if key.node != besides]:
            text, download = self._where(key), self._under_way.pop(key)
            self.tell(f"broken off: {text}, which nobody will go on with: remove it if it is of no use")
            self._change(download, "lost")

    def left(self) -> list[str]:
        """What is not whole, for people."""
        return [self._where(key) for key in self._under_way]

    def _where(self, key: Key) -> str:
        download = self._under_way[key]
        size = f" of {size_text(download.size)}" if download.size is not None else ""
        return f"{download.called} from {download.peer}, {size_text(download.offset)}{size} in {self._part(key)}"

    def _part(self, key: Key) -> str:
        return one_line(os.path.join(self.directory.path, key.part), 1024)

    def close(self, done: Callable[[], None]) -> None:
        """Write what can be written at once, then call ``done``. Nothing may be given any more."""
        with self._wake:
            self._closing = done
            self._wake.notify()
        if self._thread is None:
            while self.step(wait=False):
                pass

    def abandon(self) -> None:
        """Whatever is written from now on, nobody is told."""
        self._over = True

    def _has_done(self, results: list[tuple[Given, Result]]) -> None:
        if self._over:
            return
        for given, result in results:
            self._apply(given, result)
        self.on_written()

    def _apply(self, given: Given, result: Result) -> None:
        chunk = given.chunk
        assert chunk is not None
        match result.fate:
            case Fate.WRITTEN:
                self._progress(given, chunk, result.offset)
            case Fate.SAVED:
                download = self._known(given, chunk)
                download.offset, download.path = result.offset, result.path
                self.tell(
                    f"received {download.called} ({size_text(result.offset)}, sha256 {chunk.digest.hex()[:16]}) from "
                    f"{download.peer}: saved as {one_line(result.path, 1024)}"
                )
                self._end(given.key, download, "saved")
            case Fate.CANCELLED:
                download = self._known(given, chunk)
                why = one_line(chunk.text) or "no reason given"
                self.tell(f"{download.peer} has cancelled {download.called} after {size_text(result.offset)}: {why}")
                self._end(given.key, download, "cancelled")
            case Fate.LOST:
                self._lost(given, chunk, result.text)
                return
        given.done()

    def _known(self, given: Given, chunk: Chunk) -> Download:
        download = self._under_way.get(given.key)
        if download is None:
            download = self._under_way[given.key] = Download(given.key.id, given.peer)
        download.peer = given.peer
        if chunk.part in (Part.OFFER, Part.END):
            download.name, download.size = safe_name(chunk.text), chunk.offset
        return download

    def _progress(self, given: Given, chunk: Chunk, offset: int) -> None:
        first = given.key not in self._under_way
        download = self._known(given, chunk)
        download.offset = offset
        if chunk.part is Part.OFFER:
            self.tell(f"receiving {download.called} ({size_text(chunk.offset)}) from {download.peer}")
        elif first:
            self.tell(f"receiving {download.called} from {download.peer}: it goes on at {size_text(chunk.offset)}")
        now = self._now()
        if first or chunk.part is Part.OFFER or now - download.told_at >= INTERVAL:
            download.told_at = now
            self.on_change(download)

    def _end(self, key: Key, download: Download, state: Literal["saved", "cancelled", "lost"]) -> None:
        self._under_way.pop(key, None)
        self._change(download, state)

    def _change(self, download: Download, state: Literal["saved", "cancelled", "lost"]) -> None:
        download.state = state
        self.on_change(download)

    def _lost(self, given: Given, chunk: Chunk, text: str) -> None:
        download = self._known(given, chunk)
        what = f"The file {one_line(download.name)}" if download.name else "A file"
        text = f"{what} from {download.peer} {text} (in {self._part(given.key)})"
        self._end(given.key, download, "lost")
        if not self._accept_loss:
            given.lost(StateLoss(text))
            return
        self.on_loss(f"accepted: {text}. The rest of it is passed over")
        given.done()

    def _has_failed(self, error: MySocketError) -> None:
        if not self._over:
            self._over = True
            self._failed(error)

    def _tell_full(self, where: str) -> None:
        if not self._over:
            self.on_full(where)

    # For the thread -------------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._parts.clean()
            while self.step():
                pass
        except Exception as problem:
            # A thread that ends without a word would leave everything waiting for ever.
            error = MySocketError(f"files cannot be written any more: {problem!r}")
            self._post(lambda: self._has_failed(error))
            raise

    def step(self, *, wait: bool = True) -> bool:
        """Write one group.

        :param wait: for chunks, if there are none, and for room.
        :return: whether there may be more to do, ever (with ``wait``), or now.
        """
        with self._wake:
            while not self._is_due():
                if self._closing is not None:
                    self._parts.close()
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
                    if given.chunk is None:
                        (self._parts.retire if given.again else self._parts.forget)(given.key)
                        results.append((given, PASSED))
                    else:
                        results.append((given, self._parts.take(given.key, given.chunk)))
                except (Full, Halted) as reason:
                    full, halted = isinstance(reason, Full), isinstance(reason, Halted)
                    break
            gone = self._parts.settle()
        except MySocketError as problem:
            # What is not synced is not acknowledged; nobody knows what of it is there.
            error, self._broken = problem, True
            self._post(lambda: self._has_failed(error))
            return
        with self._wake:
            self._queue.extendleft(reversed(group[len(results) :]))
        self._look_at_room(full)
        if halted:
            self._broken = True
        told = [_gone(one, gone) for one in results if one[0].chunk is not None]
        if told:
            failpoints.reach("R7")
            self._post(lambda: self._has_done(told))

    def _look_at_room(self, full: bool) -> None:
        if full and self._retry_at is None:
            self._post(lambda: self._tell_full(self.directory.path))
        elif not full and self._retry_at is not None:
            self._post(lambda: self._tell_full(""))
        self._retry_at = self._now() + RETRY if full else None


def _gone(one: tuple[Given, Result], gone: set[Key]) -> tuple[Given, Result]:
    """What was written to a file that somebody has removed meanwhile: the first of it says so."""
    given, result = one
    if given.key not in gone or result.fate is not Fate.WRITTEN:
        return one
    gone.remove(given.key)
    return given, Result(Fate.LOST, text=f"is gone: {result.offset} bytes of it had come")
