"""A network in memory: nodes on a `task.Clock`, connections that can be cut at any byte, each side noticing at its own time.

The nodes, links, sessions and protocols are the real ones; only transports are replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from mysocket.carriers.stream import StreamProtocol
from mysocket.core.batch import Batch
from mysocket.core.ending import PeerFacts
from mysocket.core.session import Heartbeat
from mysocket.core.wire import Input
from mysocket.errors import MySocketError
from mysocket.link import Link
from mysocket.node import Character, Node


class Wire:
    """One side's transport, and the bytes on their way to it."""

    def __init__(self, connection: Connection, index: int) -> None:
        self.connection = connection
        self.index = index
        self.incoming = bytearray()
        self.protocol: StreamProtocol | None = None
        self.open = True
        self.eof_sent = False
        self.paused = False
        self.producer: Any = None
        self.peak = 0

    @property
    def other(self) -> Wire:
        return self.connection.wires[1 - self.index]

    # ITransport, as far as it is used

    def write(self, data: bytes) -> None:
        if self.open and self.connection.whole and self.other.open:
            self.other.incoming += data
            self.other.peak = max(self.other.peak, len(self.other.incoming))

    def writeSequence(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert not streaming
        self.producer = producer
        producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseWriteConnection(self) -> None:
        self.eof_sent = True

    def loseConnection(self) -> None:
        self.eof_sent = True
        self.die(ConnectionDone())

    def abortConnection(self) -> None:
        self.connection.whole = False
        self.die(ConnectionLost())

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 1 + self.other.index)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 1 + self.index)

    # What the network does

    def drained(self) -> None:
        """The socket has taken what was queued."""
        if self.producer is not None:
            self.producer.resumeProducing()

    def deliver(self, count: int) -> int:
        """Hand over up to `count` bytes; how many there were."""
        data = bytes(self.incoming[: max(0, count)])
        if not data or not self.open or self.paused:
            return 0
        del self.incoming[: len(data)]
        assert self.protocol is not None
        self.protocol.dataReceived(data)
        self.other.drained()
        return len(data)

    def notice(self) -> bool:
        """See that the connection is cut, or that the other side has ended its half; True if there was something to see."""
        if not self.open:
            return False
        if not self.connection.whole:
            self.die(ConnectionLost())
            return True
        if (self.other.eof_sent or not self.other.open) and not self.incoming:
            self.die(ConnectionDone())
            return True
        return False

    def die(self, reason: Exception) -> None:
        if self.open:
            self.open = False
            self.incoming.clear()
            assert self.protocol is not None
            self.protocol.connectionLost(Failure(reason))


class Connection:
    """Two wires. Wire 0 is the dialler's."""

    def __init__(self, dialler: Person, acceptor: Person) -> None:
        self.whole = True
        self.wires = [Wire(self, 0), Wire(self, 1)]
        for wire, person in zip(self.wires, (dialler, acceptor), strict=True):
            wire.protocol = person.protocol(dialler=wire.index == 0)
        for wire in reversed(self.wires):
            assert wire.protocol is not None
            wire.protocol.makeConnection(wire)  # type: ignore[arg-type]
        assert self.wires[0].protocol is not None
        dialler.node.strangers.ready(self.wires[0].protocol.session).addErrback(lambda failure: None)

    @property
    def dead(self) -> bool:
        return not self.wires[0].open and not self.wires[1].open

    def cut(self) -> None:
        """The path is gone, with what was on it."""
        self.whole = False
        for wire in self.wires:
            wire.incoming.clear()


class SlowSink:
    """Collects what arrives; says so at once, or only when asked to."""

    repeats = True
    room = 2**40

    def __init__(self, *, whole: bool = False) -> None:
        self.whole = whole
        self.output = bytearray()
        self.blocks: list[Batch] = []
        self.slow = False
        self._waiting: list[Callable[[], None]] = []

    def write(self, block: Batch, origin: Link) -> None:
        self.blocks.append(block)
        if block.kind != 3:
            self.output += block.payload
        if self.slow:
            self._waiting.append(lambda: origin.written(block.end))
        else:
            self.drain()
            origin.written(block.end)

    def agreed(self, *, cut: bool) -> None:
        """What is collected stays."""

    def drain(self, count: int | None = None) -> None:
        """The output has taken the first `count` of what waits for it, or all."""
        for _ in range(len(self._waiting) if count is None else min(count, len(self._waiting))):
            self._waiting.pop(0)()


class Person:
    """One node, with an input one can type into and an output one can read."""

    def __init__(
        self,
        clock: Clock,
        seed: int,
        *,
        name: str = "",
        input: Input = Input.FINITE,
        hub: bool = False,
        handed: bool = False,
        takes: bool = True,
        whole: bool = False,
        heartbeat: Heartbeat = Heartbeat(),
        max_message: int = 2**24,
        files: bool = False,
    ) -> None:
        self.clock = clock
        self.said: list[str] = []
        self.errors: list[MySocketError] = []
        self.sink = SlowSink(whole=whole)
        character = Character(
            name=name,
            input=input,
            hub=hub,
            handed=handed,
            takes=takes,
            heartbeat=heartbeat,
            max_message=max_message,
            files=files,
        )
        self.node = Node(
            character, clock=clock, random_bytes=Random(seed).randbytes, sink=self.sink if takes else None, watcher=self
        )
        self.input: Link | None = None
        self.node.on_link = self._got_link
        self.given = bytearray()
        self.node.start()

    def _got_link(self, link: Link) -> None:
        self.input = link

    @property
    def link(self) -> Link:
        """The one link."""
        [link] = self.node.links.values()
        return link

    def protocol(self, *, dialler: bool) -> StreamProtocol:
        return StreamProtocol(
            dialler=dialler, clock=self.clock, owner=self.node.strangers, heartbeat=self.node.character.heartbeat
        )

    def facts(self) -> PeerFacts:
        [facts] = self.node
        return facts

    def changed(self) -> None:
        pass

    def tell(self, text: str) -> None:
        self.said.append(text)

    def fail(self, error: MySocketError) -> None:
        self.errors.append(error)


def run(*connections: Connection, chunk: int = 2**30) -> None:
    """Deliver everything, in chunks of `chunk` bytes, until nothing moves."""
    moved = True
    while moved:
        wires = [wire for connection in connections for wire in connection.wires]
        moved = sum(wire.deliver(chunk) for wire in wires) > 0
        moved = sum(wire.notice() for wire in wires) > 0 or moved
