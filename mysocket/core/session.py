"""One connection: handshake, frames in and out, heartbeat. Sans-IO: bytes and ``now`` in, bytes and events out.

Laws

1. The dialler speaks first. The acceptor sends nothing until it has read magic and HELLO; what it answers is its owner's choice
   (:meth:`Session.greet` or :meth:`Session.refuse`).
2. RESUME comes only after ATTACH, START only after RESUME (one for each), BATCH only after START, ACK only after our own START.
   A frame at another time is a protocol error.
3. Which stream is attached to which connection, and what positions mean, is the business of the two halves,
   :class:`~mysocket.core.outbox.Outbox` and :class:`~mysocket.core.inbox.Inbox`; a session knows one connection and no streams.
4. Any error is final: after a :class:`Broken` event a session takes and gives nothing more.
5. Every byte heard counts as life, so a PING behind megabytes on a slow line kills nothing. PING goes out when nothing was sent
   for ``Heartbeat.interval``; nothing heard for ``Heartbeat.dead`` ends the session.
6. The first PING of a side goes out as soon as both have said HELLO, before data stands in its way: so each knows the round trip
   from the beginning. Nobody waits for the PONG.

The ritual of every user: :meth:`receive`, handle the events, hand :meth:`output` to the carrier, come back at
:meth:`next_deadline` with :meth:`tick`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mysocket.core.batch import MAX_PAYLOAD, Batch, Bytes
from mysocket.core.reader import FrameReader
from mysocket.core.wire import (
    MAGIC,
    VERSIONS,
    Ack,
    Attach,
    Bye,
    Frame,
    Hello,
    Ping,
    Pong,
    Reason,
    Resume,
    Start,
    batch_header,
    encode,
)
from mysocket.errors import LocalProtocolError, MySocketError, RemoteProtocolError, VersionMismatch

#: Seconds from the first byte to a finished handshake. RabbitMQ: 10 s.
HANDSHAKE_TIME = 10.0


class Heartbeat(NamedTuple):
    """Seconds without sending after which a PING goes out, and seconds without hearing after which the peer counts as dead."""

    interval: float = 15.0
    dead: float = 45.0

    @classmethod
    def for_wait(cls, wait: float | None) -> Heartbeat:
        """With ``-w`` the peer is missed sooner: PING after min(15, w/3), dead after min(45, w)."""
        default = cls()
        return default if wait is None else cls(min(default.interval, wait / 3), min(default.dead, wait))


@dataclass(frozen=True, slots=True)
class Broken:
    """The session is over: why. The last event of a session."""

    error: MySocketError


class Silent(MySocketError):
    """Nothing was heard from the peer for {seconds:.0f} s, so it counts as gone."""


Event = Frame | Broken


class Session:
    """One side of one connection.

    :param dialler: whether this side made the connection.
    :param now: the present time in seconds, on the clock that all other calls use.
    """

    def __init__(self, *, dialler: bool, now: float, heartbeat: Heartbeat = Heartbeat()) -> None:
        self.dialler = dialler
        self.heartbeat = heartbeat
        #: What the peer said of itself, once it has.
        self.peer: Hello | None = None
        #: Both sides have said HELLO.
        self.is_open = False
        self.is_over = False
        #: Seconds the last PING took to come back, or None.
        self.round_trip: float | None = None
        #: Called with it, once for each PING that comes back.
        self.on_round_trip: Callable[[float], None] = lambda seconds: None
        self._reader = FrameReader()
        self._output: list[Bytes] = []
        self._greeted = False
        self._handshake_until = now + HANDSHAKE_TIME
        #: When something was heard last, in seconds, and whether the session ended because nothing was.
        self.heard = now
        self.fell_silent = False
        self._sent = now
        self._challenged_until: float | None = None
        self._pings = 0
        self._pinged: float | None = None  # when the last PING was taken from us; None: not yet
        self._answered = 0  # the last PING that was
        self._asked = False  # our ATTACH waits for RESUME
        self._may_start = False  # their RESUME was sent, START may come
        self._batches_in = False  # their START has come
        self._batches_out = False  # our START has gone

    # What goes out ------------------------------------------------------------------------------------------------------------

    def greet(self, hello: Hello) -> None:
        """Say magic and HELLO. The acceptor does so once it has read the peer's."""
        if self._greeted or not (self.dialler or self.peer):
            raise LocalProtocolError("HELLO at a wrong time")
        self._greeted = True
        self._output += (MAGIC, encode(hello))
        self._opened()

    def refuse(self, reason: Reason, text: str) -> None:
        """Say BYE and end. To a peer that was not greeted yet it is magic and BYE."""
        if self.is_over:
            return
        if not self._greeted:
            self._greeted = True
            self._output.append(MAGIC)
        self._output.append(encode(Bye(reason, text)))
        self.is_over = True

    def bye(self, reason: Reason, text: str = "") -> None:
        """Say BYE and stay: after DONE acks go on, and the peer's stream may."""
        self._output.append(encode(Bye(reason, text)))

    def attach(self, stream: bytes) -> None:
        """Ask to carry our stream here; an :class:`~mysocket.core.wire.Resume` event follows."""
        self._asked, self._batches_out = True, False
        self._output.append(encode(Attach(stream)))

    def resume(self, frame: Resume) -> None:
        """Answer ATTACH."""
        self._may_start, self._batches_in = True, False
        self._output.append(encode(frame))

    def start(self, frame: Start) -> None:
        """Answer RESUME; from here batches may be sent."""
        self._batches_out = True
        self._output.append(encode(frame))

    def send(self, batch: Batch) -> None:
        """Send a batch. The payload is not copied."""
        if not self._batches_out:
            raise LocalProtocolError("BATCH before START")
        self._output += (batch_header(batch), batch.payload)

    def ack(self, position: int, window: int) -> None:
        """Acknowledge what is committed. Acks name positions, never batches, and are cumulative."""
        self._output.append(encode(Ack(position, window)))

    def challenge(self, now: float, seconds: float) -> None:
        """Ask whether the peer is there; if nothing at all is heard for ``seconds``, it is dead."""
        if self._challenged_until is None:
            self._challenged_until = now + seconds
            self.ping()

    def ping(self) -> None:
        """Ask whether the peer is there."""
        self._pings, self._pinged = self._pings + 1, None
        self._output.append(encode(Ping(self._pings)))

    def output(self, now: float) -> list[Bytes]:
        """Take what is to be sent."""
        output = self._output
        if output:
            self._output = []
            self._sent = now
            if self._pinged is None:
                self._pinged = now
        return output

    # What comes in ------------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[Event]:
        """The events that ``data`` brings, in order; :class:`Broken` is the last if it brings an error."""
        if self.is_over:
            return []
        self.heard, self._challenged_until = now, None
        frames: list[Frame] = []
        error: MySocketError | None = None
        try:
            self._reader.feed(data, frames)
        except RemoteProtocolError as broken:
            error = broken
        events: list[Event] = []
        for frame in frames:
            try:
                if self._admit(frame, now):
                    events.append(frame)
            except RemoteProtocolError as broken:
                error = broken
                break
        if error is not None:
            events.append(self._break(error))
        return events

    def _admit(self, frame: Frame, now: float) -> bool:
        """Does the frame belong here, and is it an event for the owner?"""
        match frame:
            case Batch():
                legal = self._batches_in
            case Ack():
                legal = self._batches_out
            case Ping():
                self._output.append(encode(Pong(frame.number)))
                return False
            case Pong():
                if self._answered < frame.number == self._pings and self._pinged is not None:
                    self.round_trip, self._answered = now - self._pinged, frame.number
                    self.on_round_trip(self.round_trip)
                return False
            case Hello():
                legal = self.peer is None
                if legal:
                    self._meet(frame)
            case Resume():
                legal, self._asked = self._asked, False
            case Start():
                legal, self._may_start = self._may_start, False
                self._batches_in = True
            case Attach() | Bye():
                legal = self.peer is not None or isinstance(frame, Bye)
        if not legal:
            raise RemoteProtocolError(f"{type(frame).__name__.upper()} at a wrong time")
        return True

    def _meet(self, hello: Hello) -> None:
        if not set(hello.versions) & set(VERSIONS):
            raise VersionMismatch(f"version {_list(hello.versions)}", ours=f"version {_list(VERSIONS)}")
        if hello.max_frame < MAX_PAYLOAD:
            raise RemoteProtocolError(f"a HELLO that takes frames of {hello.max_frame} bytes only")
        self.peer = hello
        self._opened()

    def _opened(self) -> None:
        self.is_open = self._greeted and self.peer is not None
        if self.is_open:
            self.ping()

    def _break(self, error: MySocketError) -> Broken:
        self.fell_silent = isinstance(error, Silent)
        # A peer which is no MySocket hears no frame; what it hears is the carrier's business.
        if self.peer is not None or isinstance(error, VersionMismatch):
            version = isinstance(error, VersionMismatch)
            reason = Reason.VERSION if version else Reason.SILENT if isinstance(error, Silent) else Reason.PROTOCOL
            self.refuse(reason, str(error) if not version else f"this side speaks version {_list(VERSIONS)}")
        self.is_over = True
        return Broken(error)

    # Time ---------------------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """When :meth:`tick` is due next."""
        if not self.is_open:
            return self._handshake_until
        regular = min(self._sent + self.heartbeat.interval, self.heard + self.heartbeat.dead)
        return regular if self._challenged_until is None else min(regular, self._challenged_until)

    def tick(self, now: float) -> list[Event]:
        """Time has passed: ping, or find the peer dead."""
        if self.is_over:
            return []
        if not self.is_open:
            if now >= self._handshake_until:
                self.is_over = True
                return [Broken(Silent(seconds=HANDSHAKE_TIME))]
            return []
        silent = now - self.heard
        if self._challenged_until is not None and now >= self._challenged_until:
            return [self._break(Silent(seconds=silent))]
        # Compared as next_deadline() reckons: a rounding error between the two would make a timer that fires for ever.
        if now >= self.heard + self.heartbeat.dead:
            if silent >= self.heartbeat.dead + self.heartbeat.interval:
                # This process itself slept (SIGSTOP, a suspended machine): what the peer said meanwhile may wait to be read.
                self.heard = now - self.heartbeat.dead + min(1.0, self.heartbeat.interval)
                return []
            return [self._break(Silent(seconds=silent))]
        if now >= self._sent + self.heartbeat.interval:
            self.ping()
        return []


def _list(versions: tuple[int, ...]) -> str:
    # A number may have thousands of digits.
    return ", ".join(str(version)[:10] for version in versions[:8]) or "none"
