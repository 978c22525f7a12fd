"""A person: lines typed at a terminal. The kernel edits the line; what arrives is written by a sink with an escaping format."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from mysocket.core.batch import Cutter
from mysocket.ends.descriptors import Private
from mysocket.ends.source import Taker

BANNER = "Enter message to send. All messages received will be shown below. Type EXIT to end the program."
EXIT = b"EXIT"


@implementer(IHalfCloseableProtocol)
class TerminalSource(LineOnlyReceiver):
    """Each line typed is a message; EXIT or Ctrl-D ends the input.

    :param ended: called when the input has ended.
    """

    delimiter = b"\n"
    # A terminal line is at most 4095 bytes; StandardIO on something else must not end the session at 16 KiB.
    MAX_LENGTH = 2**30

    def __init__(self, reactor: object, private: Private, cutter: Cutter, taker: Taker, *, ended: Callable[[], None]) -> None:
        self._reactor = reactor
        self._private = private
        self._cutter = cutter
        self._taker = taker
        self._on_end = ended
        self._over = False
        self._io: StandardIO | None = None
        taker.when_room(self.resume)

    def start(self) -> None:
        """Begin to read."""
        # StandardIO wants an output too; this one is never written to, and /dev/null looks like a lost connection to it.
        make: Any = StandardIO
        self._io = make(self, stdin=self._private.fd, stdout=self._private.fd, reactor=self._reactor)

    def lineReceived(self, line: bytes) -> None:
        if self._over:
            return
        if line.removesuffix(b"\r") == EXIT:
            self._finish()
            return
        self._give(line + self.delimiter)

    def lineLengthExceeded(self, line: bytes) -> None:
        """Cannot come: the limit is larger than any terminal's."""

    def _give(self, data: bytes) -> None:
        pieces = self._cutter.feed(data)
        if pieces:
            self._taker.accept(pieces)
            if self._taker.room <= 0 and self._io is not None:
                self._io.pauseProducing()

    def resume(self) -> None:
        """There is room again."""
        if self._io is not None and not self._over:
            self._io.resumeProducing()

    def readConnectionLost(self) -> None:
        rest, self._buffer = self._buffer, b""
        if rest and not self._over:
            self._give(rest)
        self._finish()

    def writeConnectionLost(self) -> None:
        """Nothing is written this way."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The terminal was hung up."""
        self._finish()

    def _finish(self) -> None:
        if self._over:
            return
        self.stop()
        pieces = self._cutter.finish()
        if pieces:
            self._taker.accept(pieces)
        self._taker.end_input(wanted=False)
        self._on_end()

    def stop(self) -> None:
        """Take no more input."""
        if not self._over:
            self._over = True
            if self._io is not None:
                self._io.pauseProducing()


def own_terminal(fd: int) -> Private:
    """A private description of the terminal at ``fd``, for reading and writing."""
    return Private(fd, os.O_RDWR)
