"""An output that is a receiver on the network: everything arrives, in order, whole, whatever the receiver does."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from twisted.internet import error
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.task import Clock, deferLater
from twisted.logger import globalLogPublisher
from zope.interface import implementer

from mysocket.carriers.build import LAST_RETRY, client_endpoint, retry_policy
from mysocket.carriers.counted import CLOSE_TIME
from mysocket.ends.seldom import SAY_AGAIN, Seldom
from mysocket.outputs import outgoing
from mysocket.outputs.outgoing import LAST_LOOK, SETTLE, SocketOutput
from tests.support.receivers import KINDS, Endpoint, check, drain, line, reset

reactor: Any = installed


class Bench:
    """An output on a clock, and its receiver."""

    def __init__(self, kind: str = "tcp") -> None:
        self.clock, self.endpoint = Clock(), Endpoint(kind)
        self.told: list[str] = []
        self.complaints: list[str] = []
        self.blocks: list[bytes] = []
        self.done: list[int] = []
        self.output = SocketOutput(
            self.endpoint,
            "tcp:hub:514",
            clock=self.clock,
            tell=self.told.append,
            complain=self.complaints.append,
            random=lambda: 0.5,
        )
        self.output.start()

    def write(self, *sizes: int) -> None:
        for size in sizes:
            number = len(self.blocks)
            self.blocks.append(line(number, size) if size else b"")
            self.output.write(self.blocks[-1], lambda number=number: self.done.append(number))  # type: ignore[misc]

    def up(self) -> None:
        """Connected, and it has stood for a moment."""
        self.endpoint.accept()
        self.clock.advance(SETTLE)

    def again(self) -> None:
        """The next attempt begins."""
        self.clock.advance(LAST_RETRY)
        assert self.endpoint.attempts

    def look(self) -> None:
        self.endpoint.turn()
        self.clock.advance(LAST_LOOK)

    def deliver(self) -> None:
        """All arrives that can."""
        for _ in range(10_000):
            if not self.output.facts.waiting:
                break
            self.look()
            self.endpoint.read()
        self.endpoint.read()
        assert not self.output.facts.waiting

    def check(self) -> int:
        assert self.done == list(range(len(self.done))), "each is done once, in order"
        return check([block for block in self.blocks if block], list(map(bytes, self.endpoint.received)), self.done_blocks)

    @property
    def done_blocks(self) -> int:
        return sum(1 for number in self.done if self.blocks[number])


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(request.param)
    yield made
    made.endpoint.close()
    if made.endpoint.kind == "tcp":
        # Nothing is left behind that would call us.
        made.output.close()


# What arrives -------------------------------------------------------------------------------------------------------------------


def test_what_is_written_before_and_after_it_is_there_arrives_in_order(bench: Bench) -> None:
    bench.write(10, 100)
    assert bench.output.facts == ("tcp:hub:514", False, 0, sum(map(len, bench.blocks)), 0, None) and not bench.output.idle
    bench.up()
    bench.write(0, 300_000, 1, 5_000_000)
    bench.deliver()
    assert bench.check() == 5 and len(bench.done) == 6
    assert bench.endpoint.received == [b"".join(bench.blocks)]
    assert bench.output.idle and bench.output.facts == ("tcp:hub:514", True, sum(map(len, bench.blocks)), 0, 0, None)
    assert not bench.clock.getDelayedCalls(), "nothing is looked at when nothing is on the way"


def test_nothing_is_done_before_the_receiver_has_it(bench: Bench) -> None:
    bench.up()
    bench.write(10_000, *[200_000] * 100)
    for _ in range(50):
        bench.look()
    took = len(bench.done)
    assert took < 101, "a receiver that never reads is waited for, and that holds up the others"
    assert bench.output.facts.waiting + bench.output.facts.written == sum(map(len, bench.blocks))
    if bench.endpoint.kind == "tcp":
        assert took, "its system has some"
    bench.deliver()
    assert bench.check() == 101 and len(bench.done) == 101


def test_a_block_without_bytes_is_done_at_its_place(bench: Bench) -> None:
    bench.write(0)
    assert bench.done == [0], "nothing is before it"
    bench.write(5, 0)
    assert bench.done == [0]
    bench.up()
    bench.write(0)
    bench.deliver()
    bench.look()
    assert bench.done == [0, 1, 2, 3]


def test_what_the_receiver_says_is_thrown_away(bench: Bench) -> None:
    bench.up()
    bench.endpoint.theirs[0].sendall(b"220 who are you?\r\n" * 1000)
    bench.write(10)
    bench.deliver()
    assert bench.done == [0] and bench.output.facts.connected


def test_whoever_hears_that_it_is_done_may_write_more_or_close(bench: Bench) -> None:
    bench.up()
    order: list[str] = []

    def more() -> None:
        order.append("first")
        bench.output.write(b"", lambda: order.append("none"))
        bench.output.write(b"second\n", last)
        assert order == ["first"]

    def last() -> None:
        order.append("second")
        bench.output.close()

    bench.output.write(b"first\n", more)
    while "second" not in order:
        bench.look()
        bench.endpoint.read()
    bench.output.write(b"late\n", lambda: order.append("late"))
    bench.endpoint.turn()
    bench.endpoint.read()
    assert order == ["first", "none", "second"] and bench.endpoint.received == [b"first\nsecond\n"]


# When it is lost ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_lost_connection_is_made_again_and_begins_with_a_whole_block(bench: Bench, how: str) -> None:
    bench.up()
    bench.write(100, 100)
    bench.deliver()
    bench.write(*[100_000] * 100)
    bench.endpoint.read(150_000)
    bench.endpoint.hang_up(how)
    bench.look()
    bench.look()
    assert bench.output.facts.connected is False and bench.output.facts.lost == 1
    bench.again()
    bench.up()
    bench.deliver()
    assert bench.check() == 102 and len(bench.done) == 102
    assert bench.endpoint.received[1].startswith(b"block "), "no connection begins in the middle of a line"


@pytest.mark.parametrize("how", ["reset", "close"])
def test_an_idle_receiver_that_goes_is_noticed(bench: Bench, how: str) -> None:
    bench.up()
    bench.endpoint.hang_up(how)
    bench.endpoint.turn()
    assert bench.output.facts.connected is False and bench.output.facts.lost == 1
    bench.again()
    bench.up()
    bench.write(10)
    bench.deliver()
    assert bench.done == [0]
    assert [text.partition(" (")[0] for text in bench.told] == [
        "output tcp:hub:514: connected",
        "output tcp:hub:514: lost the connection",
        "output tcp:hub:514: connected",
    ]


def test_what_is_lost_says_how_much_waits() -> None:
    bench = Bench()
    bench.up()
    bench.write(50, 50)
    bench.endpoint.theirs[0].close()
    bench.look()
    assert bench.told[-1].endswith("; 100 bytes wait") and not bench.done
    bench.output.close()


@pytest.mark.parametrize("how", ["reset", "close"])
def test_who_takes_connections_and_closes_them_at_once_gets_nothing_done(bench: Bench, how: str) -> None:
    """A proxy without anybody behind: its system takes what we say, and nobody reads it."""
    bench.write(10, 1000)
    waits = []
    for _ in range(12):
        bench.endpoint.accept()
        bench.look()
        reset(bench.endpoint.theirs[-1]) if how == "reset" else bench.endpoint.theirs[-1].close()
        bench.look()
        bench.look()
        assert not bench.done and not bench.endpoint.attempts
        began = bench.clock.seconds()
        while not bench.endpoint.attempts:
            bench.clock.advance(0.01)
        waits.append(bench.clock.seconds() - began)
    assert waits[-1] > 10 * waits[0], "it is tried less and less often"
    assert 1 <= len(bench.complaints) <= 2, "and that is not said each time"
    assert "closes it at once" in bench.complaints[0] and not bench.told
    bench.up()
    bench.deliver()
    assert bench.check() == 2 and len(bench.told) == 1


def test_the_waits_begin_anew_when_something_was_done_or_it_stood_for_long(bench: Bench) -> None:
    shortest = retry_policy(lambda: 0.5)(0)

    def wait() -> float:
        began = bench.clock.seconds()
        while not bench.endpoint.attempts:
            bench.clock.advance(0.01)
        return bench.clock.seconds() - began

    def lose() -> float:
        bench.endpoint.hang_up("reset")
        bench.look()
        return wait()

    for _ in range(8):
        bench.endpoint.refuse()
        wait()
    bench.up()
    assert lose() > 2 * shortest, "that it stood for a moment says nothing"
    bench.up()
    bench.write(10)
    bench.deliver()
    assert lose() < shortest + 0.1
    for _ in range(8):
        bench.endpoint.refuse()
        wait()
    bench.up()
    bench.clock.advance(LAST_RETRY + 1)
    assert lose() < shortest + 0.1


def test_who_closes_its_half_at_the_beginning_goes_on_reading(bench: Bench) -> None:
    bench.endpoint.accept()
    bench.endpoint.hang_up("half")
    bench.endpoint.turn()
    bench.clock.advance(SETTLE)
    bench.write(10, 300_000)
    bench.deliver()
    assert bench.check() == 2 and len(bench.done) == 2 and len(bench.endpoint.received) == 1
    bench.endpoint.theirs[0].close()
    bench.write(10)
    bench.look()
    bench.look()
    bench.again()
    bench.up()
    bench.deliver()
    assert bench.check() == 3 and len(bench.done) == 3


def test_who_closes_its_half_later_has_gone(bench: Bench) -> None:
    bench.up()
    bench.write(10)
    bench.deliver()
    bench.write(20)
    bench.endpoint.hang_up("half")
    bench.endpoint.turn()
    bench.again()
    # The first connection is closed in order: what is in it is not destroyed by a reset.
    assert drain(bench.endpoint.theirs[0]) == (bench.blocks[1], False)
    bench.up()
    bench.deliver()
    assert len(bench.done) == 2
    bench.clock.advance(CLOSE_TIME)
    bench.endpoint.turn()
    assert [transport.open for transport in bench.endpoint.transports] == [False, True]


# What is said -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("why", "said"),
    [
        (error.ConnectionRefusedError, "connection refused; nothing listens there"),
        (error.DNSLookupError, "its name is unknown"),
        (error.TimeoutError, "no answer within 30 s"),
        (lambda: error.NoRouteError(113, "x"), "No route to host"),
        (lambda: ValueError("some plugin"), "some plugin"),
    ],
)
def test_why_it_cannot_connect_is_said_once_a_minute(why: Callable[[], Exception], said: str) -> None:
    bench = Bench()
    while bench.clock.seconds() < SAY_AGAIN - LAST_RETRY:
        bench.endpoint.refuse(why)
        bench.again()
    assert bench.complaints == [
        f"Cannot connect to the output tcp:hub:514: {said}. What is received waits for it, and is not acknowledged. Trying again."
    ]
    assert said in str(bench.output.facts.error)
    while len(bench.complaints) < 2:
        bench.endpoint.refuse(why)
        bench.again()
    assert bench.clock.seconds() >= SAY_AGAIN
    bench.up()
    assert bench.output.facts.error is None
    bench.output.close()
    bench.endpoint.close()


def test_a_connection_that_comes_and_goes_fills_no_log(bench: Bench) -> None:
    for _ in range(40):
        bench.up()
        bench.write(10)
        bench.deliver()
        bench.endpoint.hang_up("reset")
        bench.look()
        bench.again()
    minutes = bench.clock.seconds() / SAY_AGAIN
    assert len(bench.told) <= 2 * (minutes + 2) and not bench.complaints
    kinds = ["connected" in text.rpartition(":")[2] for text in bench.told]
    assert kinds == [index % 2 == 0 for index in range(len(kinds))], "each is said in its turn"


def test_what_is_never_the_same_fills_no_memory() -> None:
    clock = Clock()
    seldom = Seldom(clock)
    assert sum(seldom.due(f"reason {number}") for number in range(1000)) == 1000
    assert len(seldom._said) <= 64
    clock.advance(SAY_AGAIN)
    assert seldom.due("reason 1") and not seldom.due("reason 1")


# Closing ------------------------------------------------------------------------------------------------------------------------


def test_closing_while_it_is_away_ends_the_attempts() -> None:
    bench = Bench()
    bench.write(10)
    over: list[None] = []
    bench.output.close().addCallback(over.append)
    assert bench.endpoint.cancelled == 1 and over == [None] and not bench.clock.getDelayedCalls()
    bench.output.start()
    bench.output.close()
    assert not bench.endpoint.attempts and not bench.complaints and not bench.done
    assert bench.output.facts.waiting == len(bench.blocks[0])
    waiting = Bench()
    waiting.endpoint.refuse()
    waiting.output.close()
    assert not waiting.clock.getDelayedCalls()


def test_closing_gives_the_receiver_what_is_on_the_way(bench: Bench) -> None:
    bench.up()
    bench.write(100, 20)
    over: list[None] = []
    bench.output.close().addCallback(over.append)
    bench.endpoint.turn()
    assert drain(bench.endpoint.theirs[0]) == (b"".join(bench.blocks), False) and not over
    bench.endpoint.theirs[0].close()
    bench.endpoint.turn()
    bench.endpoint.turn()
    assert over == [None] and not bench.done and not bench.clock.getDelayedCalls() and not bench.told[1:]


# Everything at once -------------------------------------------------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Receivers that read slowly, or not, are reset, close, close their half, at any moment: nothing is missing."""

    @initialize(kind=st.sampled_from(KINDS))
    def begin(self, kind: str) -> None:
        self.bench = Bench(kind)
        self.half = False

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        bench = self.bench
        if self.half and bench.endpoint.up:
            bench.endpoint.hang_up("reset")
        for _ in range(10_000):
            if not bench.output.facts.waiting:
                break
            if bench.endpoint.attempts:
                bench.up()
            bench.look()
            bench.endpoint.read()
            if not any(transport.open for transport in bench.endpoint.transports):
                bench.clock.advance(1)
        bench.look()
        bench.endpoint.read()
        try:
            assert len(bench.done) == len(bench.blocks) and bench.check() == sum(map(bool, bench.blocks))
        finally:
            bench.endpoint.close()

    @rule(sizes=st.lists(st.sampled_from([0, 30, 30, 5000, 250_000, 700_000]), min_size=1, max_size=12))
    def write(self, sizes: list[int]) -> None:
        if sum(map(len, self.bench.blocks)) < 10_000_000:
            self.bench.write(*sizes)

    @precondition(lambda self: self.bench.endpoint.attempts)
    @rule(works=st.sampled_from([True, True, True, False]))
    def answer(self, works: bool) -> None:
        self.half = False
        self.bench.endpoint.accept() if works else self.bench.endpoint.refuse()

    @rule(most=st.sampled_from([1, 5000, 10**9, 10**9]))
    def reactor(self, most: int) -> None:
        self.bench.endpoint.turn(most)

    @rule(seconds=st.sampled_from([0.001, LAST_LOOK, SETTLE, 1.0, 20.0]))
    def time(self, seconds: float) -> None:
        self.bench.clock.advance(seconds)

    @precondition(lambda self: self.bench.endpoint.up)
    @rule(most=st.sampled_from([1, 4000, 300_000, 2**40]))
    def read(self, most: int) -> None:
        self.bench.endpoint.read(most)

    @precondition(lambda self: self.bench.endpoint.up)
    @rule(how=st.sampled_from(["reset", "close", "half"]))
    def end(self, how: str) -> None:
        if how != "half" or not self.half:
            self.half = how == "half"
            self.bench.endpoint.hang_up(how)


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase


