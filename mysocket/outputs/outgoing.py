"""An output that is a receiver on the network: a plain connection to it, made again for ever.

Rules

1. A block is done when the receiver's system has it (carriers/counted.py). Nothing more can be known of somebody who speaks no
   protocol of ours: if its process dies before it has read that, it is lost there.
2. When a connection is lost, the next one begins with the first block that is not done. So what is given in one call should be
   whole messages: a connection then never begins in the middle of one. It may come twice, but only there.
3. Who takes connections with nobody behind (a proxy, a tunnel, a service that is starting) closes them at once. So nothing is
   done before a connection has stood for a moment.
4. A receiver that closes its half at the very beginning may go on reading (``ncat`` without input). Later it has gone; and if it
   had gone at the beginning, it resets the connection when something is written.
5. The waits between attempts grow until something is done, or a connection has stood for as long as the longest.
"""

from __future__ import annotations

import random as chance
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from mysocket.carriers.build import LAST_RETRY, connect_error, retry_policy
from mysocket.carriers.counted import Counted
from mysocket.core.batch import MAX_PAYLOAD, Bytes
from mysocket.ends.intake import OutputFacts
from mysocket.ends.seldom import Seldom
from mysocket.errors import CannotConnect, UnknownHost, Unreachable
from mysocket.notices import notice

#: Seconds that a connection must stand before anything counts as done.
SETTLE = 0.5
#: Seconds between two looks at what the receiver has, as long as something is on the way: the first, and the most.
FIRST_LOOK = 0.001
LAST_LOOK = 0.05
#: Buffers that are written at once.
BUFFERS = 64


class Block(NamedTuple):
    """What was given in one call."""

    data: Bytes
    done: Callable[[], None]


class Sent(NamedTuple):
    """A block that is on the way, and where the connection stands behind it."""

    block: Block
    end: int


