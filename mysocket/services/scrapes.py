"""The connections of those who read metrics, over HTTP: one request each, and not for long.

It runs in the reactor thread, beside the messages, and may be open to a network. So

1. a connection carries one request, and lives :data:`LIFE` seconds at most, whatever it does meanwhile;
2. so many connections are held at most: the next takes the place of the oldest;
3. the body of a request is thrown away, and nothing that comes here is logged.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any
from typing import Protocol as Interface

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import http

#: Seconds from a connection's first moment to its last: a scrape_timeout of Prometheus is 10 s.
LIFE = 10.0
#: Connections that are held.
CONNECTIONS = 32
#: Bytes of a request's body that are read, only to be thrown away; with more the connection is dropped.
BODY = 64 * 1024


class Teller(Interface):
    """What there is to be read."""

    def metrics(self, accept: str, done: Callable[[bytes, str], None]) -> None:
        """Make the text for who takes ``accept`` (RFC 9110, section 12.5.1); ``done`` gets it and its type, now or soon."""

    def health(self) -> tuple[bool, str]:
        """Is all well, and one line that says why, or why not."""


class Scrape(http.Request):
    """One request."""

    channel: Channel | None  # type: ignore[assignment]
    _body = 0

    def gotLength(self, length: int | None) -> None:
        """Twisted would keep a body in memory, or in a temporary file; here none is kept."""
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Nobody who asks for something needs a body."""
        self._body += len(data)
        if self._body > BODY and self.channel is not None:
            self.channel.drop()

    def process(self) -> None:
        """All of it is here."""
        if self.channel is None or self.channel.gone:
            return
        teller = self.channel.factory.teller
        if self.path not in (b"/metrics", b"/healthz"):
            self._say(404, b"there are /metrics and /healthz\n")
        elif self.method not in (b"GET", b"HEAD"):
            self.setHeader(b"Allow", b"GET, HEAD")
            self._say(405, b"it can be read only: GET or HEAD\n")
        elif self.path == b"/metrics":
            accept = b",".join(self.requestHeaders.getRawHeaders(b"Accept") or ())
            teller.metrics(accept.decode("ascii", "replace"), lambda body, kind: self._say(200, body, kind))
        else:
            well, why = teller.health()
            self._say(200 if well else 503, f"{why}\n".encode())

    def _say(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        if self.channel is None or self.channel.gone:
            return  # it did not wait
        self.setResponseCode(status)
        self.setHeader(b"Content-Type", kind.encode())
        self.setHeader(b"Content-Length", b"%d" % len(body))
        self.setHeader(b"Connection", b"close")
        self.setHeader(b"Cache-Control", b"no-store")
        self.write(body)
        self.finish()


class Channel(http.HTTPChannel):
    """One connection, for one request."""

    factory: Scrapes
    #: Nothing more can be said.
    gone = False
    _end: IDelayedCall | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        self._end = self.factory.reactor.callLater(LIFE, self.drop)
        self.factory.enter(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = True
        if self._end is not None and self._end.active():
            self._end.cancel()
        self.factory.leave(self)
        super().connectionLost(reason)

    def checkPersistence(self, request: http.Request, version: bytes) -> bool:
        """One request is all."""
        return False

    def drop(self) -> None:
        """Close it, and forget what is on the way."""
        self.gone = True
        self.transport.abortConnection()  # type: ignore[union-attr]


class Scrapes(http.HTTPFactory):
    """Makes the connections, and sees to it that they are not too many."""

    protocol = Channel  # type: ignore[assignment]
    noisy = False

    def __init__(self, teller: Teller, clock: IReactorTime) -> None:
        super().__init__(reactor=clock)
        self.timeOut = None  # it would begin anew with every byte
        self.teller = teller
        self._open: dict[Channel, None] = {}  # the oldest first

    def startFactory(self) -> None:
        """There is no access log, and no clock for one."""

    def stopFactory(self) -> None:
        """Likewise."""

    def log(self, request: http.Request) -> None:
        """Likewise."""

    def buildProtocol(self, addr: Any) -> Any:
        channel: Any = super().buildProtocol(addr)
        channel.requestFactory = Scrape
        return channel

    def enter(self, channel: Channel) -> None:
        """One more."""
        self._open[channel] = None
        while len(self._open) > CONNECTIONS:
            oldest = next(iter(self._open))
            self.leave(oldest)
            oldest.drop()

    def leave(self, channel: Channel) -> None:
        """One less."""
        self._open.pop(channel, None)

    def drop_all(self) -> None:
        """None any more."""
        for channel in list(self._open):
            channel.drop()
