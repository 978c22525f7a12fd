"""The API for programs: over sockets with the real reactor, and over the network in memory where every moment counts."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor as installed
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from mysocket.api import Listener, _Relations, connect, listen
from mysocket.carriers.stream import StreamProtocol
from mysocket.core.batch import LineCutter, Message
from mysocket.core.wire import MAGIC, Bye, Frame, Hello, Reason, encode
from mysocket.errors import MySocketError, PeerClosed, PortTaken, RefusedByPeer, UsageError, VersionMismatch
from mysocket.peer import Peer
from tests.support.network import Connection, Person, run

reactor: Any = installed

#: Seconds that only a test that hangs meets.
DEADLINE = 60
ODD = [b"", b"\n", b"one\ntwo", b"line\n", b"\0", b"a\0b", b"\xff\xfe\x80", b"\r\n", bytes(2**20), b"x" * 262143, b"\n" * 262145]
MESSAGES = st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(ODD)), max_size=6)


def soon(awaited: Deferred[Any]) -> Deferred[Any]:
    return awaited.addTimeout(DEADLINE, reactor)


async def turns(enough: Callable[[], bool]) -> bool:
    """Let the reactor turn until it is enough; False if it never is."""
    for _ in range(200):
        if enough():
            return True
        await deferLater(reactor, 0)
    return enough()


def held() -> tuple[int, int, int]:
    """What the reactor watches, what it will call, and the sockets of this process."""
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    sockets = sum(os.path.islink(link) and os.readlink(link).startswith("socket:") for link in links)
    return len(reactor.getReaders()) + len(reactor.getWriters()), len(reactor.getDelayedCalls()), sockets


@asynccontextmanager
async def clean() -> AsyncIterator[None]:
    """When it is over the reactor has nothing that it had not before."""
    before = held()
    yield
    assert await turns(lambda: held() == before), f"{before} before, {held()} now: {reactor.getDelayedCalls()}"


@asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[Listener]:
    async with clean():
        listener = await listen(reactor, "0", **options)
        try:
            yield listener
        finally:
            await soon(listener.close())


@asynccontextmanager
async def linked(**options: Any) -> AsyncIterator[tuple[Peer, Peer]]:
    """Two programs: the one that dialled, and the one that listens."""
    async with listening(**options) as listener:
        dialled = await soon(connect(reactor, f"127.0.0.1:{listener.port}"))
        try:
            yield dialled, await soon(listener.accept())
        finally:
            await soon(dialled.close())


# Over sockets -------------------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_messages_go_both_ways() -> None:
    async with linked() as (here, there):
        for sender, receiver in ((here, there), (there, here)):
            sent = gatherResults([sender.send(message) for message in ODD])
            received = [await soon(receiver.receive()) for _ in ODD]
            assert [message.payload for message in received] == ODD
            await soon(sent)
            assert sender.unacknowledged == 0


@pytest_twisted.ensureDeferred
async def test_finish_ends_the_iteration_of_the_other_side_and_no_more() -> None:
    async with linked() as (here, there):
        sent = gatherResults([here.send(b"one"), here.send(b"two"), here.finish()])

        async def iterate() -> list[bytes]:
            return [message.payload async for message in there]

        assert await soon(Deferred.fromCoroutine(iterate())) == [b"one", b"two"]
        await soon(sent)
        back = there.send(b"thank you")
        assert (await soon(here.receive())).payload == b"thank you"
        await soon(back)


@pytest_twisted.ensureDeferred
async def test_closing_one_peer_leaves_the_others_of_a_listener() -> None:
    async with listening() as listener:
        dialled, accepted = [], []
        for name in ("a", "b", "c"):
            dialled.append(await soon(connect(reactor, f"127.0.0.1:{listener.port}", name=name)))
            accepted.append(await soon(listener.accept()))
        assert [peer.name.partition(" ")[0] for peer in accepted] == ["a", "b", "c"]
        left = gatherResults([dialled[1].close(), accepted[1].close()])
        await soon(left)
        for number in (0, 2):
            sent = gatherResults([accepted[number].send(b"still"), dialled[number].send(b"here")])
            assert (await soon(dialled[number].receive())).payload == b"still"
            assert (await soon(accepted[number].receive())).payload == b"here"
            await soon(sent)
        await soon(gatherResults([dialled[0].close(), dialled[2].close()]))


@pytest_twisted.ensureDeferred
async def test_connect_waits_for_a_listener_that_comes_later() -> None:
    async with listening() as early:
        port = early.port
    async with clean():
        waiting = connect(reactor, f"127.0.0.1:{port}")
        listener = await listen(reactor, str(port))
        peer = await soon(waiting)
        assert peer.is_linked
        await soon(peer.close())
        await soon(listener.close())


@pytest_twisted.ensureDeferred
async def test_connections_that_are_cut_lose_and_repeat_nothing() -> None:
    """Every tenth message costs the connection, at one side or the other."""
    messages = [b"%d " % number * 9000 for number in range(100)]
    async with linked() as (here, there):
        sent = gatherResults([here.send(message) for message in messages])
        received: list[bytes] = []
        while len(received) < len(messages):
            received.append((await soon(there.receive())).payload)
            if len(received) % 10 == 5:
                victim = (here, there)[len(received) // 10 % 2]
                for carrier in victim._link.connections:
                    carrier.abort()
        assert received == messages
        await soon(sent)


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken_says_so() -> None:
    async with listening() as listener:
        with pytest.raises(PortTaken, match=f"{listener.port}.*choose another") as caught:
            await listen(reactor, str(listener.port))
        assert caught.value.status == 2


@pytest_twisted.ensureDeferred
async def test_unix_sockets_work_by_endpoint_strings(tmp_path: Any) -> None:
    async with clean():
        listener = await listen(reactor, f"unix:{tmp_path}/s")
        peer = await soon(connect(reactor, f"unix:{tmp_path}/s"))
        accepted = await soon(listener.accept())
        sent = peer.send(b"hello")
        assert (await soon(accepted.receive())).payload == b"hello"
        await soon(sent)
        await soon(peer.close())
        await soon(listener.close())


@pytest_twisted.ensureDeferred
async def test_a_connect_that_is_cancelled_in_the_handshake_leaves_nothing() -> None:
    async with clean():
        accepted: Deferred[None] = Deferred()
        gone: Deferred[None] = Deferred()

        class Silent(Protocol):
            def connectionMade(self) -> None:
                accepted.callback(None)

            def connectionLost(self, reason: object = None) -> None:
                gone.callback(None)

        port = reactor.listenTCP(0, Factory.forProtocol(Silent), interface="127.0.0.1")
        waiting = connect(reactor, f"127.0.0.1:{port.getHost().port}")
        await soon(accepted)
        waiting.cancel()
        try:
            with pytest.raises(CancelledError):
                await soon(waiting)
            await soon(gone)
        finally:
            await port.stopListening()


def test_an_address_that_is_none_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        connect(Clock(), "nowhere")


# What a dialler meets, attempt by attempt ---------------------------------------------------------------------------------------


class Dialling:
    """A reactor in memory whose connections end at the test."""

    def __init__(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        self.outcome: list[Any] = []
        self.waiting = connect(self.reactor, "tcp:192.0.2.1:9000")
        self.waiting.addBoth(self.outcome.append)

    @property
    def attempts(self) -> int:
        return len(self.reactor.tcpClients)

    def answer(self, *frames: Frame) -> None:
        """Accept the last attempt, say this, and close."""
        protocol = self.reactor.tcpClients[-1][2].buildProtocol(None)
        transport = StringTransport()
        transport.abortConnection = transport.loseConnection
        transport.loseWriteConnection = transport.loseConnection
        protocol.makeConnection(transport)
        protocol.dataReceived(MAGIC + b"".join(map(encode, frames)))
        protocol.connectionLost(Failure(ConnectionDone()))

    def refuse(self) -> None:
        """Nothing listens there."""
        self.reactor.tcpClients[-1][2].clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    @property
    def error(self) -> BaseException:
        [failure] = self.outcome
        found: BaseException = failure.value
        return found


OTHER_VERSION = Hello(versions=(9,), node=b"n" * 16, stream=b"s" * 16)


@pytest.mark.parametrize(
    ("answer", "kind"), [(OTHER_VERSION, VersionMismatch), (Bye(Reason.VERSION, "this side speaks version 9"), RefusedByPeer)]
)
def test_another_version_ends_connect_with_the_reason(answer: Frame, kind: type[MySocketError]) -> None:
    dialling = Dialling()
    dialling.answer(answer)
    assert isinstance(dialling.error, kind) and "version 9" in str(dialling.error)


@pytest.mark.parametrize("answer", [OTHER_VERSION, Bye(Reason.REFUSED, "not you")])
def test_a_connect_that_has_failed_dials_no_more(answer: Frame) -> None:
    """Who called it has nothing in hand with which to stop it."""
    dialling = Dialling()
    dialling.answer(answer)
    assert isinstance(dialling.error, MySocketError)
    for _ in range(30):
        dialling.reactor.advance(1)
    assert dialling.attempts == 1 and not dialling.reactor.getDelayedCalls()


def test_connect_tries_again_until_somebody_is_there() -> None:
    dialling = Dialling()
    for attempt in range(1, 6):
        assert dialling.attempts == attempt
        dialling.refuse()
        dialling.reactor.pump([0.1] * 110)
    assert not dialling.outcome
    dialling.waiting.cancel()


@pytest.mark.parametrize("refused", [False, True], ids=["while connecting", "between attempts"])
def test_a_connect_that_is_cancelled_stops(refused: bool) -> None:
    dialling = Dialling()
    if refused:
        dialling.refuse()
    dialling.waiting.cancel()
    attempts = dialling.attempts
    for _ in range(30):
        dialling.reactor.advance(1)
    assert dialling.attempts == attempts and not dialling.reactor.getDelayedCalls()
    assert isinstance(dialling.error, CancelledError)


# Over the network in memory -----------------------------------------------------------------------------------------------------


class Program:
    """A program with a node of its own."""

    def __init__(self, clock: Clock, *, hub: bool, max_message: int = 2**24) -> None:
        self.relations = _Relations(clock, hub=hub, name="program", max_message=max_message, admission=None)
        self.node = self.relations.node
        self.node.start()

    def protocol(self, *, dialler: bool) -> StreamProtocol:
        return StreamProtocol(dialler=dialler, clock=self.relations.node.clock, owner=self.relations.node.strangers)

    @property
    def peer(self) -> Peer:
        [peer] = self.relations.peers.values()
        return peer


class Pair:
    """A program that dials and one that listens, with a connection between them."""

    def __init__(self, dialler: Any = None, listener: Any = None, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.dialler = dialler or Program(self.clock, hub=False)
        self.listener = listener or Program(self.clock, hub=True)
        self.connection = Connection(self.dialler, self.listener)
        run(self.connection)

    def pass_time(self) -> None:
        """Everything arrives, and acknowledgements that waited go out."""
        for _ in range(4):
            run(self.connection)
            self.clock.advance(0.03)
        run(self.connection)


@pytest.fixture
def pair() -> Iterator[Pair]:
    yield Pair()


def collect(peer: Peer, count: int) -> list[bytes]:
    """The next messages, as far as they are there."""
    found: list[bytes] = []
    for _ in range(count):
        peer.receive().addCallback(lambda message: found.append(message.payload))
    return found


@given(there=MESSAGES, back=MESSAGES)
def test_whatever_is_sent_is_received_in_order(there: list[bytes], back: list[bytes]) -> None:
    """Any bytes, both ways at once; every send is acknowledged."""
    pair = Pair()
    sides = ((pair.dialler.peer, pair.listener.peer, there), (pair.listener.peer, pair.dialler.peer, back))
    done = [sender.send(message) for sender, _, messages in sides for message in messages]
    found = [collect(receiver, len(messages)) for _, receiver, messages in sides]
    pair.pass_time()
    assert found == [there, back]
    assert all(deferred.called for deferred in done)


def test_send_fires_only_when_the_other_program_has_received(pair: Pair) -> None:
    first, second = pair.dialler.peer.send(b"one"), pair.dialler.peer.send(b"two")
    pair.pass_time()
    assert not first.called and pair.dialler.peer.unacknowledged == 8
    assert collect(pair.listener.peer, 1) == [b"one"]
    pair.pass_time()
    assert first.called and not second.called and pair.dialler.peer.unacknowledged == 4
    assert collect(pair.listener.peer, 1) == [b"two"]
    pair.pass_time()
    assert second.called and pair.dialler.peer.unacknowledged == 0


def test_finish_fires_only_when_all_was_received(pair: Pair) -> None:
    pair.dialler.peer.send(b"one")
    finished = pair.dialler.peer.finish()
    pair.pass_time()
    assert not finished.called
    collect(pair.listener.peer, 1)
    pair.pass_time()
    assert finished.called


def test_what_was_sent_before_a_connection_stands_is_delivered() -> None:
    clock = Clock()
    dialler = Program(clock, hub=False)
    sent = dialler.peer.send(b"early")
    pair = Pair(dialler, clock=clock)
    assert collect(pair.listener.peer, 1) == [b"early"]
    pair.pass_time()
    assert sent.called


def test_more_than_there_is_room_for_waits_its_turn(pair: Pair) -> None:
    messages = [bytes([number]) * 2**20 for number in range(20)]
    done = [pair.dialler.peer.send(message) for message in messages]
    # It waits in the peer, not in the link, which holds a window and a message at most.
    assert -(2**20) <= pair.dialler.peer._link.room <= 0 and pair.dialler.peer.unacknowledged >= 20 * 2**20
    found = collect(pair.listener.peer, len(messages))
    for _ in range(20):
        pair.pass_time()
    assert found == messages and all(deferred.called for deferred in done)


def test_a_message_taken_from_a_batch_of_several_is_acknowledged_without_trouble() -> None:
    """A command sends many lines in one batch; the program takes them one by one, and slowly."""
    clock = Clock()
    sender = Person(clock, 7)
    pair = Pair(sender, clock=clock)
    assert sender.input is not None
    sender.input.accept(LineCutter().feed(b"one\ntwo\nthree\n"))
    pair.pass_time()
    found: list[bytes] = []
    for _ in range(3):
        pair.listener.peer.receive().addCallback(lambda message: found.append(message.payload))
        pair.pass_time()
        assert not pair.connection.dead and not [text for text in sender.said if "protocol" in text]
    assert found == [b"one", b"two", b"three"] and sender.link.sending.undelivered == 0


def test_a_receive_that_is_cancelled_takes_no_message(pair: Pair) -> None:
    outcome: list[Any] = []
    reading = pair.listener.peer.receive().addErrback(outcome.append)
    reading.cancel()
    assert outcome[0].check(CancelledError)
    pair.dialler.peer.send(b"one")
    pair.pass_time()
    assert collect(pair.listener.peer, 1) == [b"one"]


def test_after_the_end_receive_fails_with_peer_closed(pair: Pair) -> None:
    outcome: list[Any] = []
    pair.listener.peer.receive().addBoth(outcome.append)
    pair.dialler.peer.finish()
    pair.pass_time()
    pair.listener.peer.receive().addBoth(outcome.append)
    assert [failure.check(PeerClosed) for failure in outcome] == [PeerClosed, PeerClosed]


def test_closing_fails_what_was_not_acknowledged(pair: Pair) -> None:
    outcome: list[Any] = []
    pair.dialler.peer.send(b"one").addErrback(outcome.append)
    pair.dialler.peer.receive().addErrback(outcome.append)
    closed = pair.dialler.peer.close()
    pair.pass_time()
    assert closed.called and all(failure.check(PeerClosed) for failure in outcome) and len(outcome) == 2
    pair.dialler.peer.send(b"late").addErrback(outcome.append)
    assert outcome[2].check(PeerClosed)


def test_a_message_the_other_program_does_not_put_together_fails_its_send() -> None:
    clock = Clock()
    pair = Pair(listener=Program(clock, hub=True, max_message=1000), clock=clock)
    outcome: list[Any] = []
    pair.dialler.peer.send(b"short").addErrback(outcome.append)
    collect(pair.listener.peer, 1)
    pair.dialler.peer.send(b"x" * 1001).addErrback(outcome.append)
    pair.pass_time()
    [failure] = outcome
    assert failure.check(RefusedByPeer) and "--max-message" in str(failure.value)


def test_a_message_has_its_position(pair: Pair) -> None:
    found: list[Message] = []
    for payload in (b"", b"a\nb", b"xyz"):
        pair.dialler.peer.send(payload)
        pair.listener.peer.receive().addCallback(found.append)
    pair.pass_time()
    assert found == [Message(1, b""), Message(4, b"a\nb"), Message(8, b"xyz")]


def test_no_longer_linked_when_the_connection_is_cut_and_again_with_the_next(pair: Pair) -> None:
    here, there = pair.dialler.peer, pair.listener.peer
    assert here.is_linked and there.is_linked
    pair.connection.cut()
    sent = here.send(b"meanwhile")
    run(pair.connection)
    assert not here.is_linked and not there.is_linked
    pair.connection = Connection(pair.dialler, pair.listener)
    pair.pass_time()
    assert here.is_linked and pair.listener.peer is there
    assert collect(there, 1) == [b"meanwhile"]
    pair.pass_time()
    assert sent.called
