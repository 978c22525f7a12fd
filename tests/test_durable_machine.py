"""Two nodes with spools and output files over a network that breaks, in processes that die at any moment.

Everything is real but the transports and the threads: a spool commits when a rule says so, and what it has to tell the reactor
waits until another rule lets the reactor hear it.

Laws

1. FILE is a prefix of what is accepted in the sender's spool, and equal to it at the end.
2. The sender has forgotten nothing that is not committed in the receiver's ledger, on the disk.
3. The length of FILE that is committed is that of what is before the committed position.
4. What a restarted process finds of its own stream and its input is what it had committed.
5. Nobody ever sees a state that cannot be: no link ends with an error.

`MYSOCKET_MACHINE_SECONDS=600 pytest tests/test_durable_machine.py` runs it for about so long, with other examples each time.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, NamedTuple
from unittest import mock

import lmdb
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from twisted.internet.task import Clock

from mysocket import failpoints, node
from mysocket.carriers.stream import StreamProtocol
from mysocket.core.batch import END, Flag, Kind, Piece
from mysocket.core.wire import Input
from mysocket.ends.sink import FormatSink, PlainFormat
from mysocket.errors import MySocketError
from mysocket.link import Link
from mysocket.node import Character, Node
from mysocket.options import MAX_SPOOL
from mysocket.spool import changes, committer, disk, queue, space
from mysocket.spool.changes import Changes
from mysocket.spool.store import Store
from tests.support.network import Connection, run
from tests.support.spools import full_of, has_tail, kill, opened, output_of, store_of

SIDE = st.integers(0, 1)
#: Labels that are passed here; the others belong to real sockets, to stdout and to senders without a spool.
LABELS = ["S0", "S1", "S2", "S3", "S5", "S6", "S7", "R1", "R2", "R3", "R4", "R5", "R6", "R7", "H1", "H2", "D1"]
SIZES = st.lists(st.one_of(st.integers(1, 60), st.integers(1, 700)), max_size=4)
ROUNDS = st.integers(1, 6)
SECONDS = st.sampled_from([0.0, 0.03, 0.11])
SPACE = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None
LONG = float(os.environ.get("MYSOCKET_MACHINE_SECONDS", "0"))
#: Limits so small that a few lines reach all of them.
SMALL = {
    (queue, "GROUP"): 400,
    (queue, "GROUP_ITEMS"): 6,
    (queue, "RETIRE_SIZE"): 300,
    (committer, "FETCH"): 300,
    (committer, "FETCH_BATCHES"): 4,
    (space, "COMPACT_SIZE"): 150_000,
    (disk, "UNCOMMITTED"): 3000,
    (disk, "AHEAD"): 500,
    (disk, "AHEAD_BATCHES"): 6,
    (disk, "FETCH_BELOW"): 250,
    (disk, "FETCH_BELOW_BATCHES"): 3,
    (disk, "IN_FLIGHT"): 8,
    (disk, "BATCH_COST"): 40,
    (changes, "DELETED_AT_ONCE"): 3,
    (node, "WINDOW"): 900,
}


WORLD = settings(
    max_examples=250,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Crash(BaseException):
    """A process dies here."""


def common(one: bytes, other: bytes | bytearray) -> int:
    """How many bytes the two have in common at their beginning."""
    if other.startswith(one):
        return len(one)
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(other))


class Stand(NamedTuple):
    """Where an input and its stream stand behind a piece."""

    position: int
    text: int
    input_size: int
    input_complete: bool
    #: A message goes on behind it.
    more: bool


class Host:
    """What outlives a process: the disk, and what was accepted, as the model has it."""

    def __init__(self, world: World, side: int) -> None:
        self.world = world
        self.side = side
        self.spool_path = world.path / f"spool{side}"
        self.output_path = world.path / f"out{side}"
        self.moved: list[Path] = []
        self.process: Process | None = None
        self.processes = 0
        #: Where there is no room: on the disk of the spool, on that of the output, or for any commit.
        self.full = ""
        self.text = bytearray()
        self.stands = [Stand(0, 0, 0, False, False)]
        self.stream = b""

    def up(self) -> Process:
        """The process, started if there is none."""
        if self.process is None:
            self.processes += 1
            Process(self)
            assert self.process is not None
        return self.process

    def give(self, pieces: Iterable[Piece]) -> None:
        """The model's side of accepting pieces."""
        for piece in pieces:
            position, text, size, complete, _ = self.stands[-1]
            position += len(piece.payload)
            if piece.kind == Kind.END:
                complete = True
            else:
                self.text += piece.payload
                text += len(piece.payload)
                size, complete = (0 if complete else size) + len(piece.payload), False
            self.stands.append(Stand(position, text, size, complete, bool(piece.flags & Flag.MORE)))

    def stand(self, position: int) -> Stand:
        """Where it stands at a position, which must be a boundary."""
        found = self.stands[bisect_left(self.stands, position, key=lambda stand: stand.position)]
        assert found.position == position
        return found

    def forget_behind(self, position: int) -> None:
        """What was not accepted is gone with the process."""
        last = self.stand(position)
        del self.stands[self.stands.index(last) + 1 :]
        del self.text[last.text :]

    @property
    def file(self) -> bytes:
        """What was written, in all files that FILE was."""
        return b"".join(path.read_bytes() for path in (*self.moved, self.output_path) if path.exists())


