"""Takes connections on a socket that listens already.

Twisted's own Unix port makes the socket itself, or for one it is given changes the mode of the path at which that was bound: ours
was renamed since, and its mode is right.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

#: Connections that are taken in one turn of the reactor.
AT_ONCE = 16
#: Seconds until it is tried again, when no descriptor is left for one more.
PAUSE = 1.0


@implementer(IReadDescriptor)
class Acceptor:
    """A listening Unix socket, non-blocking, with a factory behind it.

    :param reactor: an ``IReactorFDSet`` and ``IReactorSocket`` with time.
    """

    def __init__(self, reactor: Any, listening: socket.socket, factory: Factory) -> None:
        self._reactor = reactor
        self._socket = listening
        self._factory = factory
        self._later: IDelayedCall | None = None

    def start(self) -> None:
        """Take connections from now on."""
        self._later = None
        self._reactor.addReader(self)

    def stop(self) -> None:
        """Take no more; the socket is closed."""
        if self._later is not None:
            self._later.cancel()
        self._reactor.removeReader(self)
        self._socket.close()

    def doRead(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._socket.accept()
                with connection:
                    connection.setblocking(False)
                    # It takes a descriptor of its own.
                    self._reactor.adoptStreamConnection(connection.fileno(), socket.AF_UNIX, self._factory)
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # No descriptor is left, or no memory. Who waits stays in the queue.
                self._reactor.removeReader(self)
                self._later = self._reactor.callLater(PAUSE, self.start)
                return

    def fileno(self) -> int:
        return self._socket.fileno()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The reactor has found the socket broken, or ends."""

    def logPrefix(self) -> str:
        return "control"
