"""One connection: handshake, grammar, heartbeat."""

from __future__ import annotations

import pytest

from mysocket.core.batch import Batch, Kind, chain
from mysocket.core.reader import FrameReader
from mysocket.core.session import HANDSHAKE_TIME, Broken, Event, Heartbeat, Session, Silent
from mysocket.core.wire import (
    MAGIC,
    Ack,
    Attach,
    Bye,
    Frame,
    Hello,
    Ping,
    Pong,
    Reason,
    Resume,
    Start,
    encode,
)
from mysocket.errors import LocalProtocolError, NotMySocket, RemoteProtocolError, VersionMismatch


def hello(number: int, **fields: object) -> Hello:
    return Hello(node=bytes([number]) * 16, stream=bytes([number + 100]) * 16, **fields)  # type: ignore[arg-type]


STREAM = hello(1).stream


class Pair:
    """Two sessions joined by a link that keeps their bytes; all goes through it whole, or byte by byte."""

    def __init__(self, *, step: int = 2**30, heartbeat: Heartbeat = Heartbeat()) -> None:
        self.step = step
        self.now = 0.0
        self.a = Session(dialler=True, now=0.0, heartbeat=heartbeat)
        self.b = Session(dialler=False, now=0.0, heartbeat=heartbeat)

    def move(self) -> tuple[list[Event], list[Event]]:
        """The events that what waits brings to a and to b."""
        to_b, to_a = (b"".join(session.output(self.now)) for session in (self.a, self.b))
        return self._feed(self.a, to_a), self._feed(self.b, to_b)

    def _feed(self, session: Session, data: bytes) -> list[Event]:
        return [event for at in range(0, len(data), self.step) for event in session.receive(data[at : at + self.step], self.now)]

    def open(self) -> Pair:
        self.a.greet(hello(1))
        self.move()
        self.b.greet(hello(2))
        for _ in range(3):
            self.move()  # HELLO, and the first PING of each side and its answer
        assert self.a.is_open and self.b.is_open
        return self


@pytest.fixture(params=[1, 2**30], ids=["byte by byte", "whole"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(step=request.param)


def heard(session: Session, data: bytes, now: float = 0.0) -> RemoteProtocolError:
    """The error that `data` ends the session with."""
    broken = session.receive(data, now)[-1]
    assert isinstance(broken, Broken) and isinstance(broken.error, RemoteProtocolError)
    assert session.is_over and session.receive(b"more", now) == []
    return broken.error


def said(session: Session) -> list[Frame]:
    """The frames a session has to send (its HELLO or BYE first)."""
    found: list[Frame] = []
    FrameReader().feed(b"".join(map(bytes, session.output(0.0))), found)
    return found


def frames(data: bytes) -> list[Frame]:
    """Those behind HELLO."""
    found: list[Frame] = []
    FrameReader().feed(MAGIC + encode(hello(1)) + data, found)
    return found[1:]


def test_a_stream_through_two_sessions(pair: Pair) -> None:
    pair.a.greet(hello(1))
    assert pair.move() == ([], [hello(1)])
    pair.b.greet(hello(2))
    assert pair.move() == ([hello(2)], [])
    pair.a.attach(STREAM)
    assert pair.move() == ([], [Attach(STREAM)])
    pair.b.resume(Resume(STREAM, 0, 0, 100))
    assert pair.move() == ([Resume(STREAM, 0, 0, 100)], [])
    pair.a.start(Start(0, 0))
    batch = Batch(0, Kind.LINES, 0, chain(b"hi\n", 0), b"hi\n")
    pair.a.send(batch)
    assert pair.move() == ([], [Start(0, 0), batch])
    pair.b.ack(3, 103)
    pair.a.bye(Reason.DONE)
    assert pair.move() == ([Ack(3, 103)], [Bye(Reason.DONE, "")])


def test_the_acceptor_says_nothing_before_it_has_read_a_hello() -> None:
    session = Session(dialler=False, now=0.0)
    session.receive(MAGIC + encode(hello(1))[:-1], 0.0)
    assert session.output(0.0) == []
    with pytest.raises(LocalProtocolError):
        session.greet(hello(2))


def test_a_refused_peer_hears_magic_and_bye(pair: Pair) -> None:
    pair.a.greet(hello(1))
    pair.move()
    pair.b.refuse(Reason.BUSY, "linked with another")
    events, _ = pair.move()
    assert events == [Bye(Reason.BUSY, "linked with another")]


def test_no_common_version_is_said_with_both_versions() -> None:
    session = Session(dialler=False, now=0.0)
    error = heard(session, MAGIC + encode(hello(1, versions=(7, 8))))
    assert isinstance(error, VersionMismatch) and error.status == 4
    assert "version 7, 8" in str(error) and "version 1" in str(error)
    [bye] = said(session)
    assert isinstance(bye, Bye) and bye.reason == Reason.VERSION


def test_a_stranger_who_is_no_mysocket_hears_no_frame() -> None:
    session = Session(dialler=False, now=0.0)
    assert isinstance(heard(session, b"GET / HTTP/1.0\r\n\r\n"), NotMySocket)
    assert session.output(0.0) == []


def test_a_peer_that_takes_only_small_frames_is_refused() -> None:
    assert "1000 bytes" in str(heard(Session(dialler=False, now=0.0), MAGIC + encode(hello(1, max_frame=1000))))


BATCH = Batch(0, Kind.LINES, 0, chain(b"x\n", 0), b"x\n")


@pytest.mark.parametrize(
    "frame", [hello(1), Resume(STREAM, 0, 0, 1), Start(0, 0), BATCH, Ack(0, 0)], ids=lambda frame: type(frame).__name__
)
def test_a_frame_at_a_wrong_time_is_a_protocol_error(frame: Frame) -> None:
    pair = Pair().open()
    assert "wrong time" in str(heard(pair.b, encode(frame)))
    assert isinstance(said_frames := b"".join(map(bytes, pair.b.output(0.0))), bytes) and said_frames[4] == 9


def test_each_resume_takes_one_start() -> None:
    pair = Pair().open()
    pair.b.receive(encode(Attach(STREAM)), 0.0)
    pair.b.resume(Resume(STREAM, 0, 0, 1))
    assert pair.b.receive(encode(Start(0, 0)), 0.0) == [Start(0, 0)]
    heard(pair.b, encode(Start(0, 0)))


def test_batches_before_start_are_our_own_error() -> None:
    with pytest.raises(LocalProtocolError):
        Pair().open().a.send(BATCH)


def test_what_stands_before_an_error_still_counts() -> None:
    pair = Pair().open()
    events = pair.b.receive(encode(Attach(STREAM)) + b"\xff" * 9, 0.0)
    assert events[0] == Attach(STREAM) and isinstance(events[1], Broken)


def test_ping_goes_out_when_nothing_was_sent_and_is_answered() -> None:
    pair = Pair().open()
    pair.now = 14.9
    assert pair.a.tick(14.9) == [] and pair.a.output(14.9) == []
    pair.now = 15.0
    pair.a.tick(15.0)
    [ping] = [bytes(part) for part in pair.a.output(15.0)]
    assert ping == encode(Ping(2))
    assert pair.b.receive(ping, 15.1) == []
    assert pair.b.output(15.1) == [encode(Pong(2))]
    assert pair.a.receive(encode(Pong(2)), 15.25) == [] and pair.a.round_trip == 0.25


def test_both_sides_know_the_round_trip_soon_after_the_handshake() -> None:
    """0.1 s one way, and 0.5 s until the acceptor's owner has an answer. Data goes before: nobody waits for a PONG."""
    a, b = Session(dialler=True, now=0.0), Session(dialler=False, now=0.0)
    a.greet(hello(1))
    b.receive(b"".join(a.output(0.0)), 0.1)
    b.greet(hello(2))
    b.attach(hello(2).stream)
    a.receive(answer := b"".join(b.output(0.6)), 0.7)
    assert answer == MAGIC + b"".join(map(encode, (hello(2), Ping(1), Attach(hello(2).stream))))
    a.attach(STREAM)
    b.receive(answer := b"".join(a.output(0.7)), 0.8)
    assert sorted(frames(answer), key=repr) == [Attach(STREAM), Ping(1), Pong(1)]
    assert b.round_trip == pytest.approx(0.2) and a.round_trip is None
    a.receive(encode(Pong(1)), 0.9)
    assert a.round_trip == pytest.approx(0.2)
    assert a.output(1.0) == b.output(1.0)[1:] == []


@pytest.mark.parametrize("number", [0, 2, 2**64 - 1])
def test_a_pong_for_no_ping_of_ours_says_nothing(number: int) -> None:
    pair = Pair()
    pair.a.greet(hello(1))
    pair.move()
    pair.b.greet(hello(2))
    assert pair.b.receive(encode(Pong(number)), 5.0) == [] and pair.b.round_trip is None
    pair.move()
    assert pair.b.receive(encode(Pong(number)), 5.0) == [] and pair.b.round_trip is None


def test_a_pong_before_its_ping_was_taken_says_nothing() -> None:
    """The peer guesses the number of what is still here."""
    pair = Pair().open()
    before = pair.a.round_trip
    pair.a.ping()
    assert pair.a.receive(encode(Pong(2)), 5.0) == [] and pair.a.round_trip == before


def test_whoever_is_refused_or_refuses_pings_no_more() -> None:
    pair = Pair()
    pair.a.greet(hello(1))
    pair.move()
    pair.b.refuse(Reason.BUSY, "linked with another")
    assert said(pair.b) == [Bye(Reason.BUSY, "linked with another")]
    pair = Pair()
    pair.a.greet(hello(1))
    pair.move()
    pair.b.greet(hello(2))
    pair.move()
    pair.a.refuse(Reason.REFUSED, "another")
    # BYE is the last.
    assert frames(b"".join(map(bytes, pair.a.output(0.0))))[-1] == Bye(Reason.REFUSED, "another")


def test_an_open_session_that_nobody_uses_asks_to_be_woken_for_its_heartbeat_only() -> None:
    session = Pair().open().a
    assert session.next_deadline() == 15.0


def test_any_byte_heard_counts_as_life() -> None:
    pair = Pair().open()
    head = encode(BATCH)[:3]
    for at, byte in enumerate(head):
        now = 40.0 * (at + 1)
        pair.a.tick(now)
        assert pair.a.receive(bytes([byte]), now) == [] and not pair.a.is_over


def test_nothing_heard_for_long_ends_the_session() -> None:
    session = Pair().open().a
    while (now := session.next_deadline()) < 45.0:
        assert session.tick(now) == []
        session.output(now)
    [broken] = session.tick(45.0)
    assert isinstance(broken, Broken) and isinstance(broken.error, Silent) and session.is_over


def test_a_process_that_slept_reads_first_what_came_meanwhile() -> None:
    session = Pair().open().a
    assert session.tick(500.0) == [] and not session.is_over
    assert session.receive(encode(Ping(1)), 500.5) == []
    session.output(500.5)
    assert session.tick(502.0) == [] and session.next_deadline() == 515.5


def test_after_a_sleep_silence_still_ends_it_soon() -> None:
    session = Pair().open().a
    assert session.tick(500.0) == []
    assert [type(event) for event in session.tick(502.0)] == [Broken]


def test_a_challenge_that_nobody_answers_ends_the_session() -> None:
    session = Pair().open().a
    session.challenge(1.0, 5.0)
    assert session.output(1.0) == [encode(Ping(2))] and session.next_deadline() == 6.0
    assert [type(event) for event in session.tick(6.0)] == [Broken]


def test_a_challenge_that_is_answered_is_over() -> None:
    session = Pair().open().a
    session.challenge(1.0, 5.0)
    session.receive(encode(Pong(2)), 2.0)
    assert session.tick(6.0) == [] and not session.is_over


def test_the_handshake_has_a_time_limit() -> None:
    session = Session(dialler=False, now=100.0)
    assert session.next_deadline() == 100.0 + HANDSHAKE_TIME
    session.receive(MAGIC[:3], 105.0)
    assert [type(event) for event in session.tick(110.0)] == [Broken]


@pytest.mark.parametrize(("wait", "expected"), [(None, (15, 45)), (3, (1, 3)), (30, (10, 30)), (600, (15, 45))])
def test_with_a_limit_the_peer_is_missed_sooner(wait: float | None, expected: tuple[float, float]) -> None:
    assert Heartbeat.for_wait(wait) == expected
