"""MySocket for Twisted programs: connect, listen, send, receive. docs/api.md has a complete example.

The promise is that of memory mode: whole, in order, exactly once, over any number of lost connections, while both processes live.
Everything returns a Deferred, which ``async`` functions can await.
"""

from __future__ import annotations

import os
import random
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable
from ipaddress import ip_network
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from mysocket.carriers import build
from mysocket.carriers.admission import LOOPBACK, Admission
from mysocket.carriers.resolve import DaemonResolver
from mysocket.carriers.stream import StreamFactory
from mysocket.core.batch import Batch, split
from mysocket.core.wire import Input
from mysocket.ends.sink import Origin
from mysocket.errors import MySocketError, PeerClosed, UsageError
from mysocket.link import Link
from mysocket.node import Character, Node
from mysocket.peer import Peer
from mysocket.values import is_endpoint, split_host_port

#: The largest message in bytes that is put together, unless said otherwise.
MAX_MESSAGE = 16 * 1024 * 1024

_log = Logger("mysocket")


class Listener:
    """Takes links from any number of nodes. Made by :func:`listen`."""

    def __init__(self, close: Callable[[], Deferred[None]]) -> None:
        #: The ports that are listened on.
        self.ports: list[IListeningPort] = []
        self._close = close
        self._closed = False
        self._peers: deque[Peer] = deque()
        self._waiting: deque[Deferred[Peer]] = deque()

    @property
    def port(self) -> int:
        """The number of the TCP port."""
        return build.port_number(self.ports[0])

    def accept(self) -> Deferred[Peer]:
        """The next node that links; each comes once, however often its connections are lost.

        :return: fails with :class:`~mysocket.errors.PeerClosed` when the listener is closed.
        """
        if self._peers:
            return succeed(self._peers.popleft())
        if self._closed:
            return fail(PeerClosed(peer="this side"))
        waiting: Deferred[Peer] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def __aiter__(self) -> Listener:
        return self

    async def __anext__(self) -> Peer:
        try:
            return await self.accept()
        except PeerClosed:
            raise StopAsyncIteration from None

    def close(self) -> Deferred[None]:
        """Listen no more, and leave every peer."""
        self._closed = True
        waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            one.errback(PeerClosed(peer="this side"))
        return self._close()

    def _got(self, peer: Peer) -> None:
        if self._waiting:
            self._waiting.popleft().callback(peer)
        else:
            self._peers.append(peer)


class _Relations:
    """The sink and watcher of a node whose links are peers of a program."""

    whole = True
    repeats = False
    room = sys.maxsize

    def __init__(self, reactor: Any, *, hub: bool, name: str | None, max_message: int, admission: Admission | None) -> None:
        self.peers: dict[object, Peer] = {}
        self.ports: list[IListeningPort] = []
        self.dialler: Any = None
        self.on_peer: Callable[[Peer], None] = lambda peer: None
        self._max_message = max_message
        self._reactor = reactor
        self._closed: Deferred[None] | None = None
        self._closing: dict[Link, Deferred[None]] = {}
        character = Character(
            name=socket.gethostname() if name is None else name, input=Input.OPEN, hub=hub, all_send=True, max_message=max_message
        )
        self.node = Node(character, clock=reactor, random_bytes=os.urandom, sink=self, watcher=self, admission=admission)
        self.node.on_link = self._got_link
        self.node.on_failure = self._link_failed
        self.node.on_change = self._link_changed
        self.node.on_broken_off = lambda link: self.peers[link].broken_off()

    def _got_link(self, link: Link) -> None:
        peer = Peer(link, lambda: self._close_peer(link))
        self.peers[link] = peer
        self.on_peer(peer)

    def _link_failed(self, link: Link, error: MySocketError) -> None:
        if link in self.peers:
            self.peers[link].fail(error)
            # An error ends the relation: nothing is to be gained by linking again.
            self._close_peer(link)

    # Sink

    def write(self, block: Batch, origin: Origin) -> None:
        """Hand the messages of a block to the peer they came from."""
        messages = list(split(block, self._max_message))
        if origin in self.peers:
            self.peers[origin].take(block, messages)

    def agreed(self, *, cut: bool) -> None:
        """What a program has taken cannot be taken back."""

    # Watcher

    def changed(self) -> None:
        """Nothing here depends on all the links together."""

    def _link_changed(self, link: Link) -> None:
        if link in self.peers:
            self.peers[link].changed()
        closed = self._closing.get(link)
        if closed is not None and not link.connections and self.peers.pop(link, None) is not None:
            del self._closing[link]
            closed.callback(None)

    def tell(self, text: str) -> None:
        _log.info("{text}", text=text)

    def report(self, error: MySocketError) -> None:
        """An attempt to connect failed, and will be made again."""
        _log.debug("{error}", error=error)

    def fail(self, error: MySocketError) -> None:
        for peer in list(self.peers.values()):
            peer.fail(error)
        if not self.node.character.hub:
            self.close()

    def _close_peer(self, link: Link) -> Deferred[None]:
        if not self.node.character.hub:
            return self.close()
        peer = self.peers.get(link)
        if peer is None:
            return succeed(None)
        if link not in self._closing:
            self._closing[link] = Deferred()
            self.node.dismiss(link, "it was closed")
            peer.fail(PeerClosed(peer="this side"))
        closed = self._closing[link]
        self._link_changed(link)
        return closed

    def close(self) -> Deferred[None]:
        """Say the last word everywhere, and stop."""
        if self._closed is not None:
            return self._closed
        self._closed = closed = Deferred[None]()
        for port in self.ports:
            port.stopListening()
        self.node.leave("it was closed")
        self.node.when_closed().addCallback(self._all_closed, closed)
        return closed

    def _all_closed(self, _: None, closed: Deferred[None]) -> None:
        if self.dialler is not None:
            self.dialler.stopService()
        for peer in list(self.peers.values()):
            peer.fail(PeerClosed(peer="this side"))
        closed.callback(None)


