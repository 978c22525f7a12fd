"""Files that are received: chunks of any number of transfers in, files in a directory out.

This is the reactor thread's side, which knows what people see; one thread writes (:mod:`mysocket.ends.filewriter`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from mysocket.core.transfer import Chunk, Part, safe_name
from mysocket.ends.directory import Directory
from mysocket.ends.escape import one_line
from mysocket.ends.filewriter import FileWriter, Given
from mysocket.ends.partfile import Key
from mysocket.ends.parts import Fate, Result
from mysocket.ends.progress import size_text
from mysocket.ends.words import Words
from mysocket.errors import MySocketError, StateLoss

#: Seconds between two words about how far a transfer is.
INTERVAL = 0.1
#: Files of one node that are under way at a time, at most: more than a service has clients, so of a peer that means well it can
#: only be those that nobody goes on with.
OPEN = 512


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
        self.tell = Words(tell, now).say
        self.directory = directory
        self._now = now
        self._failed = failed
        self._accept_loss = accept_loss
        self._under_way: dict[Key, Download] = {}
        self._over = False
        #: The thread, and what it is given.
        self.writer = FileWriter(directory, listener=self, post=post, now=now, durable=durable, umask=umask)

    @property
    def under_way(self) -> list[Download]:
        """What is being received."""
        return list(self._under_way.values())

    def start(self) -> None:
        """Start the thread."""
        self.writer.start()

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
        self.writer.give(Given(Key(node, chunk.id), peer, chunk, done, lost))

    def forget(self, node: bytes, id: bytes) -> None:
        """The END, or the CANCEL, of a transfer is committed, and will not come again."""
        self.writer.give(Given(Key(node, id), "", None, _nothing, lambda _: None))

    def retire(self, node: bytes, id: bytes) -> None:
        """It is acknowledged, and may come again to another process; :meth:`forget` will be called, if ever."""
        self.writer.give(Given(Key(node, id), "", None, _nothing, lambda _: None, again=True))

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
        return f"{self._what(key)} in {self._part(key)}"

    def _part(self, key: Key) -> str:
        return one_line(os.path.join(self.directory.path, key.part), 1024)

    def _what(self, key: Key) -> str:
        download = self._under_way[key]
        size = f" of {size_text(download.size)}" if download.size is not None else ""
        return f"{download.called} from {download.peer}, {size_text(download.offset)}{size}"

    def close(self, done: Callable[[], None]) -> None:
        """Write what can be written at once, then call ``done``. Nothing may be given any more."""
        self.writer.close(done)

    def abandon(self) -> None:
        """Whatever is written from now on, nobody is told."""
        self._over = True

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
        if first:
            self._bound(given.key.node)

    def _bound(self, node: bytes) -> None:
        """Give up the file of a node that was heard of longest ago, if it has too many. Should more of it come all the same, its
        part is gone, and that is not silent."""
        keys = [key for key in self._under_way if key.node == node]
        if len(keys) > OPEN:
            key = min(keys, key=lambda key: self._under_way[key].told_at)
            text, download = self._what(key), self._under_way[key]
            self.tell(f"given up: {text}: it has begun {OPEN} others, and nothing more of this one has come")
            self.forget(key.node, key.id)
            self._end(key, download, "lost")

    def _end(self, key: Key, download: Download, state: Literal["saved", "cancelled", "lost"]) -> None:
        self._under_way.pop(key, None)
        self._change(download, state)

    def _change(self, download: Download, state: Literal["saved", "cancelled", "lost"]) -> None:
        download.state = state
        self.on_change(download)

    def _lost(self, given: Given, chunk: Chunk, text: str) -> None:
        download = self._known(given, chunk)
        what = f"The file {one_line(download.name)}" if download.name else "A file"
        text = f"{what} from {download.peer} {text}"
        self._end(given.key, download, "lost")
        if not self._accept_loss:
            # The peer hears it, too: not where the directory is.
            given.lost(StateLoss(f"{text} (in {given.key.part}); --accept-loss here goes on without it"))
            return
        self.on_loss(f"accepted: {text} (in {self._part(given.key)}). The rest of it is passed over")
        given.done()

    # What the thread says -------------------------------------------------------------------------------------------------------

    def has_done(self, results: list[tuple[Given, Result]]) -> None:
        """The thread has done so much."""
        if self._over:
            return
        for given, result in results:
            self._apply(given, result)
        self.on_written()

    def has_failed(self, error: MySocketError) -> None:
        """The thread cannot go on."""
        if not self._over:
            self._over = True
            self._failed(error)

    def found_full(self, where: str) -> None:
        """The disk of ``where`` has no room; nothing: it has again."""
        if not self._over:
            self.on_full(where)
