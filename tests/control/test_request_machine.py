"""Several clients, a service that is killed, connections that are lost: every message whole, in order, exactly once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mysocket.control import taking
from mysocket.control.protocol import encode
from mysocket.control.request import Request
from mysocket.control.taking import Floor
from mysocket.core.batch import Flag, Kind, Piece
from tests.control.bench import Kept, OwnLog, Service, Wire

WINDOW, HELD, CAPACITY, CLIENTS = 64, 3000, 400, 4


class Sender:
    """One client with one request, over its connections."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.request = Request(number.to_bytes(16, "big"))
        self.messages: list[bytes] = []
        self.wire: Wire | None = None
        self.withdrawn = False

    def give(self, size: int, parts: int) -> None:
        text = f"{self.number}:{len(self.messages)}:".encode() + b"." * size + b"\n"
        self.messages.append(text)
        step = max(1, -(-len(text) // parts))
        chunks = [text[at : at + step] for at in range(0, len(text), step)]
        flags = [int(Flag.MORE)] * (len(chunks) - 1) + [0]
        self.request.give([Piece(Kind.LINES, flag, chunk) for flag, chunk in zip(flags, chunks, strict=True)])

    def pump(self, chop: int) -> None:
        """Hear, and say what may be said, in reads of so many bytes."""
        wire = self.wire
        if wire is None:
            return
        wire.flush()
        for line in wire.heard:
            assert "error" not in line, line
            if "mysocket" not in line:
                self.request.hear(line)
        wire.heard.clear()
        if not self.withdrawn:
            wire.send(b"".join(encode(line) for line in self.request.lines()), chop)

    def connect(self, service: Service) -> None:
        self.lose()
        self.wire = service.connect()
        self.wire.say(self.request.begin())
        if self.withdrawn and not self.request.withdrawn:
            self.wire.say({"withdraw": True})

    def lose(self) -> None:
        if self.wire is not None:
            self.wire.drop()
            self.wire = None


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(taking, "WINDOW", WINDOW)
        self.kept = Kept()
        self.clients = [Sender(number) for number in range(CLIENTS)]
        self.service = self.start()

    def start(self) -> Service:
        service = Service(self.kept, log=OwnLog(self.kept, CAPACITY), at_once=False)
        service.factory.floor = Floor(HELD)
        service.factory.floor.held.on_room = service.factory.progress
        return service

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            for client in self.clients:
                client.lose()
            self.patch.undo()

    @rule(client=st.integers(0, CLIENTS - 1), size=st.integers(0, 300), parts=st.integers(1, 6), chop=st.integers(1, 300))
    def give(self, client: int, size: int, parts: int, chop: int) -> None:
        sender = self.clients[client]
        if not sender.request.complete and not sender.withdrawn:
            sender.give(size, parts)
        self.pump(client, chop)

    @rule(client=st.integers(0, CLIENTS - 1), chop=st.integers(1, 300))
    def pump(self, client: int, chop: int) -> None:
        sender = self.clients[client]
        if sender.wire is None:
            sender.connect(self.service)
        for _ in range(3):
            sender.pump(chop)

    @rule(client=st.integers(0, CLIENTS - 1))
    def connect(self, client: int) -> None:
        self.clients[client].connect(self.service)

    @rule(client=st.integers(0, CLIENTS - 1))
    def lose(self, client: int) -> None:
        self.clients[client].lose()

    @rule(client=st.integers(0, CLIENTS - 1))
    def end(self, client: int) -> None:
        if len(self.clients[client].messages) > 2:
            self.clients[client].request.finish()

    @rule()
    def withdraw(self) -> None:
        sender = self.clients[-1]
        if not sender.withdrawn and len(sender.messages) > 2:
            sender.withdrawn = True
            if sender.wire is not None:
                sender.wire.say({"withdraw": True})

    @rule(batches=st.integers(0, 3), items=st.integers(0, 3))
    def commit(self, batches: int, items: int) -> None:
        self.service.log.commit(batches, items)

    @rule()
    def deliver(self) -> None:
        self.service.log.deliver()

    @rule()
    def kill(self) -> None:
        self.service.log.on_progress = lambda: None
        for client in self.clients:
            client.lose()
        self.service = self.start()

    @invariant()
    def nothing_is_torn_or_twice(self) -> None:
        told: dict[int, list[bytes]] = {number: [] for number in range(CLIENTS)}
        for line in self.kept.payload.splitlines(keepends=True):
            told[int(line.split(b":")[0])].append(line)
        for sender in self.clients:
            there = told[sender.number]
            assert there == sender.messages[: len(there)]
            # What the client was told is there.
            assert sender.request.accepted <= sum(map(len, there))
            if sender.request.withdrawn:
                assert sender.request.accepted == sum(map(len, there))

    def finish(self) -> None:
        """In the end all of it is there, and the service holds nothing."""
        for sender in self.clients:
            sender.request.finish()
            sender.connect(self.service)
        for _ in range(1000):
            before = self.state()
            for sender in self.clients:
                sender.pump(1000)
            self.service.log.settle()
            self.service.log.deliver()
            if before == self.state():
                break
        self.nothing_is_torn_or_twice()
        for sender in self.clients:
            if sender.withdrawn:
                assert sender.request.withdrawn
            else:
                assert sender.request.is_accepted and sender.request.accepted == sum(map(len, sender.messages))
                assert sender.wire is not None
                sender.wire.say({"deliver": True})
                sender.pump(1000)
                assert sender.request.delivered
        held: Any = self.service.factory.floor.held
        assert held._size == 0
        for sender in self.clients:
            assert sender.wire is not None
            sender.wire.say({"confirm": True})
        self.service.outcomes.close()
        self.service.log.settle()
        assert not [name for name in self.kept.bookmarks if name.startswith("send:")]

    def state(self) -> object:
        return self.kept.position, [(*sender.request._state, sender.request._said) for sender in self.clients]


TestRequests = Machine.TestCase
TestRequests.settings = settings(max_examples=300, stateful_step_count=40)
