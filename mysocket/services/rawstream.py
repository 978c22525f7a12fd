"""``--raw`` over TCP or a Unix socket: one plain connection between the two ends of this process."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from mysocket.carriers import build
from mysocket.carriers.addresses import address_text
from mysocket.carriers.admission import RateLimitedLog, source_of
from mysocket.carriers.raw import HIGH_WATER, RawFactory, RawProtocol
from mysocket.core.batch import Piece
from mysocket.core.ending import Own, PeerFacts, Policy, Progress
from mysocket.core.wire import Input
from mysocket.ends.plain import RawOrigin
from mysocket.ends.stdio import Ends
from mysocket.ends.words import Words
from mysocket.errors import MySocketError, RawReset
from mysocket.metrics import Rejected
from mysocket.notices import notice
from mysocket.services.base import EndpointService
from mysocket.settings import Settings
from mysocket.watch import Voice

#: Bytes of received data that wait for the output above which no more is read.
OUTPUT_HIGH_WATER = 1024 * 1024
#: Connections that wait for the one before to end, with ``-k``, or for a look-up; more are closed.
MAX_NEXT = 64


class RawStreamService(EndpointService):
    """``--raw`` over TCP: one connection, dialled or accepted, whichever is first."""

    def __init__(self, settings: Settings, reactor: Any, *, voice: Voice, ends: Ends) -> None:
        # -k takes the next connection, so it needs a port.
        keep_open = (settings.keep_open or ends.stays) and settings.port is not None
        policy = Policy(keep_open=keep_open, linger=settings.linger, wait=settings.wait)
        super().__init__(settings, reactor, voice=voice, ends=ends, policy=policy)
        self._on_room: Callable[[], None] = lambda: None
        self._keep_open = keep_open
        self._sink = None if settings.send_only else ends.sink(failed=self.watch.fail, shared=False, raw=True)
        self._origin: RawOrigin | None = None
        self._carrier: RawProtocol | None = None
        self._judging: list[RawProtocol] = []  # connections whose addresses are being looked up
        self._next: deque[RawProtocol] = deque()  # connections that wait for the one before to end (-k)
        self._alone_since: float = reactor.seconds()
        self._began = False  # a byte has passed: no more dialling
        self._peer_ended = False
        self._shut = False
        self._paused = False
        self._kept: list[Piece] = []  # read when there was no connection any more
        self._ever = False
        self._attempts = 0
        self._retry: IDelayedCall | None = None
        self._dialling: Deferred[Any] | None = None
        self._policy = build.retry_policy(random.random)
        self._log = RateLimitedLog(voice.tell, reactor)
        self._words = Words(voice.tell, reactor.seconds, about="connections")
        self._closed: Deferred[None] | None = None

    # Subject of the watch -------------------------------------------------------------------------------------------------------

    def own(self) -> Own:
        if self.ends.input is Input.NONE:
            return Own.NONE
        if not self.ends.input_ended:
            return Own.OPEN
        return Own.DELIVERED if self._shut or not self._ever else Own.ENDED

    def undelivered(self) -> int:
        return self._carrier.queued if self._carrier is not None else 0

    def peers(self) -> Iterable[PeerFacts]:
        if not self._ever:
            return ()
        ended = self._peer_ended and (self._origin is None or not self._origin.waiting)
        return (PeerFacts(Input.FINITE, Progress.DONE if ended else Progress.OPEN),)

    def alone_since(self) -> float | None:
        return None if self._carrier is not None or self._peer_ended else self._alone_since

    @property
    def linked(self) -> bool:
        return self._carrier is not None

    @property
    def open_connections(self) -> int:
        return (self._carrier is not None) + len(self._judging) + len(self._next)

    # Starting -------------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        await self.listen(RawFactory(self, dialler=False))
        self._dial()

    def _dial(self) -> None:
        self._retry = None
        peer = self.settings.peer
        if peer is None or self._carrier is not None or self._began or self._closing is not None:
            return
        endpoint = self.peer_endpoint(peer)
        connecting = build.Dialled(endpoint, peer, self.watch.report).connect(RawFactory(self, dialler=True))
        self._dialling = connecting
        connecting.addCallbacks(self._dialled, self._not_dialled)

    def _dialled(self, _: object) -> None:
        self._dialling = None

    def _not_dialled(self, _: Failure) -> None:
        self._dialling = None
        self.counters.dials_failed += 1
        self._dial_later()

    def _dial_later(self) -> None:
        if self._retry is None and not self._began and self.settings.peer is not None and self._closing is None:
            self._attempts += 1
            self._retry = self.reactor.callLater(self._policy(self._attempts), self._dial)

    # Owner of the connections ---------------------------------------------------------------------------------------------------

    def raw_connected(self, carrier: RawProtocol) -> None:
        if carrier.dialler:
            self._take(carrier)
            return
        host = getattr(carrier.connected_to, "host", None)
        verdict = self.admission.judge(host)
        if isinstance(verdict, Deferred) and len(self._judging) >= MAX_NEXT:
            self._turn_away(carrier, Rejected.TOO_MANY)
        elif isinstance(verdict, Deferred):
            carrier.pause()
            self._judging.append(carrier)
            verdict.addCallback(self._judged, carrier)
        elif verdict:
            self._take(carrier)
        else:
            self._turn_away(carrier)

    def _judged(self, admitted: bool, carrier: RawProtocol) -> None:
        if carrier not in self._judging:
            return
        self._judging.remove(carrier)
        if admitted:
            carrier.resume()
            self._take(carrier)
        else:
            self._turn_away(carrier)

    def _turn_away(self, carrier: RawProtocol, why: Rejected = Rejected.NOT_ALLOWED) -> None:
        self.counters.reject(why)
        address = address_text(carrier.connected_to)
        text = f"closed a connection from {address}: connections are taken {self.admission}; use --allow to take more"
        source = source_of(getattr(carrier.connected_to, "host", None))
        self._log.say(source, notice("rejected", text, address=address, reason=why.value))
        carrier.close()

    def _take(self, carrier: RawProtocol) -> None:
        if self._closing is not None:
            carrier.close()
            return
        if self._carrier is not None:
            if self._keep_open and len(self._next) < MAX_NEXT:
                carrier.pause()
                self._next.append(carrier)
            else:
                self.counters.reject(Rejected.TOO_MANY if self._keep_open else Rejected.BUSY)
                carrier.close()
            return
        # An input that ended before has been half-closed once. A later connection (-k) is closed when its peer ends: a half-close
        # at once would make socat give up half a second later, in the middle of what it sends.
        self.counters.connections += 1
        self._carrier, self._ever, self._peer_ended, self._shut = carrier, True, False, self.ends.input_ended
        text = address_text(carrier.connected_to)
        self._words.say(notice("connected", f"connected {'to' if carrier.dialler else 'with'} {text}", address=text))
        if self._sink is not None:
            self._origin = RawOrigin(
                self._sink, cut_lines=self._sink.whole, max_message=self.settings.max_message, on_written=self._written
            )
            self._origin.peer_text = text
        self.ends.start_input(self, failed=self.watch.fail, ended=self.watch.changed)
        kept, self._kept = self._kept, []
        self.accept(kept)
        self._on_room()
        self.watch.changed()

    def raw_received(self, carrier: RawProtocol, data: bytes) -> None:
        if carrier is not self._carrier:
            return
        self._began = True
        self.counters.batches_in += 1
        self.counters.bytes_in += len(data)
        if self._origin is None:
            return
        try:
            self._origin.give(data)
        except MySocketError as error:
            self.watch.fail(error)
            return
        if self._origin.waiting > OUTPUT_HIGH_WATER and not self._paused:
            self._paused = True
            carrier.pause()

    def _written(self) -> None:
        origin = self._origin
        if self._paused and self._carrier is not None and origin is not None and origin.waiting < OUTPUT_HIGH_WATER // 2:
            self._paused = False
            self._carrier.resume()
        if self._peer_ended:
            self.watch.changed()

    def raw_ended(self, carrier: RawProtocol) -> None:
        if carrier is not self._carrier:
            return
        self._peer_ended = True
        if self._origin is not None:
            try:
                self._origin.end()
            except MySocketError as error:
                self.watch.fail(error)
        if self.ends.input is Input.OPEN and not self.ends.input_ended:
            self.watch.tell("the peer has ended its side")
        if self.ends.input is Input.NONE or self._shut:
            # Both directions have ended.
            carrier.close()
        self.watch.changed()

    def raw_drained(self, carrier: RawProtocol) -> None:
        if carrier is self._carrier:
            self._on_room()

    def raw_shut(self, carrier: RawProtocol) -> None:
        if carrier is self._carrier:
            self._shut = True
            if self._peer_ended:
                carrier.close()
            self.watch.changed()

    def raw_lost(self, carrier: RawProtocol, reason: Failure) -> None:
        for waiting in (self._judging, self._next):
            if carrier in waiting:
                waiting.remove(carrier)
        if carrier is not self._carrier:
            return
        self._carrier, self._paused = None, False
        self._alone_since = self.reactor.seconds()
        self._goodbye_heard()
        if self._closing is not None:
            return
        done = reason.check(ConnectionDone) is not None
        if not self._began and not (done and self._peer_ended and self.ends.input is Input.NONE) and carrier.dialler:
            self._ever = self._peer_ended = False
            self._dial_later()
        elif not done or not self._peer_ended:
            error = RawReset(reason.getErrorMessage(), peer=address_text(carrier.connected_to))
            if self._keep_open:
                self._peer_ended = True
                address = address_text(carrier.connected_to)
                self._words.say(notice("disconnected", str(error), address=address, reason=error.text))
            else:
                self.watch.fail(error)
        if self._next and self._carrier is None:
            following = self._next.popleft()
            following.resume()
            self._take(following)
        self.watch.changed()

    # Taker of the input ---------------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Bytes of input that may be taken now."""
        return HIGH_WATER - self._carrier.queued if self._carrier is not None else 0

    def when_room(self, call: Callable[[], None]) -> None:
        """Call ``call`` whenever there is room again."""
        self._on_room = call

    def accept(self, pieces: list[Piece]) -> int:
        """Send the input as it is."""
        if self._carrier is None:
            self._kept += pieces
        elif pieces:
            self._began = True
            for piece in pieces:
                self._carrier.send(piece.payload)
                self.counters.batches_out += 1
                self.counters.bytes_out += len(piece.payload)
        return 0

    def end_input(self, *, wanted: bool = True) -> None:
        """The input has ended: half-close."""
        if self._carrier is not None:
            self._carrier.shut()

    # Leaving --------------------------------------------------------------------------------------------------------------------

    def say_goodbye(self, why: str) -> Deferred[None]:
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        if self._dialling is not None:
            self._dialling.cancel()
        for carrier in (*self._judging, *self._next):
            carrier.close()
        closed: Deferred[None] = Deferred()
        self._closed = closed
        if self._carrier is not None:
            self._carrier.close()
        self._goodbye_heard()
        return closed

    def _goodbye_heard(self) -> None:
        if self._closed is not None and self._carrier is None:
            closed, self._closed = self._closed, None
            closed.callback(None)

    def abort(self) -> None:
        if self._carrier is not None:
            self._carrier.abort()
