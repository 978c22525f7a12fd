"""``--raw --udp``: one message, one datagram, between the two ends of this process."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall

from mysocket.carriers import build
from mysocket.carriers.admission import RateLimitedLog, plain_address, source_of
from mysocket.carriers.datagram import MAX_DATAGRAM, Address, RawDatagramProtocol
from mysocket.core.batch import Flag, Kind, Piece
from mysocket.core.ending import Own, PeerFacts, Policy, Progress
from mysocket.core.wire import Input
from mysocket.ends.plain import RawOrigin
from mysocket.ends.stdio import Ends
from mysocket.errors import MessageTooLong, UnknownHost
from mysocket.metrics import Rejected
from mysocket.notices import notice
from mysocket.services.base import EndpointService
from mysocket.settings import Settings
from mysocket.values import is_endpoint, split_host_port
from mysocket.watch import Voice

UDP_IS_RAW = "plain --udp means --udp --raw for now: one message a datagram, and nothing promised beyond UDP"
#: Seconds for answers after the end of a pipe or a file (``-q``).
LINGER = 1.0
#: Bytes of input that wait to be sent, above which no more is taken.
HIGH_WATER = 1024 * 1024
#: Bytes of received data that wait for the output above which no more is read.
OUTPUT_HIGH_WATER = 8 * 1024 * 1024
#: Datagrams that wait for a look-up of their sender's name; more are dropped.
MAX_JUDGING = 64


class RawDatagramService(EndpointService):
    """``--raw --udp``: one message, one datagram."""

    def __init__(self, settings: Settings, reactor: Any, *, voice: Voice, ends: Ends) -> None:
        linger = settings.linger
        if linger is None:
            linger = 0.0 if settings.send_only or ends.interactive else LINGER
        policy = Policy(keep_open=settings.keep_open or ends.stays, linger=linger, wait=settings.wait)
        super().__init__(settings, reactor, voice=voice, ends=ends, policy=policy)
        self._on_room: Callable[[], None] = lambda: None
        sink = None if settings.send_only else ends.sink(failed=self.watch.fail, shared=False, raw=True)
        self._origin = (
            RawOrigin(sink, cut_lines=False, max_message=settings.max_message, on_written=self._written)
            if sink is not None
            else None
        )
        self._delimiter = {"lines": b"\n", "null": b"\0"}.get(settings.cut, b"")
        self._sockets: list[RawDatagramProtocol] = []
        self._ports: list[Any] = []
        self._target: Address | None = None
        self._queue: deque[bytes] = deque()
        self._queued = 0
        self._partial: list[bytes] = []
        self._partial_size = 0
        self._call: IDelayedCall | None = None  # the next datagrams
        self._retry: IDelayedCall | None = None  # the next look-up
        self._failed = 0  # look-ups that found nothing
        self._policy = build.retry_policy(random.random)
        self._log = RateLimitedLog(voice.tell, reactor)
        self._problems = RateLimitedLog(voice.complain, reactor)
        self._heard: float = reactor.seconds()
        self._stopped = False
        self._paused = False
        self._judging = 0

    # Subject of the watch -------------------------------------------------------------------------------------------------------

    def own(self) -> Own:
        if self.ends.input is Input.NONE:
            return Own.NONE
        if not self.ends.input_ended:
            return Own.OPEN
        return Own.ENDED if self._queue else Own.DELIVERED

    def undelivered(self) -> int:
        return self._queued

    def peers(self) -> Iterable[PeerFacts]:
        return (PeerFacts(Input.FINITE, Progress.OPEN),) if self._sockets else ()

    def alone_since(self) -> float | None:
        # Without input of our own, silence is all there is to notice that nobody is there.
        return None if self._target is not None and self.ends.input is not Input.NONE else self._heard

    @property
    def linked(self) -> bool:
        # Datagrams have no connections: that there is a socket is all that can be said.
        return bool(self._sockets) and not self._stopped

    # Starting -------------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        settings = self.settings
        if settings.port is not None and is_endpoint(settings.port, listening=True):
            protocol = RawDatagramProtocol(self._received)
            self._ports.append(build.adopt_datagrams(self.reactor, settings.port, protocol))
            self._sockets.append(protocol)
        else:
            self._open(int(settings.port or 0))
        if settings.port is not None:
            self.tell_listening([port.getHost() for port in self._ports], "datagrams")
        if not settings.raw:
            self.watch.tell(UDP_IS_RAW)
        if settings.peer is not None:
            host, port = split_host_port(settings.peer)
            self._look_up(host, port)
        self.ends.start_input(self, failed=self.watch.fail, ended=self.watch.changed)

    def _open(self, number: int) -> None:
        settings = self.settings
        for address in build.interfaces(settings.bind, self.peer_host):
            protocol = RawDatagramProtocol(self._received)
            found = build.listen_datagrams(self.reactor, number, address, protocol, optional=bool(self._ports))
            if found is not None:
                self._sockets.append(protocol)
                self._ports.append(found)
                if settings.port is not None:
                    number = build.port_number(found)

    def _look_up(self, host: str, port: int) -> None:
        address = plain_address(host)
        if address is not None:
            self._aim((str(address), port))
            return

        def found(addresses: list[tuple[int, str]]) -> None:
            texts = [text for _, text in addresses]
            # IPv4 first: what listens without a word about the family, as nc and socat do, listens there.
            for text in sorted(texts, key=lambda text: ":" in text):
                if self._socket_for(text) is not None:
                    self._aim((text, port))
                    return
            if not self._stopped:
                self.watch.report(UnknownHost("the look-up found no address", host=host))
                self._failed += 1
                self._retry = self.reactor.callLater(self._policy(self._failed), self._look_up, host, port)

        self.resolver.look_up(host).addCallback(found)

    def _aim(self, target: Address) -> None:
        self._target = target
        self._send_soon()
        self.watch.changed()

    def _socket_for(self, host: str) -> tuple[RawDatagramProtocol, str] | None:
        """The socket that reaches ``host``, and the host as this socket writes it."""
        for protocol in self._sockets:
            if protocol.takes(host):
                return protocol, host
        for protocol in self._sockets:
            if ":" not in host and protocol.takes("::") and protocol.transport.getHost().host == "::":  # type: ignore[union-attr]
                return protocol, f"::ffff:{host}"
        return None

    # Receiving ------------------------------------------------------------------------------------------------------------------

    def _received(self, datagram: bytes, address: Address) -> None:
        verdict = self.admission.judge(address[0])
        if isinstance(verdict, Deferred):
            if self._judging >= MAX_JUDGING:
                self.counters.reject(Rejected.TOO_MANY)
                text = "dropped datagrams while their sender's address was looked up"
                self._log.say("judging", notice("rejected", text, reason=Rejected.TOO_MANY.value))
                return
            self._judging += 1
            verdict.addCallback(self._looked_up)
            verdict.addCallback(self._judged, datagram, address)
        else:
            self._judged(verdict, datagram, address)

    def _looked_up(self, admitted: bool) -> bool:
        self._judging -= 1
        return admitted

    def _judged(self, admitted: bool, datagram: bytes, address: Address) -> None:
        host = str(plain_address(address[0]) or address[0])
        text = f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
        if not admitted:
            self.counters.reject(Rejected.NOT_ALLOWED)
            why = f"dropped a datagram from {text}: datagrams are taken {self.admission}; use --allow"
            self._log.say(source_of(host), notice("rejected", why, address=text, reason=Rejected.NOT_ALLOWED.value))
            return
        if self._target is None and self.settings.peer is None:
            # Listening only: the own input goes to whoever spoke first.
            self._aim((host, address[1]))
        self._heard = self.reactor.seconds()
        self.counters.batches_in += 1
        self.counters.bytes_in += len(datagram)
        if self._origin is None:
            return
        self._origin.peer_text = text
        if self._delimiter and not self.settings.json and not datagram.endswith(self._delimiter):
            datagram += self._delimiter
        elif self.settings.json and self._delimiter:
            datagram = datagram.removesuffix(self._delimiter)
        try:
            self._origin.message(datagram)
        except MessageTooLong as error:
            self.counters.reject(Rejected.TOO_LONG)
            self._problems.say(source_of(host), notice("rejected", str(error), address=text, reason=Rejected.TOO_LONG.value))
        if self._origin.waiting > OUTPUT_HIGH_WATER and not self._paused:
            # What does not fit into the kernel's buffer meanwhile is lost, as UDP has it.
            self._paused = True
            for port in self._ports:
                port.stopReading()

    def _written(self) -> None:
        if self._paused and self._origin is not None and self._origin.waiting < OUTPUT_HIGH_WATER // 2 and not self._stopped:
            self._paused = False
            for port in self._ports:
                port.startReading()

    # Taker of the input ---------------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Bytes of input that may be taken now."""
        return HIGH_WATER - self._queued

    def when_room(self, call: Callable[[], None]) -> None:
        """Call ``call`` whenever there is room again."""
        self._on_room = call

    def accept(self, pieces: list[Piece]) -> int:
        """Make a datagram of each message, with its delimiter."""
        for piece in pieces:
            if piece.kind is Kind.LINES:
                self._lines(piece)
            elif piece.flags & Flag.CHUNK:
                for at in range(0, len(piece.payload), MAX_DATAGRAM):
                    self._message(piece.payload[at : at + MAX_DATAGRAM])
            else:
                self._part(piece.payload, last=not piece.flags & Flag.MORE)
        self._send_soon()
        return 0

    def _lines(self, piece: Piece) -> None:
        at, payload = 0, piece.payload
        while (end := payload.find(self._delimiter, at) + 1) > 0:
            self._part(payload[at:end], last=True)
            at = end
        if at < len(payload):
            self._part(payload[at:], last=not piece.flags & Flag.MORE)

    def _part(self, data: bytes, *, last: bool) -> None:
        self._partial_size += len(data)
        if self._partial_size <= MAX_DATAGRAM:
            self._partial.append(data)
        if not last:
            return
        size, parts = self._partial_size, self._partial
        self._partial, self._partial_size = [], 0
        if size > MAX_DATAGRAM:
            self.watch.voice.complain(
                f"a message of {size} bytes does not fit into a datagram ({MAX_DATAGRAM} bytes at most): it was not sent; "
                "the next goes on. TCP has no such limit"
            )
        else:
            self._message(b"".join(parts))

    def _message(self, datagram: bytes) -> None:
        self._queue.append(datagram)
        self._queued += len(datagram)

    def end_input(self, *, wanted: bool = True) -> None:
        """The input has ended. A person who leaves waits for nobody; a pipe or a file waits for somebody to come."""
        if not wanted and self._target is None and self._queue:
            text = f"not sent: {len(self._queue)} messages ({self._queued} bytes), for nobody was there"
            self.watch.voice.complain(notice("undelivered", text))
            self._queue.clear()
            self._queued = 0

    def _send_soon(self) -> None:
        if self._call is None and not self._stopped:
            self._send()

    def _send(self) -> None:
        self._call = None
        if self._target is None or self._stopped:
            return
        found = self._socket_for(self._target[0])
        if found is None:
            return
        protocol, host = found
        # A few at a time, so that the reactor and the receiver can breathe.
        for _ in range(64):
            if not self._queue:
                break
            try:
                sent = protocol.send(self._queue[0], (host, self._target[1]))
            except OSError as problem:
                self._problems.say("unsent", f"a datagram to {host} was not sent: {problem.strerror or problem}")
                sent = True
            if not sent:
                self._call = self.reactor.callLater(0.001, self._send)
                return
            size = len(self._queue.popleft())
            self._queued -= size
            self.counters.batches_out += 1
            self.counters.bytes_out += size
        if self._queue:
            self._call = self.reactor.callLater(0, self._send)
        else:
            self._on_room()
            self.watch.changed()

    # Leaving --------------------------------------------------------------------------------------------------------------------

    def say_goodbye(self, why: str) -> Deferred[None]:
        self._stopped = True
        for call in (self._call, self._retry):
            if call is not None and call.active():
                call.cancel()
        return succeed(None)

    def abort(self) -> None:
        """Datagrams have no connections."""
