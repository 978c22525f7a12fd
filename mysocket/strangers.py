"""Connections that have not finished their handshake: who may connect, how many, how long, and what they are told."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from mysocket.carriers.addresses import host_of, local_text, peer_text
from mysocket.carriers.admission import Admission, RateLimitedLog, StrangerLimit, source_of
from mysocket.carriers.stream import StreamProtocol
from mysocket.core.session import HANDSHAKE_TIME, Broken, Event, Session, Silent
from mysocket.core.wire import Bye, Hello, Reason
from mysocket.ends.escape import one_line
from mysocket.errors import (
    ClosedWithoutWord,
    HandshakeTimeout,
    MySocketError,
    NotMySocket,
    RefusedByPeer,
    StateLoss,
    VersionMismatch,
)
from mysocket.metrics import Counters, Rejected
from mysocket.notices import notice

#: What a stranger who speaks something else is told.
GREETING = (
    "mysocket: this port speaks the MySocket protocol, not plain text; on the other side run mysocket, or here mysocket --raw\r\n"
)
#: Reasons in a BYE before the handshake after which it is worth trying again.
PASSING = (Reason.BUSY, Reason.LEFT, Reason.DONE, Reason.SILENT, Reason.PROTOCOL, Reason.MOVED)
#: As what those who are turned away count.
COUNTED = {Reason.BUSY: Rejected.BUSY, Reason.STATE_LOSS: Rejected.STATE_LOSS}


@dataclass
class Stranger:
    """A connection that has not finished its handshake. ``ready`` is for whoever dialled it."""

    carrier: StreamProtocol
    timer: IDelayedCall
    ready: Deferred[None] = field(default_factory=Deferred)


class Host(Interface):
    """The node, as strangers see it."""

    def introduce(self) -> Hello:
        """What a peer that was dialled is told of this node."""

    def meet(self, carrier: StreamProtocol, hello: Hello) -> None:
        """A HELLO has come: make the carrier somebody else's, or call :meth:`Strangers.turn_away`."""

    def tell(self, text: str) -> None:
        """Say something to the user."""

    def refused(self, error: MySocketError) -> None:
        """Trying again is of no use."""

    def gone(self) -> None:
        """A connection is gone."""