class SocketOutput:
    """See the module. It is an :class:`~mysocket.ends.sink.Output`, and dials from :meth:`start` to :meth:`close`.

    :param name: the output, for people.
    :param clock: the reactor, for the time.
    :param tell: says what the user may want to know.
    :param complain: says what the user must know.
    :param random: gives numbers in [0, 1).
    :param settle: see rule 3.
    """

    repeats = True

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        name: str,
        *,
        clock: IReactorTime,
        tell: Callable[[str], None],
        complain: Callable[[str], None],
        random: Callable[[], float] = chance.random,
        settle: float = SETTLE,
    ) -> None:
        self._endpoint = endpoint
        self._name = name
        self._clock = clock
        self._tell = tell
        self._complain = complain
        self._settle = settle
        self._backoff = retry_policy(random)
        self._seldom = Seldom(clock)
        self._factory = _Connections(self._make)
        self._made: Counted | None = None  # the last one; it may not be up yet
        self._waiting: deque[Block] = deque()
        self._sent: deque[Sent] = deque()  # on this connection
        self._size = 0  # of both
        self._done_size = 0
        self._attempt: Deferred[Any] | None = None
        self._connection: Counted | None = None
        self._up_at = 0.0
        self._settled = self._said_up = False
        self._failed = 0  # attempts, since something was done
        self._lost = 0
        self._error: str | None = None
        self._telling = False  # ``done`` of blocks is being called
        self._look_delay = FIRST_LOOK
        self._retry: IDelayedCall | None = None
        self._look: IDelayedCall | None = None
        self._stand: IDelayedCall | None = None
        self._closed = False
        self._closing: Deferred[None] = Deferred()

    # What is asked of an output -------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing waits, and nothing is on the way."""
        return not self._waiting and not self._sent

    @property
    def facts(self) -> OutputFacts:
        """How it is."""
        up = self._connection is not None
        return OutputFacts(self._name, up, self._done_size, self._size, self._lost, None if up else self._error)

    def agreed(self, *, cut: bool) -> None:
        """What is written cannot be taken back."""

    def write(self, data: Bytes, done: Callable[[], None]) -> None:
        """Write, then call ``done``; in the order of the calls. Nothing is called after :meth:`close`."""
        if self._closed:
            return
        if not data and self.idle and not self._telling:
            done()
            return
        self._size += len(data)
        self._waiting.append(Block(data, done))
        if not self._telling:
            self._fill()

    def start(self) -> None:
        """Begin to dial."""
        if self._attempt is None and self._retry is None and self._connection is None and not self._closed:
            self._dial()

    def close(self) -> Deferred[None]:
        """Dial no more, and close the connection in order; fires when it is gone. What is not done by now stays so."""
        if not self._closed:
            self._closed = True
            self._stop(self._retry, self._look, self._stand)
            attempt, connection = self._attempt, self._connection
            if attempt is not None:
                attempt.cancel()
            if connection is not None:
                connection.finish()
                return self._closing
            if self._made is not None:
                self._made.abort()
            self._gone()
        return self._closing

    def _gone(self) -> None:
        self._connection = None
        if not self._closing.called:
            self._closing.callback(None)

    # Dialling -------------------------------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        self._retry = None
        self._attempt = attempt = self._endpoint.connect(self._factory)

        def ended(result: object) -> object:
            self._attempt = None
            return result

        attempt.addBoth(ended)
        attempt.addErrback(self._no_connection)

    def _make(self) -> Counted:
        self._made = Counted(self, self._clock)
        return self._made

    def _no_connection(self, failure: Failure) -> None:
        if not self._closed:
            self._fail(_reason(failure.value, self._name))
            self._dial_later()

    def _fail(self, text: str) -> None:
        problem = CannotConnect(text, where=self._name)
        self._error = str(problem)
        if self._seldom.due(text):
            self._complain(notice("unreachable", f"{self._error} Trying again.", error=type(problem).__name__))

    def _dial_later(self) -> None:
        delay = self._backoff(self._failed)
        self._failed += 1
        self._retry = self._clock.callLater(delay, self._dial)

    # The connection calls these -------------------------------------------------------------------------------------------------

    def came_up(self, connection: Counted) -> None:
        if self._closed or self._connection is not None:
            connection.owner = None
            connection.abort()
            return
        self._connection, self._up_at, self._settled = connection, self._clock.seconds(), False
        self._stand = self._clock.callLater(self._settle, self._has_stood, connection)
        self._fill()

    def _has_stood(self, connection: Counted) -> None:
        connection.look()
        if connection.broken:
            connection.abort()
            return
        self._settled, self._error = True, None
        if not self._said_up:
            self._said_up = True
            self._tell(notice("output_connected", f"output {self._name}: connected", output=self._name))
        self._confirm()

    def has_room(self, connection: Counted) -> None:
        if connection is self._connection and not self._telling:
            self._fill()

    def half_closed(self, connection: Counted) -> None:
        if connection is not self._connection or not self._settled:
            return
        connection.look()
        self._confirm()
        if connection is self._connection and not self._closed:
            connection.owner = None
            connection.finish()
            self.lost(connection, "it was closed")

    def lost(self, connection: Counted, why: str) -> None:
        if self._closed:
            self._gone()
            return
        if connection is not self._connection:
            # It never came up: a handshake above it has failed.
            self._fail(why)
            self._dial_later()
            return
        self._connection = None
        self._stop(self._look, self._stand)
        self._look = self._stand = None
        self._lost += 1
        self._waiting.extendleft(sent.block for sent in reversed(self._sent))
        self._sent.clear()
        if self._settled:
            self._error = why
            self._say_lost(why)
        else:
            self._fail(f"it takes a connection and closes it at once ({why})")
        if self._clock.seconds() - self._up_at > LAST_RETRY:
            self._failed = 0
        self._dial_later()

    def _say_lost(self, why: str) -> None:
        # If it is not said that this one was lost, it is not said that the next one stands.
        if self._said_up and self._seldom.due(f"lost: {why}"):
            self._said_up = False
            waiting = f"; {self._size} bytes wait" if self._size else ""
            text = f"output {self._name}: lost the connection ({why}){waiting}"
            self._tell(notice("output_lost", text, output=self._name, reason=why))

    # Blocks ---------------------------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Write what waits, as long as it goes out."""
        connection = self._connection
        if connection is None or self._closed:
            return
        while self._waiting and connection.writable and connection.total - connection.acknowledged < connection.most:
            parts: list[Bytes] = []
            end = connection.total
            while self._waiting and len(parts) < BUFFERS and end - connection.total < MAX_PAYLOAD:
                block = self._waiting.popleft()
                end += len(block.data)
                self._sent.append(Sent(block, end))
                if block.data:
                    parts.append(block.data)
            connection.write(parts)
        if connection.broken:
            connection.abort()
        elif self._sent and self._look is None:
            self._look_delay = FIRST_LOOK
            self._look = self._clock.callLater(self._look_delay, self._look_now)

    def _look_now(self) -> None:
        connection = self._connection
        self._look = None
        if connection is None:
            return
        before = connection.acknowledged
        connection.look()
        if connection.broken:
            connection.abort()
            return
        self._look_delay = FIRST_LOOK if connection.acknowledged > before else min(LAST_LOOK, self._look_delay * 2)
        if self._sent:
            # Before anything is called that might close all this.
            self._look = self._clock.callLater(self._look_delay, self._look_now)
        self._confirm()

    def _confirm(self) -> None:
        """Say what is done, and go on."""
        connection = self._connection
        if connection is None or not self._settled or self._telling:
            return
        self._telling = True
        try:
            while self._sent and self._sent[0].end <= connection.acknowledged and not self._closed:
                block, _ = self._sent.popleft()
                self._failed = 0
                self._size -= len(block.data)
                self._done_size += len(block.data)
                block.done()
        finally:
            self._telling = False
        if not self._sent:
            self._stop(self._look)
            self._look = None
        self._fill()

    @staticmethod
    def _stop(*calls: IDelayedCall | None) -> None:
        for call in calls:
            if call is not None and call.active():
                call.cancel()


class _Connections(Factory[Counted]):
    noisy = False

    def __init__(self, make: Callable[[], Counted]) -> None:
        self._make = make

    def buildProtocol(self, addr: object) -> Counted:
        protocol = self._make()
        protocol.factory = self
        return protocol


def _reason(problem: BaseException | None, name: str) -> str:
    """Why a connection could not be made, for people."""
    if isinstance(problem, error.ConnectionRefusedError):
        return "connection refused; nothing listens there"
    known = connect_error(problem, name)
    if isinstance(known, UnknownHost):
        return "its name is unknown"
    return known.text if isinstance(known, Unreachable) else str(known)