# With a reactor -----------------------------------------------------------------------------------------------------------------


@implementer(IReadDescriptor)
class Reader:
    """A socket, and what to do when there is something to read."""

    def __init__(self, sock: socket.socket, call: Callable[[], object]) -> None:
        sock.setblocking(False)
        self.sock, self.call = sock, call
        reactor.addReader(self)

    def fileno(self) -> int:
        return self.sock.fileno()

    def logPrefix(self) -> str:
        return "reader"

    def doRead(self) -> None:
        self.call()

    def connectionLost(self, reason: object) -> None:
        """Never: the test closes it."""

    def close(self, *, reset_it: bool = False) -> None:
        reactor.removeReader(self)
        reset(self.sock) if reset_it else self.sock.close()


class Collector:
    """A receiver that is reset behind so many bytes of each connection, in turn; of the last it reads all.

    :param amounts: of bytes; before it is reset it takes what its system has, too. -1: it is closed when it is taken.
    """

    def __init__(self, listening: socket.socket, amounts: list[int]) -> None:
        self.amounts = amounts
        self.received: list[bytearray] = []
        self.connections: list[Reader] = []
        self.listening = Reader(listening, self.take)

    def take(self) -> None:
        sock, _ = self.listening.sock.accept()
        index = len(self.received)
        self.received.append(bytearray())
        amount = self.amounts[index] if index < len(self.amounts) else 2**62
        reader = Reader(sock, lambda: self.read(reader, self.received[index], amount))
        self.connections.append(reader)
        if amount < 0:
            reader.close(reset_it=True)

    def read(self, reader: Reader, received: bytearray, amount: int) -> None:
        data, more = drain(reader.sock, max(1, amount - len(received)))
        received += data
        if len(received) >= amount:
            received += drain(reader.sock)[0]
            reader.close(reset_it=True)
        elif not more:
            reader.close()

    def close(self) -> None:
        for reader in (*self.connections, self.listening):
            if reader.sock.fileno() >= 0:
                reader.close()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "retry_policy", lambda random: lambda attempt: 0.001)


