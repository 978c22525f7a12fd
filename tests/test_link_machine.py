"""Two nodes over a network that cuts, delays and re-joins at any byte, on one and on two connections.

Law: what comes out on one side is always a prefix of what went in on the other, and equal at the end.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.task import Clock

from mysocket.core.batch import Flag, Kind, LineCutter, Piece
from mysocket.core.ending import Progress
from tests.support.network import Connection, Person, run

SIDE = st.integers(0, 1)


class TwoNodes(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.people = [Person(self.clock, 1, name="a"), Person(self.clock, 2, name="b")]
        self.connections: list[Connection] = []
        self.ended = [False, False]
        self.cutters = [LineCutter(), LineCutter()]

    @rule(dialler=SIDE)
    def connect(self, dialler: int) -> None:
        self.connections = [connection for connection in self.connections if not connection.dead]
        if len(self.connections) < 2:
            self.connections.append(Connection(self.people[dialler], self.people[1 - dialler]))

    @rule(side=SIDE, data=st.binary(min_size=1, max_size=40))
    def type(self, side: int, data: bytes) -> None:
        if not self.ended[side]:
            self.people[side].given += data
            self.people[side].link.accept(self.cutters[side].feed(data))

    @rule(side=SIDE, size=st.integers(1, 300_000))
    def give_blob(self, side: int, size: int) -> None:
        if not self.ended[side]:
            person = self.people[side]
            person.link.accept(self.cutters[side].finish())
            data = bytes(size % 251 for _ in range(1)) * size
            person.given += data
            parts = [data[at : at + 262144] for at in range(0, size, 262144)]
            person.link.accept([Piece(Kind.BLOB, Flag.MORE, part) for part in parts[:-1]] + [Piece(Kind.BLOB, 0, parts[-1])])

    @rule(side=SIDE)
    def end(self, side: int) -> None:
        if not self.ended[side]:
            self.ended[side] = True
            self.people[side].link.accept(self.cutters[side].finish())
            self.people[side].link.end_input()

    @precondition(lambda self: self.connections)
    @rule(which=st.integers(0, 1), side=SIDE, count=st.one_of(st.integers(1, 40), st.just(10**9)))
    def deliver(self, which: int, side: int, count: int) -> None:
        self.connections[which % len(self.connections)].wires[side].deliver(count)

    @precondition(lambda self: self.connections)
    @rule(which=st.integers(0, 1), amounts=st.lists(st.tuples(SIDE, st.one_of(st.integers(1, 60), st.just(10**9))), max_size=12))
    def deliver_some(self, which: int, amounts: list[tuple[int, int]]) -> None:
        for side, count in amounts:
            self.deliver(which, side, count)

    @precondition(lambda self: self.connections)
    @rule(which=st.integers(0, 1), side=SIDE, data=st.binary(min_size=1, max_size=9), but=st.integers(0, 30))
    def send_and_cut_near_the_end(self, which: int, side: int, data: bytes, but: int) -> None:
        """A message goes all the way, and the connection breaks some bytes before the acknowledgement is through."""
        connection = self.connections[which % len(self.connections)]
        self.type(side, data + b"\n")
        for _ in range(6):
            for wire in connection.wires:
                wire.deliver(max(0, len(wire.incoming) - but))
        connection.cut()

    @precondition(lambda self: self.connections)
    @rule(which=st.integers(0, 1))
    def flow(self, which: int) -> None:
        run(self.connections[which % len(self.connections)])

    @precondition(lambda self: self.connections)
    @rule(which=st.integers(0, 1))
    def cut(self, which: int) -> None:
        self.connections[which % len(self.connections)].cut()

    @precondition(lambda self: self.connections)
    @rule(which=st.integers(0, 1), side=SIDE)
    def notice(self, which: int, side: int) -> None:
        self.connections[which % len(self.connections)].wires[side].notice()

    @rule(seconds=st.sampled_from([0.0, 0.02, 1.0, 16.0, 50.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(side=SIDE, slow=st.booleans())
    def output(self, side: int, slow: bool) -> None:
        self.people[side].sink.slow = slow

    @rule(side=SIDE, count=st.integers(1, 3))
    def drain(self, side: int, count: int) -> None:
        self.people[side].sink.drain(count)

    @invariant()
    def output_is_a_prefix_of_the_input(self) -> None:
        for side in (0, 1):
            assert self.people[1 - side].given.startswith(self.people[side].sink.output)
            assert not self.people[side].errors

    @invariant()
    def nothing_is_acknowledged_that_is_not_written(self) -> None:
        for side in (0, 1):
            retired = self.people[side].link.sending.spool.retired
            assert retired <= self.people[1 - side].link.receiving.inbox.committed

    def teardown(self) -> None:
        for person in self.people:
            person.sink.slow = False
            person.sink.drain()
        for side in (0, 1):
            self.end(side)
        for connection in self.connections:
            connection.cut()
        run(*self.connections)
        last = Connection(*self.people)
        for _ in range(4):
            run(last)
            self.clock.advance(0.03)
        run(last)
        for side in (0, 1):
            assert self.people[side].sink.output == self.people[1 - side].given
            assert self.people[side].link.sending.delivered
            assert self.people[side].facts().progress is Progress.DONE
            assert not self.people[side].errors
        for person in self.people:
            person.node.leave("done")
        run(last)
        assert last.dead
        self.clock.advance(20)
        assert not self.clock.getDelayedCalls()


TestTwoNodes = TwoNodes.TestCase
TestTwoNodes.settings = settings(
    max_examples=400, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
