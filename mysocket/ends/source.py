"""Where messages come from: bytes of a descriptor -> pieces, and no more of them than there is room for."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.internet.main import CONNECTION_DONE
from twisted.python.failure import Failure
from zope.interface import implementer

from mysocket.core.batch import MAX_PAYLOAD, Cutter, Piece
from mysocket.ends.descriptors import Private, What
from mysocket.errors import MySocketError

#: The least that is read at once, in bytes, however much of a message is held back.
LEAST_READ = 4096


class Taker(Interface):
    """What takes the pieces of an input: a link, or a raw connection."""

    @property
    def room(self) -> int:
        """Bytes that may be given now."""

    def when_room(self, call: Callable[[], None]) -> None:
        """Call ``call`` whenever there is room again."""

    def accept(self, pieces: list[Piece]) -> int:
        """Take them."""

    def end_input(self, *, wanted: bool = True) -> None:
        """There will be no more."""


@implementer(IReadDescriptor)
class DescriptorSource:
    """Reads a pipe, a file or anything else that is not a terminal.

    :param failed: called if reading fails.
    :param ended: called when the input has ended and its end mark is given.
    """

    def __init__(
        self,
        reactor: Any,
        private: Private,
        cutter: Cutter,
        taker: Taker,
        *,
        failed: Callable[[MySocketError], None],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        self._reactor = reactor
        self._private = private
        self._cutter = cutter
        self._taker = taker
        self._failed = failed
        self._on_end = ended
        self._polled = private.what is What.FILE  # the kernel cannot wait for a file: it is always ready
        self._call: IDelayedCall | None = None
        self._reading = False
        self._over = False
        #: Bytes that were read so far.
        self.total = 0
        taker.when_room(self.resume)

    def start(self) -> None:
        """Begin to read."""
        self.resume()

    def resume(self) -> None:
        """There is room again."""
        if self._reading or self._over or self._taker.room <= 0:
            return
        self._reading = True
        if self._polled:
            self._call = self._reactor.callLater(0, self._poll)
        else:
            self._reactor.addReader(self)

    def pause(self) -> None:
        """Read nothing until :meth:`resume`."""
        if not self._reading:
            return
        self._reading = False
        if self._call is not None:
            if self._call.active():
                self._call.cancel()
            self._call = None
        elif not self._polled:
            self._reactor.removeReader(self)

    def stop(self) -> None:
        """Take no more input, for good."""
        if not self._over:
            self.pause()
            self._over = True
            self._private.close()

    def _poll(self) -> None:
        self._call = None
        self._reading = False
        self.doRead()
        self.resume()

    def doRead(self) -> None:
        if self._over:
            return
        try:
            data = os.read(self._private.fd, max(LEAST_READ, MAX_PAYLOAD - self._cutter.held))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as problem:
            self.stop()
            self._failed(MySocketError(f"Reading the input failed: {problem.strerror}."))
            return
        if not data:
            self._end()
            return
        self.total += len(data)
        pieces = self._cutter.feed(data)
        if pieces:
            self._taker.accept(pieces)
            if self._taker.room <= 0:
                self.pause()

    def _end(self) -> None:
        self.stop()
        pieces = self._cutter.finish()
        if pieces:
            self._taker.accept(pieces)
        self._taker.end_input()
        self._on_end()

    def connectionLost(self, reason: Failure = Failure(CONNECTION_DONE)) -> None:
        """The writer of the pipe is gone; what it left behind was read before."""
        if not self._over:
            self._end()

    readConnectionLost = connectionLost

    def fileno(self) -> int:
        return self._private.fd

    def logPrefix(self) -> str:
        return "input"