class Strangers:
    """The owner of connections until a HELLO has come.

    :param admission: who may connect; None: everybody who can.
    :param counters: count those who are not taken.
    """

    def __init__(self, host: Host, clock: IReactorTime, admission: Admission | None, counters: Counters | None = None) -> None:
        self._host = host
        self._counters = counters if counters is not None else Counters()
        self._clock = clock
        self._admission = admission
        self._strangers: dict[Session, Stranger] = {}
        self._limit = StrangerLimit()
        self._log = RateLimitedLog(host.tell, clock)
        self._closed = False

    @property
    def connections(self) -> list[StreamProtocol]:
        """Those that are up."""
        return [stranger.carrier for stranger in self._strangers.values()]

    def connected(self, carrier: StreamProtocol) -> None:
        if self._closed:
            carrier.drop()
            return
        if carrier.session.dialler:
            self._receive_stranger(carrier)
            carrier.session.greet(self._host.introduce())
            carrier.flush()
            return
        host = host_of(carrier)
        if not self._limit.enter(host):
            text = f"too many connections that have not said who they are; closed one from {peer_text(carrier)}"
            self._tell_rejected("limit", carrier, Rejected.TOO_MANY, text)
            self._counters.reject(Rejected.TOO_MANY)
            carrier.drop()
            return
        self._receive_stranger(carrier)
        verdict = self._admission.judge(host) if self._admission is not None else True
        if isinstance(verdict, Deferred):
            carrier.pause()
            verdict.addCallback(self._judged, carrier)
        elif not verdict:
            self._judged(False, carrier)

    def _receive_stranger(self, carrier: StreamProtocol) -> None:
        timer = self._clock.callLater(HANDSHAKE_TIME, self._too_slow, carrier)
        self._strangers[carrier.session] = Stranger(carrier, timer)

    def _judged(self, admitted: bool, carrier: StreamProtocol) -> None:
        if carrier.session not in self._strangers:
            return
        if admitted:
            carrier.resume()
            return
        text = f"closed a connection from {peer_text(carrier)}: connections are taken {self._admission}; use --allow to take more"
        self._tell_rejected(source_of(host_of(carrier)), carrier, Rejected.NOT_ALLOWED, text)
        self.leave(carrier, MySocketError("not admitted"), Rejected.NOT_ALLOWED)
        carrier.drop()

    def ready(self, session: Session) -> Deferred[None]:
        """Fires when the handshake of a dialled connection is finished; fails with a :class:`MySocketError` if it does not come
        to that."""
        stranger = self._strangers.get(session)
        if stranger is not None:
            return stranger.ready
        if session.is_open and not session.is_over:
            return succeed(None)
        return fail(MySocketError("The connection was lost before a word was said."))

    def event(self, carrier: StreamProtocol, event: Event) -> None:
        if carrier.owner is not self:
            carrier.owner.event(carrier, event)
        elif isinstance(event, Hello):
            self._host.meet(carrier, event)
        elif isinstance(event, Bye):
            self._refused(carrier, event)
        elif isinstance(event, Broken):
            self._broke(carrier, event.error)

    def settle(self) -> None:
        """Strangers are owed nothing."""

    def lost(self, carrier: StreamProtocol, reason: Failure) -> None:
        if carrier.session not in self._strangers:
            return
        if carrier.session.dialler and reason.check(ConnectionDone):
            self.leave(carrier, ClosedWithoutWord(peer=peer_text(carrier), address=local_text(carrier)))
        else:
            self.leave(carrier, MySocketError(f"The connection to {peer_text(carrier)} was lost: {reason.getErrorMessage()}"))

    def _too_slow(self, carrier: StreamProtocol) -> None:
        self.leave(carrier, HandshakeTimeout(peer=peer_text(carrier), seconds=HANDSHAKE_TIME))
        carrier.abort()

    def leave(self, carrier: StreamProtocol, error: MySocketError | None, why: Rejected = Rejected.HANDSHAKE) -> None:
        """The handshake is over, well (no error) or not.

        :param why: as what it counts, if somebody else dialled.
        """
        stranger = self._strangers.pop(carrier.session, None)
        if stranger is None:
            return
        if stranger.timer.active():
            stranger.timer.cancel()
        if not carrier.session.dialler:
            self._limit.leave(host_of(carrier))
            if error is not None:
                self._counters.reject(why)
        elif error is None:
            stranger.ready.callback(None)
        else:
            stranger.ready.errback(error)
        self._host.gone()

    def turn_away(self, carrier: StreamProtocol, reason: Reason, text: str) -> None:
        """Say why not, and close."""
        carrier.close(reason, text)
        told = f"turned {peer_text(carrier)} away: {text}"
        if reason is Reason.BUSY and not carrier.session.dialler:
            self._tell_rejected(("busy", source_of(host_of(carrier))), carrier, Rejected.BUSY, told)
        self.leave(carrier, MySocketError(told), COUNTED.get(reason, Rejected.REFUSED))

    def _tell_rejected(self, key: Hashable, carrier: StreamProtocol, why: Rejected, text: str) -> None:
        """Strangers can make no more lines than the log has room for."""
        self._log.say(key, notice("rejected", text, address=peer_text(carrier), reason=why.value))

    def close(self) -> None:
        """Take nobody any more, and drop those who are here."""
        self._closed = True
        for carrier in self.connections:
            carrier.abort()

    def _refused(self, carrier: StreamProtocol, bye: Bye) -> None:
        text = one_line(bye.text) or f"reason {bye.reason}"
        peer = peer_text(carrier)
        carrier.drop()
        error: MySocketError
        if bye.reason in PASSING:
            error = MySocketError(f"{peer} does not link now: {text}")
        elif bye.reason == Reason.STATE_LOSS:
            error = StateLoss(f"{peer} says: {text}")
        else:
            error = RefusedByPeer(text, peer=peer)
        if isinstance(error, RefusedByPeer | StateLoss) and carrier.session.dialler:
            self._host.refused(error)
        self.leave(carrier, error)

    def _broke(self, carrier: StreamProtocol, error: MySocketError) -> None:
        why = Rejected.VERSION if isinstance(error, VersionMismatch) else Rejected.PROTOCOL
        if isinstance(error, NotMySocket) and not carrier.session.dialler:
            carrier.write_text(GREETING.encode())
            self.leave(carrier, error, why)
            carrier.drop()
        else:
            carrier.finish()
            self.leave(carrier, error, Rejected.HANDSHAKE if isinstance(error, Silent) else why)
        if isinstance(error, VersionMismatch):
            if carrier.session.dialler:
                self._host.refused(error)
            else:
                text = f"turned {peer_text(carrier)} away: {error}"
                self._tell_rejected(("version", source_of(host_of(carrier))), carrier, Rejected.VERSION, text)