def listen(kind: str, where: Path) -> tuple[socket.socket, str]:
    if kind == "unix":
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(where / "s"))
        listening.listen(5)
        return listening, f"unix:{where}/s"
    listening = socket.create_server(("127.0.0.1", 0))
    return listening, f"tcp:127.0.0.1:{listening.getsockname()[1]}"


async def until_done(output: SocketOutput, blocks: list[bytes], done: list[int]) -> None:
    """Give all blocks, and wait for the last."""
    over: Deferred[None] = Deferred()

    def one_done(number: int) -> None:
        done.append(number)
        if number == len(blocks) - 1:
            over.callback(None)

    for number, block in enumerate(blocks):
        output.write(block, lambda number=number: one_done(number))  # type: ignore[misc]
    await over


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_a_collector_that_is_reset_at_every_point_gets_everything(kind: str, tmp_path: Path) -> None:
    sizes = [1, 100, 20_000, 300_000, 1, 65_536, 1_500_000, 3, 5_000_000, 7] * 3
    blocks = [line(number, size) for number, size in enumerate(sizes)]
    amounts = [-1, 0, 1, 25, 26, 130, 20_000, -1, 65_536, 262_144, 400_000, 1_900_000, 3_000_000, 1, 5_000_000]
    listening, text = listen(kind, tmp_path)
    collector = Collector(listening, amounts)
    said: list[str] = []
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    output = SocketOutput(
        client_endpoint(reactor, text), text, clock=reactor, tell=said.append, complain=said.append, settle=0.05
    )
    output.start()
    done: list[int] = []
    try:
        await until_done(output, blocks, done)
        assert output.facts.waiting == 0 and len(collector.received) > len(amounts)
        await output.close()
    finally:
        globalLogPublisher.removeObserver(events.append)
        collector.close()
    assert done == list(range(len(blocks)))
    assert check(blocks, list(map(bytes, collector.received)), len(done)) == len(blocks)
    assert [event for event in events if "log_system" not in event or event.get("isError")] == []
    assert not events, "what is to be said is said by us"


