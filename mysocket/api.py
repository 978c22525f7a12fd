"""MySocket for Twisted programs: connect, listen, send, receive. docs/api.md has a complete example.

The promise is that of memory mode: whole, in order, exactly once, over any number of lost connections, while both processes live.
Everything returns a Deferred, which ``async`` functions can await.
"""

from __future__ import annotations

import os
import random
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from mysocket.carriers import build
from mysocket.carriers.admission import LOOPBACK, Admission
from mysocket.carriers.resolve import DaemonResolver
from mysocket.carriers.stream import StreamFactory
from mysocket.core.batch import MAX_PAYLOAD, Batch, Flag, Kind, Message, Piece, split
from mysocket.core.ending import Progress
from mysocket.core.wire import Input
from mysocket.ends.sink import Origin
from mysocket.errors import BrokenOff, LocalProtocolError, MySocketError, PeerClosed, UsageError
from mysocket.link import Link
from mysocket.node import Character, Node
from mysocket.options import is_endpoint, split_host_port

#: The largest message in bytes that is put together, unless said otherwise.
MAX_MESSAGE = 16 * 1024 * 1024

_log = Logger("mysocket")


class Peer:
    """The relation to one other node. It outlives connections: when one is lost, another is made or waited for.

    Made by :func:`connect` and :meth:`Listener.accept`.
    """

    def __init__(self, link: Link, node: Node, close: Callable[[], Deferred[None]]) -> None:
        self._link = link
        self._node = node
        self._close = close
        self._unsent: deque[tuple[list[Piece], Deferred[None]]] = deque()
        self._sent: deque[tuple[int, Deferred[None]]] = deque()
        self._blocks: deque[tuple[deque[Message], int]] = deque()  # messages of each batch, and where it ends
        self._readers: deque[Deferred[Message]] = deque()
        self._error: MySocketError | None = None
        self._finishing = False
        self._linked: Deferred[Peer] | None = None
        link.sending.on_room = self._flush
        link.sending.on_acknowledged = self._acknowledged

    @property
    def name(self) -> str:
        """The peer's name and address, for people."""
        return self._link.peer_text

    @property
    def is_linked(self) -> bool:
        """Is a connection up at this moment?"""
        return self._link.linked

    @property
    def unacknowledged(self) -> int:
        """Bytes that were given to :meth:`send` and are not acknowledged."""
        waiting = sum(len(piece.payload) for pieces, _ in self._unsent for piece in pieces)
        return self._link.sending.undelivered + waiting

    def send(self, message: bytes) -> Deferred[None]:
        """Send one message of any bytes and any length.

        :return: fires when the peer has acknowledged it: a program has taken it, or a command has written it. Fails with the
            :class:`~mysocket.errors.MySocketError` that ends the relation. Waiting for it bounds what is held in memory.
        """
        if self._error is not None:
            return fail(self._error)
        if self._finishing:
            raise LocalProtocolError("send() after finish()")
        done: Deferred[None] = Deferred()
        self._unsent.append((_pieces(message), done))
        self._flush()
        return done

    def receive(self) -> Deferred[Message]:
        """The next message. It counts as received when this fires, and is acknowledged with the last message of its batch; what
        a program sends is a batch of its own.

        :return: fails with :class:`~mysocket.errors.PeerClosed` when the peer has finished and nothing is left, with
            :class:`~mysocket.errors.BrokenOff` when it left without finishing, or with the error that ends the relation.
        """
        reader: Deferred[Message] = Deferred(self._forget_reader)
        self._readers.append(reader)
        self._deliver()
        return reader

    def __aiter__(self) -> Peer:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except PeerClosed:
            raise StopAsyncIteration from None

    def finish(self) -> Deferred[None]:
        """Say that nothing more will be sent; :meth:`receive` goes on.

        :return: fires when all that was sent is acknowledged; fails as :meth:`send` does.
        """
        if self._error is not None:
            return fail(self._error)
        self._finishing = True
        done: Deferred[None] = Deferred()
        self._unsent.append(([], done))
        self._flush()
        return done

    def close(self) -> Deferred[None]:
        """Leave. What is not acknowledged is given up; wait for :meth:`send` or :meth:`finish` first to give up nothing."""
        return self._close()

    # What happens ---------------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        while self._unsent and self._link.room > 0:
            pieces, done = self._unsent.popleft()
            if pieces:
                self._sent.append((self._link.accept(pieces), done))
            else:
                self._link.end_input()
                self._sent.append((self._link.sending.spool.end, done))
        self._acknowledged(self._link.sending.spool.retired)

    def _acknowledged(self, position: int) -> None:
        while self._sent and self._sent[0][0] <= position:
            self._sent.popleft()[1].callback(None)

    def _take(self, block: Batch, messages: Sequence[Message]) -> None:
        # Acknowledged are whole batches: with the last message of each, and an end mark with what is before it.
        self._blocks.append((deque(messages), block.end))
        self._deliver()

    def _deliver(self) -> None:
        while self._blocks:
            messages, end = self._blocks[0]
            if messages and not self._readers:
                return
            reader = self._readers.popleft() if messages else None
            message = messages.popleft() if messages else None
            if not messages:
                self._blocks.popleft()
                self._link.written(end)
            if reader is not None and message is not None:
                reader.callback(message)
        self._check_end()

    def _check_end(self) -> None:
        facts = self._link.facts()
        error = self._error
        if error is None and facts is not None:
            if facts.progress is Progress.DONE:
                error = PeerClosed(peer=self._link.peer_text)
            elif facts.progress is Progress.BROKEN:
                error = BrokenOff(peer=self._link.peer_text)
        if error is None or self._blocks:
            return
        readers, self._readers = self._readers, deque()
        for reader in readers:
            reader.errback(error)

    def _forget_reader(self, reader: Deferred[Message]) -> None:
        if reader in self._readers:
            self._readers.remove(reader)

    def _changed(self) -> None:
        if self._linked is not None and self._link.linked:
            linked, self._linked = self._linked, None
            linked.callback(self)
        self._check_end()

    def _fail(self, error: MySocketError) -> None:
        if self._error is not None:
            return
        self._error = error
        waiting = [done for _, done in self._sent] + [done for _, done in self._unsent]
        self._sent.clear()
        self._unsent.clear()
        for done in waiting:
            done.errback(error)
        if self._linked is not None:
            linked, self._linked = self._linked, None
            linked.errback(error)
        self._check_end()

    def _give_up(self) -> None:
        # Deferred.cancel() itself fails who waits.
        self._linked = None
        self._close()

    def _when_linked(self) -> Deferred[Peer]:
        if self._link.linked:
            return succeed(self)
        self._linked = Deferred(lambda _: self._give_up())
        return self._linked