def connect(
    reactor: Any, peer: str, *, name: str | None = None, max_message: int = MAX_MESSAGE, bind: str | None = None
) -> Deferred[Peer]:
    """Dial ``peer`` (``host:port``, ``[v6]:port`` or a Twisted client endpoint string) until it is there.

    :param name: what this node is called on the other side; the host's name unless given.
    :param max_message: the largest message in bytes that is taken.
    :param bind: the local address to dial from.
    :return: fires when the handshake is finished; cancel it to give up. Fails with :class:`~mysocket.errors.RefusedByPeer` or
        :class:`~mysocket.errors.VersionMismatch`.
    :raises UsageError: ``peer`` is no address.
    """
    relations = _Relations(reactor, hub=False, name=name, max_message=max_message, admission=None)
    if is_endpoint(peer):
        endpoint = build.client_endpoint(reactor, peer)
    else:
        host, port = split_host_port(peer)
        endpoint = build.host_endpoint(reactor, host, port, bind)
    relations.node.start()
    relations.dialler = build.dialler(
        reactor,
        endpoint,
        peer,
        StreamFactory(dialler=True, clock=reactor, owner=relations.node.strangers),
        prepare=lambda protocol: relations.node.strangers.ready(protocol.session),
        report=relations.report,
        random=random.random,
    )
    relations.dialler.startService()
    [found] = relations.peers.values()
    return found.when_linked()


def listen(
    reactor: Any,
    port: str = "0",
    *,
    bind: str | None = None,
    allow: Iterable[str] = (),
    name: str | None = None,
    max_message: int = MAX_MESSAGE,
) -> Deferred[Listener]:
    """Listen on ``port`` (a number, 0 for any, or a Twisted server endpoint string).

    :param bind: the local address to listen on.
    :param allow: networks (``10.0.0.0/8``) that may connect, besides this machine.
    :return: fails with :class:`~mysocket.errors.PortTaken` or :class:`~mysocket.errors.CannotListen`.
    :raises UsageError: ``port`` or ``allow`` makes no sense.
    """
    if not is_endpoint(port, listening=True) and not (port.isdecimal() and int(port) < 65536):
        raise UsageError(f"port {port!r} is neither a number up to 65535 nor an endpoint string")
    try:
        networks = [*LOOPBACK, *(ip_network(text, strict=False) for text in allow)]
    except ValueError as problem:
        raise UsageError(str(problem)) from None
    admission = Admission(networks, (), resolver=DaemonResolver(reactor), clock=reactor)
    relations = _Relations(reactor, hub=True, name=name, max_message=max_message, admission=admission)
    listener = Listener(relations.close)
    relations.on_peer = listener._got
    factory = StreamFactory(dialler=False, clock=reactor, owner=relations.node.strangers)

    async def start() -> Listener:
        if is_endpoint(port, listening=True):
            relations.ports = await build.listen_endpoint(reactor, port, factory)
        else:
            relations.ports = await build.listen_port(reactor, int(port), build.interfaces(bind, None), factory)
        listener.ports = relations.ports
        return listener

    return Deferred.fromCoroutine(start())