@pytest.mark.usefixtures("at_once")
@pytest_twisted.ensureDeferred
async def test_it_waits_for_a_collector_that_starts_later(tmp_path: Path) -> None:
    said: list[str] = []
    refused: Deferred[None] = Deferred()

    def complain(text: str) -> None:
        said.append(text)
        refused.callback(None)

    where = f"unix:{tmp_path}/s"
    output = SocketOutput(client_endpoint(reactor, where), where, clock=reactor, tell=said.append, complain=complain, settle=0)
    output.start()
    await refused
    listening, text = listen("unix", tmp_path)
    collector = Collector(listening, [])
    assert text == where
    await until_done(output, [b"one\n", b"two\n"], [])
    await output.close()
    assert collector.received == [b"one\ntwo\n"]
    collector.close()
    assert said == [
        f"Cannot connect to the output {where}: No such file or directory. What is received waits for it, and is not "
        "acknowledged. Trying again.",
        f"output {where}: connected",
    ]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", KINDS)
@pytest_twisted.ensureDeferred
async def test_a_real_receiver_that_closes_its_half_is_known_from_one_that_goes(kind: str, tmp_path: Path) -> None:
    listening, text = listen(kind, tmp_path)
    collector = Collector(listening, [])
    said: list[str] = []
    output = SocketOutput(
        client_endpoint(reactor, text), text, clock=reactor, tell=said.append, complain=said.append, settle=0.05
    )
    taken: Deferred[None] = Deferred()

    def take() -> None:
        Collector.take(collector)
        if not taken.called:
            collector.connections[0].sock.shutdown(socket.SHUT_WR)
            taken.callback(None)

    collector.listening.call = take
    output.start()
    await taken
    blocks = [line(number, 100_000) for number in range(20)]
    await until_done(output, blocks, [])
    collector.connections[0].close()
    await until_done(output, [b"one\n"], [])
    await until_done(output, [b"two\n"], [])
    assert len(collector.connections) == 2
    collector.connections[1].sock.shutdown(socket.SHUT_WR)
    await until_done(output, [b"three\n"], [])
    while len(collector.connections) < 3:
        await deferLater(reactor, 0.001)
    await output.close()
    for reader in collector.connections:
        if reader.sock.fileno() >= 0:
            reader.call()
    collector.close()
    assert bytes(collector.received[0]) == b"".join(blocks) and bytes(collector.received[1]).startswith(b"one\ntwo\n")
    assert b"three\n" in bytes(collector.received[1]) + bytes(collector.received[2])


