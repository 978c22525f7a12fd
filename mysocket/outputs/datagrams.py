"""An output of datagrams: each message is one, as it came.

Rules

1. As with ``--raw --udp``: a datagram carries the line with its delimiter; the last line of an input may have none. What
   ``--stream`` cut anywhere is cut again where it is too long.
2. What the own system has taken is written: nobody acknowledges a datagram. So nothing here holds up the other outputs for long,
   but that the name is unknown, or that the own machine cannot send.
3. A message that is too long for a datagram can never be sent. It is told, and counts as written.
4. The receiver's system may say that nobody listens there. What was lost by then is lost; the name is looked up again, for it may
   be elsewhere now, and its next address is tried.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mysocket.carriers.admission import RateLimitedLog
from mysocket.carriers.datagram import MAX_DATAGRAM
from mysocket.carriers.resolve import DaemonResolver, Found
from mysocket.core.batch import Batch, Flag, Kind
from mysocket.ends.intake import OutputFacts
from mysocket.ends.seldom import Seldom
from mysocket.ends.sink import Format, Origin
from mysocket.errors import CannotSend, DatagramTooLong, MySocketError
from mysocket.notices import notice

#: Datagrams that are sent before the reactor, and the receiver, can breathe.
AT_ONCE = 64
#: Times that one is tried while the system reports what became of those before it.
TRIES = 8
#: Seconds until what is full is tried again: the first time, and the most.
SOON, LATER = 0.001, 0.05
#: Seconds until the name is looked up again, and until what failed is tried again.
AGAIN = 5.0


class Datagram(NamedTuple):
    """One, or the end of a block.

    :param ends: the position of the block that ends behind it, and whose that is.
    """

    data: bytes | None
    ends: tuple[Origin, int] | None


class DatagramSink:
    """See the module. It sends from :meth:`start` to :meth:`close`.

    :param host: a name, or an address.
    :param name: the output, for people.
    :param clock: the reactor, for the time.
    :param format: how a message is written; None: as it came.
    :param tell: says what the user may want to know.
    :param complain: says what the user must know.
    :param make_socket: makes a socket; another one in tests.
    """

    whole = True
    repeats = True
    #: What waits is granted to nobody anew.
    room = sys.maxsize

    def __init__(
        self,
        host: str,
        port: int,
        name: str,
        *,
        clock: IReactorTime,
        resolver: DaemonResolver,
        format: Format | None = None,
        tell: Callable[[str], None],
        complain: Callable[[str], None],
        make_socket: Callable[[int, int], Any] = socket.socket,
    ) -> None:
        self._host = host
        self._port = port
        self._name = name
        self._clock = clock
        self._resolver = resolver
        self._format = format
        self._tell = tell
        self._complain = complain
        self._make_socket = make_socket
        self._seldom = Seldom(clock)
        self._log = RateLimitedLog(complain, clock)
        self._queue: deque[Datagram] = deque()
        self._size = 0
        self._sent_size = 0
        self._error: str | None = None
        self._said = False  # that there is one
        self._clean = 0  # sent by this socket since it had an error, without one
        self._socket: Any = None
        self._turn = 0  # of the addresses that the name has
        self._looking = False
        self._looked_at = float("-inf")
        self._delay = SOON
        self._sending = False
        self._call: IDelayedCall | None = None  # the next datagrams
        self._retry: IDelayedCall | None = None  # the next look-up
        self._started = self._closed = False

    # What is asked of a sink ----------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing waits."""
        return not self._queue

    @property
    def facts(self) -> OutputFacts:
        """How it is."""
        return OutputFacts(self._name, None, self._sent_size, self._size, 0, self._error)

    def agreed(self, *, cut: bool) -> None:
        """What is sent cannot be taken back."""

    def write(self, block: Batch, origin: Origin) -> None:
        """Send the messages of a block of whole ones, then say so.

        :raises MessageTooLong: the format puts no such message together; nothing of the block is sent.
        """
        if self._closed:
            return
        found = [self._checked(data) for data in self._datagrams(block, origin)]
        for data in found:
            if data is not None:
                self._queue.append(Datagram(data, None))
                self._size += len(data)
        self._queue.append(Datagram(None, (origin, block.end)))
        if self._call is None:
            self._send()

    def _datagrams(self, block: Batch, origin: Origin) -> Iterator[bytes]:
        if block.kind not in (Kind.LINES, Kind.BLOB):
            return
        if block.kind == Kind.BLOB and block.flags & Flag.CHUNK and self._format is None:
            data = bytes(block.payload)
            yield from (data[at : at + MAX_DATAGRAM] for at in range(0, len(data), MAX_DATAGRAM))
            return
        for message in _messages(block):
            yield bytes(message.payload) if self._format is None else bytes(self._format.render(message, origin))

    def _checked(self, data: bytes) -> bytes | None:
        if len(data) <= MAX_DATAGRAM:
            return data
        self._too_long(len(data))
        return None

    def _too_long(self, size: int) -> None:
        self._log.say("too long", str(DatagramTooLong(size=size, limit=MAX_DATAGRAM, where=self._name)))

    # Where to -------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Find out where to send."""
        if not self._started and not self._closed:
            self._started = True
            self._look_up()

    def _look_up(self) -> None:
        self._retry = None
        self._looked_at = self._clock.seconds()
        try:
            version = ip_address(self._host).version
        except ValueError:
            self._looking = True
            self._resolver.look_up(self._host).addCallback(self._found)
            return
        self._found([(socket.AF_INET6 if version == 6 else socket.AF_INET, self._host)])

    def _found(self, addresses: Found) -> None:
        self._looking = False
        if self._closed:
            return
        # IPv4 first: what listens without a word about the family, as nc and socat do, listens there.
        addresses = sorted(addresses, key=lambda found: found[0] == socket.AF_INET6)
        problem = "its name is unknown"
        for index in range(len(addresses)):
            turn = (self._turn + index) % len(addresses)
            try:
                self._aim(*addresses[turn])
            except OSError as failed:
                problem = failed.strerror or str(failed)
                continue
            self._turn = turn
            self._send()
            return
        # A name that is lost for a while leads where it led before.
        if self._socket is None:
            self._fail(problem)
            self._retry = self._clock.callLater(AGAIN, self._look_up)

    def _aim(self, family: int, address: str) -> None:
        made = self._make_socket(family, socket.SOCK_DGRAM)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            # Only a socket that is connected hears that nobody listens.
            made.connect((address, self._port))
        except OSError:
            made.close()
            raise
        if self._socket is not None:
            self._socket.close()
        self._socket, self._clean = made, 0

    def _look_again(self, *, next_address: bool) -> None:
        """Not more often than every few seconds, and beside what is sent meanwhile."""
        if self._looking or self._retry is not None:
            return
        self._turn += next_address
        self._retry = self._clock.callLater(max(0.0, self._looked_at + AGAIN - self._clock.seconds()), self._look_up)

    # Sending --------------------------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Send what waits; a few at a time."""
        if self._sending:
            return
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None
        self._sending = True
        try:
            delay = self._send_some()
        finally:
            self._sending = False
        if self._queue and delay is not None and not self._closed:
            self._call = self._clock.callLater(delay, self._send)

    def _send_some(self) -> float | None:
        """:return: seconds until it goes on; None: when something else has happened."""
        for _ in range(AT_ONCE):
            if not self._queue or self._closed:
                return None
            data, ends = self._queue[0]
            if data is not None:
                if self._socket is None:
                    return None
                delay = self._try(data)
                if delay is not None:
                    return delay
                self._size -= len(data)
            self._queue.popleft()
            if ends is not None:
                origin, position = ends
                origin.written(position)
        return 0.0

    def _try(self, data: bytes) -> float | None:
        """:return: seconds until it is tried again; None: it is sent, or never will be."""
        for tried in range(TRIES):
            try:
                self._socket.send(data)
            except OSError as problem:
                if problem.errno == errno.ECONNREFUSED:
                    # It became of one before; this one was not sent.
                    self._fail("nobody listens there; what was sent is lost", lost=True)
                    self._look_again(next_address=True)
                    continue
                if problem.errno in (errno.EAGAIN, errno.ENOBUFS):
                    delay, self._delay = self._delay, min(LATER, self._delay * 2)
                    return delay
                if problem.errno == errno.EMSGSIZE:
                    self._too_long(len(data))
                    return None
                self._fail(problem.strerror or str(problem))
                self._look_again(next_address=True)
                return AGAIN
            self._delay = SOON
            self._sent_size += len(data)
            self._clean += not tried
            if self._clean == 2:
                # The first says nothing: what became of it is heard when the next is sent.
                self._works()
            return None
        return SOON

    def _works(self) -> None:
        self._error = None
        if self._said:
            self._said = False
            self._tell(notice("output_connected", f"output {self._name}: datagrams are sent again", output=self._name))

    def _fail(self, text: str, *, lost: bool = False) -> None:
        problem: MySocketError = CannotSend(text, where=self._name)
        self._error, self._clean = text, 0
        if self._seldom.due(text):
            self._said = True
            said = f"output {self._name}: {text}" if lost else f"{problem} Trying again."
            self._complain(notice("unreachable", said, error=type(problem).__name__))

    def close(self) -> Deferred[None]:
        """Send nothing more; fires at once."""
        self._closed = True
        for call in (self._call, self._retry):
            if call is not None and call.active():
                call.cancel()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        return succeed(None)


def _messages(block: Batch) -> Iterator[Batch]:
    """Each message of a block by itself, with its delimiter."""
    data = bytes(block.payload)
    if block.kind == Kind.BLOB:
        yield block
        return
    delimiter = b"\0" if block.flags & Flag.NUL else b"\n"
    whole = block.flags & ~Flag.UNTERMINATED
    at = 0
    while (end := data.find(delimiter, at) + 1) > 0:
        yield Batch(block.start + at, block.kind, whole, block.checksum, data[at:end])
        at = end
    if at < len(data):
        yield Batch(block.start + at, block.kind, block.flags, block.checksum, data[at:])
