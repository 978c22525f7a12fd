"""How much of what was written a receiver's system has: never more than it really has, and all of it in the end."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from mysocket.carriers import counted
from mysocket.carriers.counted import CLOSE_TIME, DEAD_TIME, Counted
from tests.support.receivers import KINDS, Transport, drain, pair, reset


class Owner:
    """Hears what happens."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def came_up(self, connection: Counted) -> None:
        self.heard.append("up")

    def has_room(self, connection: Counted) -> None:
        self.heard.append("room")

    def half_closed(self, connection: Counted) -> None:
        self.heard.append("half")

    def lost(self, connection: Counted, why: str) -> None:
        self.heard.append(f"lost: {why}")


class Bench:
    """A connection, and its receiver."""

    def __init__(self, kind: str) -> None:
        self.clock, self.owner = Clock(), Owner()
        self.connection = Counted(self.owner, self.clock)
        ours, self.theirs = pair(kind)
        self.transport = Transport(ours, self.connection)
        self.connection.makeConnection(self.transport)  # type: ignore[arg-type]

    def close(self) -> None:
        self.theirs.close()
        self.transport.sock.close()


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest) -> Any:
    made = Bench(request.param)
    yield made
    made.close()


def fill(bench: Bench) -> int:
    """Write until nothing more goes out."""
    while bench.connection.writable:
        bench.connection.write([b"x" * 65536])
    return bench.connection.total


def test_what_is_written_counts_when_the_receiver_has_it(bench: Bench) -> None:
    connection = bench.connection
    connection.write([b"one\n", memoryview(b"two\n")])
    connection.look()
    assert bench.theirs.recv(100) == b"one\ntwo\n"
    connection.look()
    assert (connection.total, connection.acknowledged, connection.broken) == (8, 8, "")
    assert bench.owner.heard == ["up"]


def test_a_full_connection_takes_nothing_and_counts_what_is_taken_from_it(bench: Bench) -> None:
    connection, total = bench.connection, fill(bench)
    connection.look()
    assert connection.acknowledged < total and not connection.writable and bench.transport.queued
    got = 0
    while got < total:
        got += len(drain(bench.theirs)[0])
        bench.transport.turn()
        connection.look()
        assert connection.acknowledged <= got + len(drain_later(bench)), "nothing counts that is not there"
    connection.look()
    assert connection.acknowledged == total and connection.writable and bench.owner.heard == ["up", "room"]


def drain_later(bench: Bench) -> bytes:
    """What the receiver's system has and nobody has read; it stays there."""
    try:
        return bench.theirs.recv(2**24, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_a_reset_counts_nothing(bench: Bench, read: bool) -> None:
    connection, total = bench.connection, fill(bench)
    if read:
        drain(bench.theirs)
    else:
        assert bench.theirs.recv(1)
    connection.look()
    before = connection.acknowledged
    if read:
        # Of a Unix socket that was read to its end there is nothing that a reset could tell.
        bench.transport.turn()
    reset(bench.theirs)
    connection.look()
    assert connection.acknowledged == before < total
    assert connection.broken and not connection.writable
    connection.write([])
    connection.look()
    connection.abort()
    bench.transport.turn()
    assert bench.owner.heard[-1] == f"lost: {connection.broken}"


def test_unread_data_of_a_unix_socket_that_is_closed_does_not_count() -> None:
    bench = Bench("unix")
    bench.connection.write([b"unread"])
    bench.theirs.close()
    bench.connection.look()
    assert bench.connection.acknowledged == 0 and bench.connection.broken
    bench.close()


def test_what_a_receiver_read_before_it_closed_counts(bench: Bench) -> None:
    bench.connection.write([b"the last words\n"])
    assert bench.theirs.recv(100)
    bench.theirs.close()
    bench.connection.look()
    assert bench.connection.acknowledged == bench.connection.total and not bench.connection.broken
    bench.transport.turn()
    assert bench.owner.heard == ["up", "half"]
    # Nobody is there, and what is written now is not read.
    bench.connection.write([b"too late\n"])
    bench.connection.look()
    assert bench.connection.acknowledged < bench.connection.total and bench.connection.broken


def test_who_closes_its_half_is_still_written_to(bench: Bench) -> None:
    bench.theirs.sendall(b"thrown away")
    bench.theirs.shutdown(socket.SHUT_WR)
    bench.transport.turn()
    bench.connection.write([b"and yet it reads\n"])
    assert bench.theirs.recv(100) == b"and yet it reads\n"
    bench.connection.look()
    assert bench.connection.acknowledged == 17 and bench.owner.heard == ["up", "half"]


def test_a_receiver_that_does_not_read_is_waited_for(bench: Bench) -> None:
    fill(bench)
    while counted._unanswered(bench.transport.sock):
        pass  # a moment: its system says that it takes no more
    for _ in range(10):
        bench.clock.advance(DEAD_TIME)
        bench.connection.look()
        assert not bench.connection.broken


def test_a_receiver_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench("tcp")
    monkeypatch.setattr(counted, "_unanswered", lambda sock: True)
    bench.clock.advance(1000)
    bench.connection.write([b"is anybody there?\n"])
    monkeypatch.setattr(counted, "_unsent", lambda sock: 18)
    bench.connection.look()
    bench.clock.advance(DEAD_TIME - 1)
    bench.connection.look()
    assert not bench.connection.broken, "it was asked just now"
    bench.clock.advance(1)
    bench.connection.look()
    assert bench.connection.broken == "no answer within 45 s"
    bench.close()


def test_an_idle_connection_is_probed() -> None:
    bench = Bench("tcp")
    sock = bench.transport.sock
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    first, next_ones, count = (
        sock.getsockopt(socket.IPPROTO_TCP, name) for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    )
    assert first + next_ones * count == DEAD_TIME
    assert not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), "it would end who does not read, too"
    bench.close()