class Listener:
    """Takes links from any number of nodes. Made by :func:`listen`."""

    def __init__(self, close: Callable[[], Deferred[None]]) -> None:
        #: The ports that are listened on.
        self.ports: list[IListeningPort] = []
        self._close = close
        self._peers: deque[Peer] = deque()
        self._waiting: deque[Deferred[Peer]] = deque()

    @property
    def port(self) -> int:
        """The number of the TCP port."""
        return build.port_number(self.ports[0])

    def accept(self) -> Deferred[Peer]:
        """The next node that links; each comes once, however often its connections are lost."""
        if self._peers:
            return succeed(self._peers.popleft())
        waiting: Deferred[Peer] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def close(self) -> Deferred[None]:
        """Listen no more, and leave every peer."""
        return self._close()

    def _got(self, peer: Peer) -> None:
        if self._waiting:
            self._waiting.popleft().callback(peer)
        else:
            self._peers.append(peer)


class _Relations:
    """The sink and watcher of a node whose links are peers of a program."""

    whole = True

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

    def _got_link(self, link: Link) -> None:
        peer = Peer(link, self.node, lambda: self._close_peer(link))
        self.peers[link] = peer
        self.on_peer(peer)

    def _link_failed(self, link: Link, error: MySocketError) -> None:
        if link in self.peers:
            self.peers[link]._fail(error)
            # An error ends the relation: nothing is to be gained by linking again.
            self._close_peer(link)

    # Sink

    def write(self, block: Batch, origin: Origin) -> None:
        """Hand the messages of a block to the peer they came from."""
        self.peers[origin]._take(block, list(split(block, self._max_message)))

    # Watcher

    def changed(self) -> None:
        for peer in list(self.peers.values()):
            peer._changed()
        for link, closed in list(self._closing.items()):
            if not link.connections and self.peers.pop(link, None) is not None:
                closed.callback(None)

    def tell(self, text: str) -> None:
        _log.info("{text}", text=text)

    def report(self, error: MySocketError) -> None:
        """An attempt to connect failed, and will be made again."""
        _log.debug("{error}", error=error)

    def fail(self, error: MySocketError) -> None:
        for peer in list(self.peers.values()):
            peer._fail(error)
        if not self.node.character.hub:
            self.close()

    def _close_peer(self, link: Link) -> Deferred[None]:
        if not self.node.character.hub:
            return self.close()
        peer = self.peers[link]
        if link not in self._closing:
            self._closing[link] = Deferred()
            self.node.dismiss(link, "it was closed")
            peer._fail(PeerClosed(peer="this side"))
        closed = self._closing[link]
        self.changed()
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
            peer._fail(PeerClosed(peer="this side"))
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
    return found._when_linked()


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


def _pieces(message: bytes) -> list[Piece]:
    """One message as pieces: as a line if it holds no newline, so that the other side may show it as one."""
    kind = Kind.BLOB
    if b"\n" not in message:
        kind, message = Kind.LINES, message + b"\n"
    parts = [message[at : at + MAX_PAYLOAD] for at in range(0, len(message), MAX_PAYLOAD)]
    return [Piece(kind, Flag.MORE, part) for part in parts[:-1]] + [Piece(kind, 0, parts[-1])]
