"""This running MySocket: its identity, the connections that have not said HELLO yet, and which link adopts them.

A node with a ``--peer`` has one link. A node that only listens (a hub) has one for every node that comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol as Interface

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from mysocket.carriers.admission import Admission, RateLimitedLog, StrangerLimit, source_of
from mysocket.carriers.stream import StreamProtocol
from mysocket.core.ending import PeerFacts
from mysocket.core.session import HANDSHAKE_TIME, Broken, Event, Heartbeat, Session
from mysocket.core.wire import ID_SIZE, Bye, Hello, Input, Reason
from mysocket.ends.escape import one_line
from mysocket.errors import (
    AnotherPeer,
    ClosedWithoutWord,
    HandshakeTimeout,
    MySocketError,
    NotMySocket,
    RefusedByPeer,
    VersionMismatch,
)
from mysocket.link import Link
from mysocket.receiving import Sink
from mysocket.spool.memory import MemorySpool

#: Bytes that one link grants to its peer beyond what it has committed.
WINDOW = 8 * 1024 * 1024
#: Bytes that all links of a node together grant to their peers.
WINDOW_BUDGET = 64 * 1024 * 1024
#: What a stranger who speaks something else is told.
GREETING = (
    "mysocket: this port speaks the MySocket protocol, not plain text; on the other side run mysocket, or here mysocket --raw\r\n"
)


class Watcher(Interface):
    """Who asks :mod:`mysocket.core.ending`, and speaks to the user."""

    def changed(self) -> None:
        """Something has happened on which leaving may depend."""

    def tell(self, text: str) -> None:
        """Say something to the user."""

    def fail(self, error: MySocketError) -> None:
        """An error ends this node."""


@dataclass(frozen=True, kw_only=True)
class Character:
    """What a node is: how it introduces itself, and what it does with what comes."""

    name: str
    input: Input
    takes: bool = True
    #: A link for every node that comes, not one for one peer.
    hub: bool = False
    #: Each of them has an input, not only the first.
    all_send: bool = False
    max_message: int = 16 * 1024 * 1024
    heartbeat: Heartbeat = field(default_factory=Heartbeat)


@dataclass
class Stranger:
    """A connection that has not finished its handshake. ``ready`` is for whoever dialled it."""

    carrier: StreamProtocol
    timer: IDelayedCall
    ready: Deferred[None] = field(default_factory=Deferred)


class Node:
    """One running MySocket.

    :param random_bytes: ``os.urandom``, or a seeded one in tests.
    :param admission: who may connect; None: everybody who can.
    :param sink: where everything that is received goes, or None if nothing is taken.
    """

    def __init__(
        self,
        character: Character,
        *,
        clock: IReactorTime,
        random_bytes: Callable[[int], bytes],
        sink: Sink | None,
        watcher: Watcher,
        admission: Admission | None = None,
    ) -> None:
        self.character = character
        self.clock = clock
        self.id = random_bytes(ID_SIZE)
        #: Links by the node id of their peer; the one link of a node with a ``--peer`` stands under b"".
        self.links: dict[bytes, Link] = {}
        #: Called with each link that has an input, when it is made.
        self.on_link: Callable[[Link], None] = lambda link: None
        #: Connections that have not finished their handshake.
        self.strangers: dict[Session, Stranger] = {}
        self._random = random_bytes
        self._sink = sink
        self._watcher = watcher
        self._missing = False
        self._finished: list[PeerFacts] = []
        self._admission = admission
        self._limit = StrangerLimit()
        self._log = RateLimitedLog(watcher.tell, clock)
        self._closed: Deferred[None] | None = None
        self._leaving = False
        self._had_link = False

    def start(self) -> None:
        """Make the link of a node that has one peer."""
        if not self.character.hub:
            self._make_link(b"")

    # What leaving depends on ----------------------------------------------------------------------------------------------------

    def facts(self) -> list[PeerFacts]:
        """Of every peer that was ever linked."""
        found = [link.facts() for link in self.links.values()]
        return self._finished + [facts for facts in found if facts is not None]

    @property
    def missing(self) -> bool:
        """Data of some peer is known to be missing."""
        return self._missing or any(link.receiving.broken for link in self.links.values())

    @property
    def linked(self) -> bool:
        """Is a connection to anybody up?"""
        return any(link.linked for link in self.links.values())

    # Company of the links -------------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        self._gone()
        if self.character.hub:
            self._forget_finished()
        self._watcher.changed()

    def tell(self, text: str) -> None:
        self._watcher.tell(text)

    def window(self) -> int:
        return max(1, min(WINDOW, WINDOW_BUDGET // max(1, len(self.links))))

    def fail(self, link: Link, error: MySocketError) -> None:
        if self.character.hub:
            # One sender of many: the others go on, and the status remembers it.
            self._watcher.tell(str(error))
            self._missing = True
            self._watcher.changed()
        else:
            self._watcher.fail(error)

    def _make_link(self, key: bytes) -> Link:
        character = self.character
        first, self._had_link = not self._had_link, True
        hello = Hello(
            node=self.id,
            stream=self._random(ID_SIZE),
            name=character.name,
            # The own input of a hub goes to the first node that comes.
            input=character.input if first or character.all_send else Input.NONE,
            takes=character.takes,
        )
        link = Link(
            clock=self.clock,
            hello=hello,
            spool=MemorySpool(hello.stream),
            sink=self._sink,
            company=self,
            max_message=character.max_message,
        )
        self.links[key] = link
        if link.hello.input is not Input.NONE:
            self.on_link(link)
        return link

    def _forget_finished(self) -> None:
        """A link whose peer said BYE(done) and is gone leaves nothing behind but what the status depends on."""
        for key, link in list(self.links.items()):
            facts = link.facts()
            if facts is not None and facts.progress.name == "DONE" and not link.linked and link.hello.input is Input.NONE:
                self._missing = self._missing or link.receiving.broken
                self._finished = [facts]
                del self.links[key]

    # Owner of strangers ---------------------------------------------------------------------------------------------------------

    def connected(self, carrier: StreamProtocol) -> None:
        if self._leaving:
            carrier.drop()
            return
        if carrier.session.dialler:
            self._receive_stranger(carrier)
            carrier.session.greet(self.links[b""].hello)
            carrier.flush()
            return
        host = host_of(carrier)
        if not self._limit.enter(host):
            self._log.say("limit", f"too many connections that have not said who they are; closed one from {peer_text(carrier)}")
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
        timer = self.clock.callLater(HANDSHAKE_TIME, self._too_slow, carrier)
        self.strangers[carrier.session] = Stranger(carrier, timer)

    def _judged(self, admitted: bool, carrier: StreamProtocol) -> None:
        if carrier.session not in self.strangers:
            return
        if admitted:
            carrier.resume()
            return
        self._log.say(
            source_of(host_of(carrier)),
            f"closed a connection from {peer_text(carrier)}: connections are taken {self._admission}; use --allow to take more",
        )
        self._end_of(carrier, MySocketError("not admitted"))
        carrier.drop()

    def ready(self, session: Session) -> Deferred[None]:
        """Fires when the handshake of a dialled connection is finished; fails with a :class:`MySocketError` if it does not come
        to that."""
        stranger = self.strangers.get(session)
        if stranger is not None:
            return stranger.ready
        if session.is_open and not session.is_over:
            return succeed(None)
        return fail(MySocketError("The connection was lost before a word was said."))

    def event(self, carrier: StreamProtocol, event: Event) -> None:
        if carrier.owner is not self:
            carrier.owner.event(carrier, event)
        elif isinstance(event, Hello):
            self._met(carrier, event)
        elif isinstance(event, Bye):
            self._refused(carrier, event)
        elif isinstance(event, Broken):
            self._broke(carrier, event.error)

    def settle(self) -> None:
        """Strangers are owed nothing."""

    def lost(self, carrier: StreamProtocol, reason: Failure) -> None:
        if carrier.session not in self.strangers:
            return
        if carrier.session.dialler and reason.check(ConnectionDone):
            self._end_of(carrier, ClosedWithoutWord(peer=peer_text(carrier), address=local_text(carrier)))
        else:
            self._end_of(carrier, MySocketError(f"The connection to {peer_text(carrier)} was lost: {reason.getErrorMessage()}"))

    def _too_slow(self, carrier: StreamProtocol) -> None:
        self._end_of(carrier, HandshakeTimeout(peer=peer_text(carrier), seconds=HANDSHAKE_TIME))
        carrier.abort()

    def _end_of(self, carrier: StreamProtocol, error: MySocketError | None) -> None:
        """The handshake is over, well (no error) or not."""
        stranger = self.strangers.pop(carrier.session, None)
        if stranger is None:
            return
        if stranger.timer.active():
            stranger.timer.cancel()
        if not carrier.session.dialler:
            self._limit.leave(host_of(carrier))
        elif error is None:
            stranger.ready.callback(None)
        else:
            stranger.ready.errback(error)
        self._gone()

    def _gone(self) -> None:
        if self._closed is not None and not self.connections:
            closed, self._closed = self._closed, None
            closed.callback(None)

    def _met(self, carrier: StreamProtocol, hello: Hello) -> None:
        text = peer_text(carrier, hello.name)
        link, refusal = self._choose(hello)
        if link is None:
            self._turn_away(carrier, Reason.BUSY, refusal)
            return
        try:
            link.adopt(carrier, hello, text)
        except AnotherPeer as error:
            self._turn_away(carrier, Reason.REFUSED, "messages for another node wait here")
            self._watcher.fail(error)
            return
        self._end_of(carrier, None)
        if carrier.owner is not link:
            return
        link.settle()

    def _choose(self, hello: Hello) -> tuple[Link | None, str]:
        """The link for a node, or why there is none."""
        if self.character.hub:
            known = self.links.get(hello.node)
            if known is not None:
                return known, ""
            return self._make_link(hello.node), ""
        link = self.links[b""]
        if not link.linked or link.peer is None or link.peer.node == hello.node:
            return link, ""
        # A restarted peer whose old connection nobody has seen dead yet, or a stranger: ask the old one whether it is there.
        link.challenge()
        return None, f"this side is linked with {link.peer_text}, and takes one peer (a listener without --peer takes many)"

    def _turn_away(self, carrier: StreamProtocol, reason: Reason, text: str) -> None:
        carrier.close(reason, text)
        self._end_of(carrier, MySocketError(f"turned {peer_text(carrier)} away: {text}"))

    def _refused(self, carrier: StreamProtocol, bye: Bye) -> None:
        text = one_line(bye.text) or f"reason {bye.reason}"
        peer = peer_text(carrier)
        carrier.drop()
        error: MySocketError
        if bye.reason in (Reason.BUSY, Reason.LEFT, Reason.DONE, Reason.SILENT, Reason.PROTOCOL, Reason.MOVED):
            error = MySocketError(f"{peer} does not link now: {text}")
        else:
            error = RefusedByPeer(text, peer=peer)
        self._end_of(carrier, error)
        if isinstance(error, RefusedByPeer) and carrier.session.dialler:
            self._watcher.fail(error)

    def _broke(self, carrier: StreamProtocol, error: MySocketError) -> None:
        if isinstance(error, NotMySocket) and not carrier.session.dialler:
            carrier.write_text(GREETING.encode())
            carrier.drop()
        else:
            carrier.finish()
        self._end_of(carrier, error)
        if isinstance(error, VersionMismatch):
            if carrier.session.dialler:
                self._watcher.fail(error)
            else:
                self._watcher.tell(f"turned {peer_text(carrier)} away: {error}")

    def dismiss(self, link: Link, text: str) -> None:
        """Leave one peer; the others stay."""
        for key, known in list(self.links.items()):
            if known is link:
                del self.links[key]
        link.leave(text)

    # Leaving --------------------------------------------------------------------------------------------------------------------

    def leave(self, text: str) -> None:
        """Say the last word everywhere."""
        self._leaving = True
        for stranger in list(self.strangers.values()):
            stranger.carrier.abort()
        for link in self.links.values():
            link.leave(text)

    def when_closed(self) -> Deferred[None]:
        """Fires when no connection is left."""
        self._closed = Deferred()
        closed = self._closed
        self._gone()
        return closed

    @property
    def connections(self) -> list[StreamProtocol]:
        """All that are up, strangers too."""
        strangers = [stranger.carrier for stranger in self.strangers.values()]
        return [*strangers, *(carrier for link in self.links.values() for carrier in link.connections)]


def peer_text(carrier: StreamProtocol, name: str = "") -> str:
    """The other end of a connection, for people: address, and name if it gave one."""
    address = carrier.connected_to
    text = address_text(address)
    return f"{one_line(name, 64)} ({text})" if name else text


def host_of(carrier: StreamProtocol) -> str | None:
    """The address text of the other end, or None for a Unix socket."""
    host = getattr(carrier.connected_to, "host", None)
    return host if isinstance(host, str) else None


def local_text(carrier: StreamProtocol) -> str:
    """This end of a connection, without the port."""
    host = carrier.connected_from
    return str(getattr(host, "host", address_text(host)))


def address_text(address: object) -> str:
    """An address for people."""
    if isinstance(address, IPv6Address):
        return f"[{address.host}]:{address.port}"
    if isinstance(address, IPv4Address):
        return f"{address.host}:{address.port}"
    name = getattr(address, "name", None)
    if isinstance(name, bytes):
        return f"unix:{one_line(name.decode(errors='replace'))}" if name else "a Unix socket"
    return "the peer"