class Process:
    """One process on a host. In its `with` block it acts: a crash there is its end."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = world = host.world
        self.dead = False
        self.armed = ("", 0)
        self.posted: deque[Callable[[], None]] = deque()
        self.errors: list[MySocketError] = []
        self.input: Link | None = None
        self.clock = Clock()
        self.clock.rightNow = world.now
        size = host.output_path.stat().st_size if host.output_path.exists() else 0
        self.spool = opened(
            host.spool_path,
            capacity=world.capacity,
            output=host.output_path,
            post=self.posted.append,
            now=self.clock.seconds,
            wall=self.clock.seconds,
            seed=10 * host.processes + host.side,
        )
        host.process = self
        assert host.output_path.stat().st_size == size, "nothing is cut off before a peer agrees"
        host.stream = self.spool.stream
        host.forget_behind(self.spool.end)
        stand = host.stands[-1]
        state = self.store.state()
        assert (state.input_size, state.input_complete) == (stand.input_size, stand.input_complete)
        self.spool.on_failure = self.fail
        output = self.spool.output
        assert output is not None
        self.node = Node(
            Character(name=f"host{host.side}", input=Input.FINITE, accept_loss=world.accept_loss),
            clock=self.clock,
            random_bytes=Random(1000 * host.processes + host.side).randbytes,
            sink=FormatSink(PlainFormat(whole=world.whole), output),
            watcher=self,
            spool=self.spool,
            now=self.clock.seconds,
        )
        self.node.start()

    def __enter__(self) -> Process:
        self.world.acting.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        assert self.world.acting.pop() is self
        if kind is not Crash or self in self.world.acting:
            return False
        self.die()
        return True

    def die(self) -> None:
        """`kill -9`: what was given to the network is still delivered."""
        self.dead = True
        self.host.process = None
        kill(self.spool)
        self.disconnect()

    def disconnect(self) -> None:
        """The kernel closes what the process had open."""
        for connection in self.world.connections:
            for wire in connection.wires:
                if isinstance(wire.protocol, Carrier) and wire.protocol.process is self:
                    wire.open = False
                    wire.incoming.clear()

    @property
    def store(self) -> Store:
        return store_of(self.spool)

    @property
    def link(self) -> Link:
        [link] = self.node.links.values()
        return link

    def step(self) -> bool:
        """Commit a group; whether there was any."""
        moved = False
        with self:
            moved = self.spool.step()
        return moved and not self.dead

    def hear(self, count: int = 10**9) -> bool:
        """The reactor hears what the committer has said; whether that was anything."""
        heard = False
        while self.posted and count and not self.dead:
            heard, count = True, count - 1
            with self:
                self.posted.popleft()()
        return heard

    def advance(self, seconds: float) -> None:
        with self:
            self.clock.advance(seconds)

    # What network.Connection asks of a person

    def protocol(self, *, dialler: bool) -> StreamProtocol:
        return Carrier(self, dialler=dialler)

    # The watcher of the node

    def changed(self) -> None:
        pass

    def tell(self, text: str) -> None:
        pass

    def fail(self, error: MySocketError) -> None:
        self.errors.append(error)


class Carrier(StreamProtocol):
    """A connection of a process, with which it acts."""

    def __init__(self, process: Process, *, dialler: bool) -> None:
        super().__init__(dialler=dialler, clock=process.clock, owner=process.node.strangers)
        self.process = process

    def connectionMade(self) -> None:
        with self.process:
            super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        if not self.process.dead:
            with self.process:
                super().dataReceived(data)

    def connectionLost(self, reason: Any = None) -> None:
        if not self.process.dead:
            with self.process:
                super().connectionLost(reason)

    def resumeProducing(self) -> None:
        if not self.process.dead:
            with self.process:
                super().resumeProducing()


class World(RuleBasedStateMachine):
    """Two hosts and what is between them; both send and both receive."""

    def __init__(self) -> None:
        super().__init__()
        self.cleanup = ExitStack()
        self.path = Path(tempfile.mkdtemp(dir=SPACE))
        self.cleanup.callback(shutil.rmtree, self.path)
        self.now = 0.0
        self.acting: list[Process] = []
        self.connections: list[Connection] = []
        self.count = 0
        self.whole = False
        self.accept_loss = False
        self.capacity = MAX_SPOOL
        self.hosts: list[Host] = []
        patch = self.patch
        patch(failpoints, "reach", self._reach)
        patch(failpoints, "during", self._reach)
        patch(failpoints, "armed", self._armed)
        patch(Store, "free", property(self._free))
        patch(Changes, "commit", self._commit(Changes.commit))
        patch(os, "writev", self._writev(os.writev))

    def patch(self, where: Any, name: str, value: Any) -> None:
        self.cleanup.enter_context(mock.patch.object(where, name, value))

    # Faults ---------------------------------------------------------------------------------------------------------------------

    @property
    def full(self) -> str:
        """What is full for the process that acts."""
        return self.acting[-1].host.full if self.acting else ""

    def _reach(self, label: str) -> None:
        if not self.acting or self.acting[-1].armed[0] != label:
            return
        process = self.acting[-1]
        process.armed = (label, process.armed[1] - 1)
        if not process.armed[1]:
            raise Crash(label)

    def _armed(self, label: str) -> bool:
        return bool(self.acting) and self.acting[-1].armed == (label, 1)

    def _free(self, store: Store) -> int:
        return 0 if self.full in ("spool", "commit") else 10**12

    def _commit(self, real: Callable[[Changes], None]) -> Callable[[Changes], None]:
        def commit(changes: Changes) -> None:
            if self.full == "commit":
                raise lmdb.DiskError("mdb_txn_commit: Input/output error")
            real(changes)

        return commit

    def _writev(self, real: Callable[[int, Any], int]) -> Callable[[int, Any], int]:
        def writev(fd: int, parts: Any) -> int:
            if self.full != "output":
                return real(fd, parts)
            # There is room for a few bytes, then for none.
            self.count += 1
            room = (0, 17, 300)[self.count % 3]
            data = b"".join(parts)[:room]
            if not data:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, [data])

        return writev

    # Rules ----------------------------------------------------------------------------------------------------------------------

    @initialize(
        small=st.sampled_from([True, True, True, False]), whole=st.booleans(), capacity=st.sampled_from([3000, 40_000, 2**30])
    )
    def begin(self, small: bool, whole: bool, capacity: int) -> None:
        self.whole = whole
        if small:
            self.capacity = capacity
            for (where, name), value in SMALL.items():
                self.patch(where, name, value)
        self.hosts = [Host(self, 0), Host(self, 1)]

    def payload(self, size: int) -> bytes:
        """No two are alike."""
        self.count += 1
        return (b"%d," % self.count * (size // 2 + 1))[: size - 1] + b"\n"

    def accept(self, side: int, pieces: list[Piece]) -> None:
        host = self.hosts[side]
        process = host.up()
        if process.link.sending.ended or process.link.room <= 0:
            return
        host.give(pieces)
        with process:
            process.link.accept(pieces)

    @rule(side=SIDE, sizes=SIZES)
    def lines(self, side: int, sizes: list[int]) -> None:
        self.accept(side, [Piece(Kind.LINES, 0, self.payload(size)) for size in sizes])

    @rule(side=SIDE, size=st.sampled_from([1, 4000, 262_143, 262_144]))
    def large(self, side: int, size: int) -> None:
        self.accept(side, [Piece(Kind.LINES, 0, self.payload(size))])

    @rule(side=SIDE, sizes=st.lists(st.integers(1, 300), min_size=2, max_size=5), at_once=st.booleans())
    def parts(self, side: int, sizes: list[int], at_once: bool) -> None:
        pieces = [Piece(Kind.BLOB, Flag.MORE, self.payload(size)) for size in sizes]
        pieces[-1] = pieces[-1]._replace(flags=0)
        # A message of more parts than may be in flight would not pass to who wants it whole.
        self.accept(side, self._rest_of_message(side))
        if at_once:
            self.accept(side, pieces)
            return
        for piece in pieces:
            self.accept(side, [piece])

    @rule(side=SIDE)
    def end_and_begin_the_next(self, side: int) -> None:
        self.accept(side, [END])

    def _rest_of_message(self, side: int) -> list[Piece]:
        """What a message still needs: who wants whole messages waits for it."""
        self.hosts[side].up()
        return [Piece(Kind.BLOB, 0, self.payload(9))] if self.hosts[side].stands[-1].more else []

    @rule(side=SIDE)
    def end(self, side: int) -> None:
        host = self.hosts[side]
        process = host.up()
        if process.link.sending.ended:
            return
        host.give([END])
        with process:
            process.link.end_input()

    @rule(side=SIDE, count=st.integers(1, 3))
    def step(self, side: int, count: int) -> None:
        process = self.hosts[side].up()
        for _ in range(count):
            if not process.dead:
                process.step()

    @rule(side=SIDE, count=st.one_of(st.integers(1, 3), st.just(10**9)))
    def hear(self, side: int, count: int) -> None:
        self.hosts[side].up().hear(count)

    @rule(side=SIDE)
    def commit(self, side: int) -> None:
        self._commit_all(self.hosts[side].up())

    @staticmethod
    def _commit_all(process: Process) -> None:
        for _ in range(10_000):
            if process.dead or not (process.step() or process.hear()):
                return
        raise AssertionError("it does not come to rest")

    @rule(dialler=SIDE)
    def connect(self, dialler: int) -> None:
        self.connections = [connection for connection in self.connections if not connection.dead]
        if len(self.connections) < 2:
            ends: list[Any] = [self.hosts[dialler].up(), self.hosts[1 - dialler].up()]
            self.connections.append(Connection(*ends))

    @precondition(lambda self: self.connections)
    @rule(which=SIDE, amounts=st.lists(st.tuples(SIDE, st.one_of(st.integers(1, 60), st.just(10**9))), min_size=1, max_size=12))
    def deliver(self, which: int, amounts: list[tuple[int, int]]) -> None:
        wires = self.connections[which % len(self.connections)].wires
        for side, count in amounts:
            wires[side].deliver(count)

    @precondition(lambda self: self.connections)
    @rule(which=SIDE)
    def flow(self, which: int) -> None:
        run(self.connections[which % len(self.connections)])

    @rule(sizes=SIZES, rounds=ROUNDS, seconds=SECONDS, late=st.booleans())
    def work(self, sizes: list[int], rounds: int, seconds: float, late: bool) -> None:
        """Both sides have something to say, and everything goes on for a while."""
        for side in (0, 1):
            self.lines(side, sizes)
        self._work(rounds, seconds, late=late)

    def _work(self, rounds: int, seconds: float, *, late: bool) -> None:
        """Whoever hears of a commit `late` hears what came from the network meanwhile before."""
        for turn in range(rounds):
            if not any(self._is_up(connection) for connection in self.connections):
                run(*self.connections)
                self.connect(turn % 2)
            run(*self.connections)
            for host in self.hosts:
                process = host.up()
                if late:
                    process.hear()
                    while process.step():
                        pass
                else:
                    self._commit_all(process)
            self._advance(seconds)

    @staticmethod
    def _is_up(connection: Connection) -> bool:
        return connection.whole and all(wire.open for wire in connection.wires)

    @precondition(lambda self: self.connections)
    @rule(which=SIDE)
    def cut(self, which: int) -> None:
        self.connections[which % len(self.connections)].cut()

    @precondition(lambda self: self.connections)
    @rule(which=SIDE, side=SIDE)
    def notice(self, which: int, side: int) -> None:
        self.connections[which % len(self.connections)].wires[side].notice()

    @rule(seconds=st.sampled_from([0.02, 0.11, 1.0, 6.0, 50.0]))
    def wait(self, seconds: float) -> None:
        self._advance(seconds)

    def _advance(self, seconds: float) -> None:
        self.now += seconds
        for host in self.hosts:
            if host.process is not None:
                host.process.advance(seconds)

    @rule(side=SIDE, label=st.sampled_from(LABELS), passages=st.integers(1, 3), sizes=SIZES, rounds=ROUNDS, late=st.booleans())
    def crash_at(self, side: int, label: str, passages: int, sizes: list[int], rounds: int, late: bool) -> None:
        """The process dies when it passes this label so often, now or later."""
        self.hosts[side].up().armed = (label, passages)
        self.work(sizes, rounds, 0.03, late)

    @rule(side=SIDE, label=st.sampled_from(["R2", "R5", "R6", "R7", "S1", "S2", "S3"]), sizes=SIZES)
    def both_crash(self, side: int, label: str, sizes: list[int]) -> None:
        """In the middle of a commit, which the other side does not outlive either."""
        self.crash_at(side, label, 1, sizes, 2, late=False)
        self.crash((1 - side,), power=False)

    @rule(sides=st.sampled_from([(0,), (1,), (0, 1)]), power=st.booleans())
    def crash(self, sides: tuple[int, ...], power: bool) -> None:
        for side in sides:
            process = self.hosts[side].process
            if process is not None:
                process.die()
        if power:
            for connection in self.connections:
                connection.cut()

    @rule(side=SIDE)
    def leave(self, side: int) -> None:
        """A process ends well; its successor goes on."""
        process = self.hosts[side].process
        if process is not None:
            with process:
                process.node.leave("it ends")
            if not process.dead:
                self._close(process)

    def _close(self, process: Process) -> None:
        process.armed = ("", 0)
        closed: list[bool] = []
        process.spool.close(lambda: closed.append(True))
        while process.step():
            pass
        process.hear()
        assert closed
        process.dead = True
        process.host.process = None
        process.disconnect()

    @rule(side=SIDE, where=st.sampled_from(["", "spool", "output", "commit"]))
    def fill(self, side: int, where: str) -> None:
        self.hosts[side].up()
        self.hosts[side].full = where

    @rule(side=SIDE, where=st.sampled_from(["spool", "output", "commit"]), sizes=SIZES, rounds=ROUNDS)
    def be_full_for_a_while(self, side: int, where: str, sizes: list[int], rounds: int) -> None:
        self.fill(side, where)
        self.work(sizes, rounds, 0.2, late=False)
        self.fill(side, "")
        self._work(3, 0.5, late=False)

    @rule(side=SIDE)
    def move_file_away(self, side: int) -> None:
        host = self.hosts[side]
        process = host.up()
        output = output_of(process.spool)
        assert output is not None and process.spool.output is not None
        process.armed = ("", 0)
        self._commit_all(process)
        if host.full or process.dead or full_of(process.spool) or has_tail(output):
            return
        name = host.output_path.with_name(f"moved{host.side}.{len(host.moved):03}")
        host.output_path.rename(name)
        host.moved.append(name)
        process.spool.output.reopen()
        self._commit_all(process)
        assert host.output_path.exists()

    # Laws -----------------------------------------------------------------------------------------------------------------------

    @invariant()
    def laws(self) -> None:
        self.nobody_fails()
        self.the_file_is_a_prefix_of_what_is_accepted()
        self.positions_agree()
        self.a_tail_is_only_behind_a_crash()

    def nobody_fails(self) -> None:
        for host in self.hosts:
            if host.process is not None:
                assert not host.process.errors

    def the_file_is_a_prefix_of_what_is_accepted(self) -> None:
        for side, host in enumerate(self.hosts):
            sender = self.hosts[1 - side]
            written = host.file
            assert common(written, sender.text) == len(written)
            if sender.process is not None:
                assert len(written) <= sender.stand(sender.process.store.state().end).text

    def positions_agree(self) -> None:
        for side, host in enumerate(self.hosts):
            sender, receiver = self.hosts[1 - side], host.process
            if receiver is None:
                continue
            entry = receiver.store.entries().get(sender.stream)
            received = entry.mark.position if entry is not None else 0
            state = receiver.store.state()
            moved = sum(path.stat().st_size for path in host.moved)
            assert moved + state.output["length"] == sender.stand(received).text
            if sender.process is None:
                continue
            own, spool = sender.process.store.state(), sender.process.spool
            assert own.retired <= spool.retired <= received <= own.end
            assert spool.retired <= spool.committed <= own.end <= spool.end
            assert (own.input_size, own.input_complete) == sender.stand(own.end)[2:4]

    def a_tail_is_only_behind_a_crash(self) -> None:
        for host in self.hosts:
            output = output_of(host.process.spool) if host.process is not None else None
            if output is None or host.process is None or full_of(host.process.spool):
                continue
            size, committed = host.output_path.stat().st_size, host.process.store.state().output["length"]
            assert size >= committed
            assert size == committed or has_tail(output)

    @rule(anew=st.booleans())
    def all_arrives(self, anew: bool) -> None:
        """With room, a connection and time enough everything gets there."""
        for side, host in enumerate(self.hosts):
            host.full = ""
            process = host.up()
            process.armed = ("", 0)
            rest = self._rest_of_message(side)
            host.give(rest)
            with process:
                process.link.accept(rest)
        for connection in self.connections:
            if anew:
                connection.cut()
        for _ in range(1000):
            self._work(1, 0.25, late=False)
            if not (self._left(0) or self._left(1)):
                break
        for side, host in enumerate(self.hosts):
            written, given = host.file, self.hosts[1 - side].text
            assert len(written) == len(given) == common(written, given)
            assert not self._left(side)
            link, last = host.up().link, self.hosts[1 - side].stands[-1]
            assert link.receiving.inbox.at_end == last.input_complete
            assert link.room == min(self.capacity, disk.UNCOMMITTED)

    def _left(self, side: int) -> dict[str, object]:
        """What is not delivered, not forgotten, or waits for room."""
        process = self.hosts[side].up()
        ends = {"given": self.hosts[side].stands[-1].position, "end": process.spool.end}
        ends |= {"retired": process.spool.retired, "deleted": process.store.state().retired}
        return ends if len(set(ends.values())) > 1 else full_of(process.spool)

    def teardown(self) -> None:
        with self.cleanup:
            try:
                if self.hosts and sys.exc_info()[0] is None:  # what comes behind a failure tells nothing
                    self._finish()
            finally:
                for host in self.hosts:
                    if host.process is not None:
                        host.process.die()

    def _finish(self) -> None:
        self.all_arrives(anew=False)
        self.laws()
        for side in (0, 1):
            self.leave(side)
            self.hosts[side].up()


if LONG:

    @pytest.mark.parametrize("steps", [30, 100])
    def test_for_long(steps: int) -> None:
        until = time.monotonic() + LONG / 2
        while time.monotonic() < until:
            run_state_machine_as_test(World, settings=settings(WORLD, max_examples=300, stateful_step_count=steps, database=None))

else:
    TestWorld = World.TestCase
    TestWorld.settings = WORLD


def test_a_stream_that_goes_on_behind_an_accepted_loss_is_in_the_file_once() -> None:
    """It begins at a position that is not 0, and the receiver dies before it has committed any of it."""
    world = World()
    world.accept_loss = True
    with world.cleanup:
        world.begin(small=False, whole=False, capacity=MAX_SPOOL)
        sender, receiver = world.hosts
        world.lines(0, [8])
        world._work(6, 0.2, late=False)
        assert receiver.process is not None and sender.process is not None
        receiver.process.die()
        shutil.rmtree(receiver.spool_path)
        receiver.output_path.unlink()
        world._work(6, 0.2, late=False)
        assert sender.process.spool.began == 8
        world.crash_at(1, "R7", 1, [], 0, late=False)
        world.lines(0, [9])
        world._work(6, 0.2, late=False)
        assert receiver.processes == 3 and receiver.file == sender.text[8:]
        for host in world.hosts:
            host.up().die()
