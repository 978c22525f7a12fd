"""Whatever a peer sends: nothing is raised, nothing is called data that is not, and whoever else is linked is still served."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from mysocket.core.batch import Batch, Kind, LineCutter, chain
from mysocket.core.wire import MAGIC, NONE, Ack, Attach, Bye, Frame, Hello, Input, Ping, Pong, Resume, Start, encode
from tests.support.network import Connection, Person, Wire, run

U64 = st.sampled_from([0, 1, 2, 3, 5, 8 * 2**20, 2**63, NONE])
STREAMS = st.sampled_from([b"s" * 16, b"t" * 16])
BATCHES = st.builds(
    lambda start, kind, flags, payload, right: Batch(start, kind, flags, chain(payload, 0) if right else 7, payload),
    st.sampled_from([0, 1, 3, 2**40]),
    st.sampled_from(list(Kind)),
    st.integers(0, 15),
    st.binary(min_size=1, max_size=5),
    st.booleans(),
)
FRAMES: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Attach, STREAMS),
    st.builds(Resume, STREAMS, U64, U64, U64),
    st.builds(Start, U64, U64),
    BATCHES,
    st.builds(Ack, U64, U64),
    st.builds(Ping, U64),
    st.builds(Pong, U64),
    st.builds(Bye, st.integers(0, 12), st.text(max_size=5)),
)
SAYINGS = st.lists(st.one_of(FRAMES.map(encode), st.binary(max_size=20), st.just(MAGIC)), max_size=14)
HELLO = MAGIC + encode(Hello(node=b"n" * 16, stream=b"s" * 16, name="hostile", input=Input.FINITE))


@given(sayings=SAYINGS, polite=st.booleans(), hub=st.booleans(), step=st.sampled_from([1, 7, 2**30]))
@settings(max_examples=300)
def test_a_hostile_peer_hurts_nobody_else(sayings: list[bytes], polite: bool, hub: bool, step: int) -> None:
    clock = Clock()
    person = Person(clock, 1, hub=hub, whole=hub)
    friend = Person(clock, 2)
    friendship = Connection(friend, person) if hub else None
    if friendship is not None:
        run(friendship)
    connection = Connection.__new__(Connection)
    connection.whole = True
    connection.wires = [Wire(connection, 0), Wire(connection, 1)]
    hostile = connection.wires[1]
    hostile.protocol = person.protocol(dialler=False)
    hostile.protocol.makeConnection(hostile)  # type: ignore[arg-type]
    for saying in [HELLO] * polite + sayings:
        hostile.incoming += saying
        while hostile.open and hostile.deliver(step):
            pass
        clock.advance(0.01)
    if friendship is not None:
        assert friend.input is not None
        friend.input.accept(LineCutter().feed(b"a friend's line\n"))
        run(friendship)
        assert b"a friend's line\n" in person.sink.output
    for _ in range(70):
        clock.advance(1)
        if friendship is not None:
            run(friendship)
    assert not hostile.open
    if friendship is not None:
        assert friend.link.linked