@pytest.mark.usefixtures("at_once")
@pytest_twisted.ensureDeferred
async def test_inside_tls_everything_arrives_too() -> None:
    pytest.importorskip("OpenSSL", reason="endpoints of TLS need pyOpenSSL")
    from twisted.internet import endpoints, ssl
    from twisted.internet.protocol import Factory, Protocol

    received: list[bytearray] = []
    amounts = [1, 100_000, 3_000_000]

    class Receiver(Protocol):
        def connectionMade(self) -> None:
            self.data = bytearray()
            received.append(self.data)
            self.amount = amounts[len(received) - 1] if len(received) <= len(amounts) else 2**62

        def dataReceived(self, data: bytes) -> None:
            self.data += data
            if len(self.data) >= self.amount and self.transport is not None:
                self.transport.abortConnection()  # type: ignore[attr-defined]

    own = ssl.KeyPair.generate().selfSignedCert(1, CN="localhost")
    listening = endpoints.SSL4ServerEndpoint(reactor, 0, own.options(), interface="127.0.0.1")
    port = await listening.listen(Factory.forProtocol(Receiver))
    endpoint = endpoints.SSL4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port, ssl.CertificateOptions())
    output = SocketOutput(endpoint, "tls", clock=reactor, tell=lambda text: None, complain=lambda text: None, settle=0.05)
    output.start()
    blocks = [line(number, size) for number, size in enumerate([1, 100, 20_000, 300_000, 1, 1_500_000, 3, 5_000_000, 7] * 2)]
    done: list[int] = []
    await until_done(output, blocks, done)
    assert output.facts.connected
    await output.close()
    await port.stopListening()
    assert done == list(range(len(blocks))) and len(received) > len(amounts)
    assert b"".join(blocks).endswith(bytes(received[-1]))
