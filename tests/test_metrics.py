"""Counters as values; and that what counts, counts right, through lost connections, strangers and commits."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mysocket.core.batch import LineCutter
from mysocket.core.session import HANDSHAKE_TIME
from mysocket.core.wire import MAGIC, Hello, Input, Pong, Reason, encode
from mysocket.metrics import BOUNDS, Counters, Histogram, Meter, Rejected
from mysocket.spool.interface import Bookmark
from tests.support.network import Connection, Person, run
from tests.support.spools import close, committer_of, opened, settle

STEPS = st.lists(st.tuples(st.floats(0, 100), st.integers(0, 2**40)), max_size=50)


def test_what_comes_evenly_shows_its_rate() -> None:
    meter = Meter(tau=10.0)
    for tenth in range(1000):
        meter.add(50, tenth / 10)
    assert meter.rate(100.0) == pytest.approx(500, rel=0.02)


def test_one_amount_is_forgotten_by_a_factor_of_e_in_tau() -> None:
    meter = Meter(tau=2.0)
    assert meter.rate(0.0) == 0.0
    meter.add(100, 7.0)
    assert meter.rate(7.0) == 50.0 and meter.rate(9.0) == pytest.approx(50 / 2.718281828)
    assert meter.rate(1e9) == 0.0


@given(steps=STEPS, tau=st.floats(0.1, 100))
def test_asking_changes_nothing_and_all_that_came_is_in_the_rate(steps: list[tuple[float, int]], tau: float) -> None:
    asked, silent, now = Meter(tau), Meter(tau), 0.0
    for wait, amount in steps:
        asked.rate(now + wait / 2)
        now += wait
        for meter in (asked, silent):
            meter.add(amount, now)
    assert asked.rate(now) == silent.rate(now)
    total = sum(amount for _, amount in steps)
    assert 0 <= asked.rate(now) <= total / tau * (1 + 1e-9)
    assert asked.rate(now + 1) <= asked.rate(now)


def test_a_clock_that_goes_back_stands_still() -> None:
    meter = Meter(tau=1.0)
    meter.add(10, 100.0)
    meter.add(10, 50.0)
    assert meter.rate(0.0) == meter.rate(100.0) == 20.0
    assert meter.rate(101.0) == pytest.approx(20 / 2.718281828)


@pytest.mark.parametrize("tau", [0, -1, float("nan")])
def test_a_rate_needs_a_time(tau: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Meter(tau)


def test_rates_come_of_what_was_counted() -> None:
    counters, other = Counters(), Counters()
    counters.bytes_in += 120
    counters.tick(0.0)
    counters.tick(0.0)
    counters.bytes_out += 7
    counters.tick(0.0)
    assert (counters.rate_in.rate(0.0), counters.rate_out.rate(0.0)) == (12.0, 0.7)
    assert other.rate_in.rate(0.0) == 0.0


# Histograms ---------------------------------------------------------------------------------------------------------------------


@given(times=st.lists(st.floats(-1, 20) | st.sampled_from(BOUNDS) | st.just(float("nan")), max_size=30))
def test_each_bound_counts_what_does_not_exceed_it(times: list[float]) -> None:
    histogram = Histogram()
    for seconds in times:
        histogram.observe(seconds)
    counts, total = histogram.observed
    times = [seconds if seconds > 0 else 0.0 for seconds in times]
    for number, bound in enumerate(BOUNDS):
        assert sum(counts[: number + 1]) == sum(seconds <= bound for seconds in times)
    assert sum(counts) == len(times) and total == pytest.approx(sum(times))


def test_what_is_read_beside_it_is_whole() -> None:
    """One thread observes, another reads: in what it sees, the counts and the sum fit."""
    histogram, over = Histogram((0.5, 1.5)), threading.Event()

    def observe() -> None:
        for _ in range(50_000):
            histogram.observe(1.0)
        over.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=observe)
        thread.start()
        last = 0
        while not over.is_set():
            (low, middle, high), total = histogram.observed
            assert low == high == 0 and middle == total >= last
            last = middle
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert histogram.observed == ((0, 50_000, 0), 50_000.0)


# Streams ------------------------------------------------------------------------------------------------------------------------


def law(sender: Person, receiver: Person) -> None:
    """Sent less resent is how far the stream has come on the wire; received is how far it has come here."""
    out, into = sender.node.counters, receiver.node.counters
    taken, spool = receiver.link.receiving.inbox.taken, sender.link.sending.spool
    assert into.bytes_in == taken <= out.bytes_out - out.bytes_resent <= spool.committed
    assert into.batches_in <= out.batches_out - out.batches_resent
    assert spool.retired <= taken


@given(steps=st.lists(st.tuples(st.sampled_from(["give", "move", "move", "cut", "connect"]), st.integers(1, 5000)), max_size=40))
def test_through_lost_connections_the_sums_add_up(steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    a, b = Person(clock, 1), Person(clock, 2)
    connection, cuts = Connection(a, b), 0
    run(connection)
    for what, number in steps:
        if what == "give":
            assert a.input is not None
            a.input.accept(LineCutter().feed(b"x" * number + b"\n"))
        elif what == "move" and not connection.dead:
            for wire in connection.wires:
                wire.deliver(number)
        elif what == "cut" and not connection.dead:
            connection.cut()
            run(connection)
            cuts += 1
        elif what == "connect" and connection.dead:
            connection = Connection(a, b)
            run(connection, chunk=number)
        law(a, b)
    if connection.dead:
        connection = Connection(a, b)
    run(connection)
    law(a, b)
    clock.advance(1)
    run(connection)
    out, into, end = a.node.counters, b.node.counters, a.link.sending.spool.end
    assert out.bytes_out - out.bytes_resent == into.bytes_in == end == a.link.sending.spool.retired
    assert out.batches_out - out.batches_resent == into.batches_in
    assert out.reconnects == into.reconnects == out.connections - 1 == into.connections - 1 == cuts
    assert not (into.bytes_out or into.bytes_resent or out.bytes_in)


def test_what_was_sent_and_not_acknowledged_is_sent_again_and_counted() -> None:
    clock = Clock()
    a, b = Person(clock, 1), Person(clock, 2)
    connection = Connection(a, b)
    run(connection)
    assert a.input is not None
    for text in (b"one\n", b"two\n"):
        a.input.accept(LineCutter().feed(text))
    connection.cut()  # the first is lost with it; the second waited behind it
    run(connection)
    run(Connection(a, b))
    counters = a.node.counters
    assert (counters.bytes_out, counters.bytes_resent, counters.batches_out, counters.batches_resent) == (12, 4, 3, 1)
    assert b.node.counters.bytes_in == 8 and b.sink.output == b"one\ntwo\n"


def test_round_trips_are_counted_on_both_sides_once_for_each_ping() -> None:
    clock = Clock()
    a, b = Person(clock, 1), Person(clock, 2)
    connection = Connection(a, b)
    clock.advance(0.03)
    run(connection)
    for person in (a, b):
        assert sum(person.node.counters.round_trips.observed.counts) == 1
    wire = connection.wires[0]
    wire.protocol.dataReceived(100 * encode(Pong(1)))  # type: ignore[union-attr]
    assert sum(a.node.counters.round_trips.observed.counts) == 1
    clock.advance(15.0)
    run(connection)
    assert sum(a.node.counters.round_trips.observed.counts) == 2


# Strangers ----------------------------------------------------------------------------------------------------------------------


def rejected(person: Person) -> dict[str, int]:
    return {str(why): number for why, number in person.node.counters.rejected.items() if number}


def stranger(person: Person) -> Connection:
    """Somebody of another program has connected."""
    connection = Connection(Person(person.clock, 99), person)
    connection.wires[1].incoming.clear()
    return connection


def hello(**fields: object) -> Hello:
    given: dict[str, object] = {"node": b"n" * 16, "stream": b"s" * 16, "name": "x", "durable": False, "input": Input.NONE}
    return Hello(**{**given, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "protocol"),
        (MAGIC + b"\xff" * 100, "protocol"),
        (MAGIC + encode(Pong(1)), "protocol"),
        (MAGIC + encode(hello(versions=(99,))), "version"),
        (MAGIC[:3], None),
    ],
)
def test_a_stranger_that_is_not_taken_counts_once(data: bytes, why: str | None) -> None:
    hub = Person(Clock(), 1, hub=True)
    connection = stranger(hub)
    connection.wires[1].incoming += data
    run(connection)
    if why is None:
        assert rejected(hub) == {}
        hub.clock.advance(HANDSHAKE_TIME)
        why = "handshake"
    assert rejected(hub) == {why: 1}
    connection.cut()
    run(connection)
    assert rejected(hub) == {why: 1}
    assert not hub.node.counters.connections


def test_whoever_goes_before_its_handshake_is_finished_counts() -> None:
    hub = Person(Clock(), 1, hub=True)
    connection = stranger(hub)
    connection.cut()
    run(connection)
    assert rejected(hub) == {"handshake": 1}


def test_too_many_strangers_count() -> None:
    hub = Person(Clock(), 1, hub=True)
    for _ in range(20):
        stranger(hub)
    assert rejected(hub) == {"too_many": 12}  # 8 may wait from one address


def test_a_second_peer_counts_where_one_is_taken_and_who_dials_rejects_nobody() -> None:
    clock = Clock()
    one, first, second = Person(clock, 1), Person(clock, 2), Person(clock, 3)
    run(Connection(first, one))
    run(Connection(second, one))
    assert rejected(one) == {"busy": 1}
    assert rejected(first) == rejected(second) == {}
    run(Connection(one, second))
    assert rejected(one) == {"busy": 1}


def test_whoever_was_left_counts_as_refused() -> None:
    clock = Clock()
    hub, peer = Person(clock, 1, hub=True), Person(clock, 2)
    connection = Connection(peer, hub)
    run(connection)
    hub.node.dismiss(hub.link, "enough")
    run(connection)
    clock.advance(5)
    run(connection, Connection(peer, hub))
    assert rejected(hub) == {"refused": 1}
    assert {Reason.BUSY, Reason.STATE_LOSS} < set(Reason)


def test_every_reason_has_its_count_from_the_beginning() -> None:
    counters = Counters()
    assert counters.rejected == dict.fromkeys(Rejected, 0)
    counters.reject(Rejected.BUSY)
    assert counters.rejected[Rejected.BUSY] == 1 and Counters().rejected[Rejected.BUSY] == 0


# Commits ------------------------------------------------------------------------------------------------------------------------


def ticks() -> Iterator[float]:
    """A clock that goes on by 10 ms whenever somebody looks at it."""
    return (number / 100 for number in count())


def test_commits_are_counted_with_their_time(tmp_path: Path) -> None:
    clock = ticks()
    spool = opened(tmp_path / "spool", output=tmp_path / "out", now=lambda: next(clock))
    assert spool.output is not None and spool.times is committer_of(spool).times
    assert sum(spool.times.spool.observed.counts) == 0
    for number in range(3):
        spool.append_together(LineCutter().feed(b"a line\n"), Bookmark("input", b"%d" % number))
        settle(spool)
    commits = sum(spool.times.spool.observed.counts)
    assert commits == 3 and spool.times.spool.observed.sum >= 0.03 - 1e-9
    assert sum(spool.times.output.observed.counts) == 0
    close(spool)


def test_of_groups_that_could_not_be_committed_nothing_is_counted(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool")
    settle(spool)
    assert spool.times.spool.observed.sum == 0.0 and not any(spool.times.spool.observed.counts)
    data = Random(1).randbytes(1000)
    for piece in LineCutter().feed(data.replace(b"\n", b"") + b"\n"):
        spool.append(piece)
    assert not any(spool.times.spool.observed.counts)
    settle(spool)
    assert sum(spool.times.spool.observed.counts) == 1
    close(spool)