def test_a_connection_that_is_reset_before_anybody_has_seen_it() -> None:
    ours, theirs = pair("tcp")
    reset(theirs)
    owner = Owner()
    connection = Counted(owner, Clock())
    transport = Transport(ours, connection)
    connection.makeConnection(transport)  # type: ignore[arg-type]
    transport.turn()
    assert owner.heard[0] == "up" and owner.heard[1].startswith("lost: ")
    ours.close()


def test_a_connection_with_itself_is_none() -> None:
    """Who dials a port of this machine where nobody listens, again and again, gets that very port for its own end one day."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        sock.setblocking(False)
        owner = Owner()
        connection = Counted(owner, Clock())
        transport = Transport(sock, connection)
        connection.makeConnection(transport)  # type: ignore[arg-type]
        transport.turn()
    assert owner.heard == ["lost: nothing listens there: it was connected to itself"]


def test_closing_in_order_gives_the_receiver_all_and_waits_for_its_close(bench: Bench) -> None:
    bench.connection.write([b"all of it\n"])
    bench.connection.owner = None
    bench.connection.finish()
    bench.transport.turn()
    assert drain(bench.theirs) == (b"all of it\n", False) and bench.transport.open
    bench.theirs.close()
    bench.transport.turn()
    bench.transport.turn()
    assert not bench.transport.open and not bench.clock.getDelayedCalls()


@pytest.mark.parametrize("reads", [True, False])
def test_who_does_not_close_its_side_is_not_waited_for_long(bench: Bench, reads: bool) -> None:
    bench.connection.write([b"x" * 100])
    if not reads:
        fill(bench)
    bench.connection.finish()
    bench.transport.turn()
    bench.clock.advance(CLOSE_TIME)
    bench.transport.turn()
    assert not bench.transport.open
    if reads:
        assert drain(bench.theirs) == (b"x" * 100, False), "what it has is not taken from it by a reset"


def test_what_is_no_socket_counts_when_it_takes_more() -> None:
    owner, transport = Owner(), StringTransport()
    connection = Counted(owner, Clock())
    connection.makeConnection(transport)
    connection.write([b"a", b"b"])
    connection.look()
    assert transport.value() == b"ab" and connection.acknowledged == 0 and not connection.writable
    transport.producer.resumeProducing()
    connection.look()
    assert connection.acknowledged == 2 and owner.heard == ["up", "room"]


class AnyOrder(RuleBasedStateMachine):
    """What counts is never more than what the receiver has, whatever happens in between."""

    @initialize(kind=st.sampled_from(KINDS))
    def begin(self, kind: str) -> None:
        self.kind = kind
        self.bench = Bench(kind)
        self.read = 0
        self.ended = False

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self.bench.close()

    @precondition(lambda self: self.bench.connection.writable)
    @rule(sizes=st.lists(st.sampled_from([1, 10, 1000, 70_000, 300_000]), max_size=8))
    def write(self, sizes: list[int]) -> None:
        self.bench.connection.write([b"." * size for size in sizes])

    @rule(most=st.sampled_from([1, 1000, 100_000, 2**40]))
    def reactor(self, most: int) -> None:
        self.bench.transport.turn(most)

    @rule()
    def look(self) -> None:
        self.bench.connection.look()

    @precondition(lambda self: not self.ended)
    @rule(most=st.sampled_from([1, 3000, 100_000, 2**40]))
    def receive(self, most: int) -> None:
        self.read += len(drain(self.bench.theirs, most)[0])

    @precondition(lambda self: not self.ended)
    @rule()
    def say(self) -> None:
        with suppress(BrokenPipeError):
            self.bench.theirs.send(b"noise")

    @precondition(lambda self: not self.ended)
    @rule(how=st.sampled_from(["reset", "close", "half"]), first=st.booleans())
    def end(self, how: str, first: bool) -> None:
        if how == "half":
            self.bench.theirs.shutdown(socket.SHUT_WR)
            return
        if first or self.kind == "tcp":
            # What its system has is lost with the receiver of a TCP connection, and counts.
            self.read += len(drain(self.bench.theirs)[0])
        self.ended = True
        reset(self.bench.theirs) if how == "reset" else self.bench.theirs.close()

    @precondition(lambda self: hasattr(self, "bench") and not self.ended)
    @invariant()
    def nothing_counts_that_is_not_there(self) -> None:
        there = self.read + (len(drain_later(self.bench)) if self.kind == "tcp" else 0)
        assert self.bench.connection.acknowledged <= there

    @precondition(lambda self: hasattr(self, "bench") and self.ended)
    @invariant()
    def nor_afterwards(self) -> None:
        assert self.bench.connection.acknowledged <= self.read


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase
