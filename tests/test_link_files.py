"""A file waits in the stream, and the peer takes none: who is told, what goes on, and what comes when another peer is there."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from mysocket.core.batch import Kind, LineCutter
from mysocket.core.transfer import Chunk, Part
from mysocket.core.wire import Input
from mysocket.errors import RefusedByPeer
from tests.support.network import Connection, Person, run

PIECES = [
    Chunk(Part.OFFER, b"i" * 16, 5, text="a").piece(),
    Chunk(Part.DATA, b"i" * 16, 0, b"12345").piece(),
    Chunk(Part.END, b"i" * 16, 5, text="a", digest=bytes(32)).piece(),
]
TOLD = "it takes no files (it was started without --download-dir), and one waits to be sent"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def taker(clock: Clock, seed: int, *, files: bool) -> Person:
    return Person(clock, seed, input=Input.OPEN, files=files)


def give(person: Person, text: bytes) -> None:
    assert person.input is not None
    person.input.accept(LineCutter().feed(text))


def give_file(person: Person) -> None:
    assert person.input is not None
    person.input.accept([*PIECES])


def settle(clock: Clock, *connections: Connection) -> None:
    for _ in range(4):
        run(*connections)
        clock.advance(0.03)


def told(person: Person) -> int:
    return sum(TOLD in text for text in person.said)


def test_an_open_input_is_told_and_waits_for_a_peer_that_takes_files(clock: Clock) -> None:
    a, b = Person(clock, 1, input=Input.OPEN), taker(clock, 2, files=False)
    give(a, b"before\n")
    connection = Connection(a, b)
    settle(clock, connection)
    assert not told(a)
    give_file(a)
    give(a, b"behind\n")
    settle(clock, connection)
    assert b.sink.output == b"before\n" and told(a) == 1 and not a.errors
    connection.cut()
    settle(clock, connection)
    again = Connection(b, a)
    settle(clock, again)
    assert told(a) == 1, "said once, though the connection was made anew"
    again.cut()
    settle(clock, again)
    # It is restarted with --download-dir: another node.
    c = taker(clock, 3, files=True)
    connection = Connection(a, c)
    settle(clock, connection)
    kinds = [block.kind for block in c.sink.blocks]
    assert kinds == [Kind.FILE, Kind.FILE, Kind.FILE, Kind.LINES] and c.sink.blocks[-1].payload == b"behind\n"
    assert not a.link.sending.undelivered and told(a) == 1


def test_it_is_said_again_when_a_later_peer_takes_none_again(clock: Clock) -> None:
    a = Person(clock, 1, input=Input.OPEN)
    for seed, files in ((2, False), (3, True), (4, False)):
        connection = Connection(a, taker(clock, seed, files=files))
        give_file(a)
        settle(clock, connection)
        connection.cut()
        settle(clock, connection)
    assert told(a) == 2


def test_a_finite_input_ends_with_it(clock: Clock) -> None:
    a, b = Person(clock, 1, input=Input.FINITE), taker(clock, 2, files=False)
    give(a, b"before\n")
    give_file(a)
    connection = Connection(a, b)
    settle(clock, connection)
    [error] = a.errors
    assert isinstance(error, RefusedByPeer) and error.status == 4 and TOLD in str(error)
    assert b.sink.output == b"before\n"


def test_the_other_direction_goes_on(clock: Clock) -> None:
    a, b = Person(clock, 1, input=Input.OPEN), taker(clock, 2, files=False)
    connection = Connection(a, b)
    give_file(a)
    give(b, b"hello\n")
    settle(clock, connection)
    assert a.sink.output == b"hello\n" and told(a) == 1
    for _ in range(10):
        settle(clock, connection)
        clock.advance(20)
        run(connection)
    assert a.link.linked and told(a) == 1


def test_who_leaves_is_not_told(clock: Clock) -> None:
    a, b = Person(clock, 1, input=Input.OPEN), taker(clock, 2, files=False)
    connection = Connection(a, b)
    settle(clock, connection)
    a.node.leave("bye")
    give_file(a)
    settle(clock, connection)
    assert not told(a)
