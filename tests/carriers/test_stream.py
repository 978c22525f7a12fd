"""Stream carriers over real sockets: one suite of behaviour, run over TCP of both families and over Unix sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import endpoints
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mysocket.carriers.stream import StreamFactory, StreamProtocol
from mysocket.core.batch import LineCutter
from mysocket.core.session import Event
from mysocket.core.wire import Bye, Hello, Reason
from tests.support.network import Person


class Ear:
    """The owner of a carrier: keeps what it is told, and lets tests wait for it."""

    def __init__(self) -> None:
        self.carrier: StreamProtocol | None = None
        self.events: list[Event] = []
        self.reason: Failure | None = None
        self._waiting: list[tuple[Callable[[], bool], Deferred[None]]] = []

    def until(self, condition: Callable[[], bool]) -> Deferred[None]:
        """Fires when the condition is true after something was told."""
        done: Deferred[None] = Deferred()
        self._waiting.append((condition, done))
        self._look()
        return done

    def _look(self) -> None:
        for entry in list(self._waiting):
            if entry[0]() and entry in self._waiting:
                self._waiting.remove(entry)
                entry[1].callback(None)

    def connected(self, carrier: StreamProtocol) -> None:
        self.carrier = carrier
        self._look()

    def event(self, carrier: StreamProtocol, event: Event) -> None:
        self.events.append(event)

    def settle(self) -> None:
        self._look()

    def lost(self, carrier: StreamProtocol, reason: Failure) -> None:
        self.reason = reason
        self._look()


class Joined:
    """A dialled and an accepted carrier on the two ends of a real connection."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.here, self.there = Ear(), Ear()
        self.port: Any = None

    async def open(self, server: Any, client: Callable[[Any], Any]) -> None:
        self.port = await server.listen(StreamFactory(dialler=False, clock=self.reactor, owner=self.there))
        await client(self.port).connect(StreamFactory(dialler=True, clock=self.reactor, owner=self.here))
        await self.there.until(lambda: self.there.carrier is not None)

    @property
    def a(self) -> StreamProtocol:
        assert self.here.carrier is not None
        return self.here.carrier

    @property
    def b(self) -> StreamProtocol:
        assert self.there.carrier is not None
        return self.there.carrier

    async def greet(self) -> None:
        self.a.session.greet(Hello(node=b"a" * 16, stream=b"x" * 16))
        self.a.flush()
        await self.there.until(lambda: bool(self.there.events))
        self.b.session.greet(Hello(node=b"b" * 16, stream=b"y" * 16))
        self.b.flush()
        await self.here.until(lambda: bool(self.here.events))
        # Each side's first PING is answered, so that nothing is left to say.
        self.a.flush()
        await self.there.until(lambda: self.b.session.round_trip is not None)
        self.b.flush()
        await self.here.until(lambda: self.a.session.round_trip is not None)

    async def close(self) -> None:
        for ear in (self.here, self.there):
            if ear.reason is None and ear.carrier is not None:
                ear.carrier.abort()
                await ear.until(lambda ear=ear: ear.reason is not None)  # type: ignore[misc]
        await self.port.stopListening()


class CarrierBehaviour:
    """What every stream carrier does."""

    def server(self, reactor: Any, place: Path) -> Any:
        raise NotImplementedError

    def client(self, reactor: Any, port: Any) -> Any:
        raise NotImplementedError

    @pytest.fixture
    def joined(self, tmp_path: Path) -> Any:
        from twisted.internet import reactor

        made = Joined(reactor)
        opening = Deferred.fromCoroutine(made.open(self.server(reactor, tmp_path), lambda port: self.client(reactor, port)))
        pytest_twisted.blockon(opening)
        yield made
        pytest_twisted.blockon(Deferred.fromCoroutine(made.close()))

    @pytest_twisted.ensureDeferred
    async def test_a_handshake_passes(self, joined: Joined) -> None:
        await joined.greet()
        assert joined.a.session.is_open and joined.b.session.is_open

    @pytest_twisted.ensureDeferred
    async def test_what_the_socket_does_not_take_arrives_too_and_in_order(self, joined: Joined) -> None:
        """Ten megabytes while the other side does not read: most of it is queued, and nothing more is asked for."""
        await joined.greet()
        joined.b.pause()
        heard = bytearray()
        joined.b.dataReceived = heard.extend  # type: ignore[method-assign, assignment]
        sent = os.urandom(10_000_000)
        joined.a._send([sent[:3], memoryview(sent)[3:5_000_000], sent[5_000_000:]])
        assert not joined.a.writable
        joined.b.resume()
        await joined.here.until(lambda: joined.a.writable)
        joined.a._send([b"and then this"])
        joined.a.finish()
        await joined.there.until(lambda: joined.there.reason is not None)
        assert bytes(heard) == sent + b"and then this"

    @pytest_twisted.ensureDeferred
    async def test_finish_lets_the_other_side_read_everything_and_see_a_clean_end(self, joined: Joined) -> None:
        await joined.greet()
        joined.a.session.bye(Reason.DONE)
        joined.a.finish()
        await joined.there.until(lambda: joined.there.reason is not None)
        assert joined.there.events[-1] == Bye(Reason.DONE, "")
        assert joined.there.reason is not None and "cleanly" in joined.there.reason.getErrorMessage()

    @pytest_twisted.ensureDeferred
    async def test_a_bye_arrives_while_the_other_side_pours_data_in(self, joined: Joined) -> None:
        """No reset, caused by data nobody reads any more, overtakes it."""
        await joined.greet()
        joined.a._send([bytes(9_000_000)])
        joined.b.close(Reason.TOO_LONG, "too long")
        await joined.here.until(lambda: len(joined.here.events) > 1)
        assert joined.here.events[1] == Bye(Reason.TOO_LONG, "too long")

    @pytest_twisted.ensureDeferred
    async def test_an_abort_is_seen_by_the_other_side(self, joined: Joined) -> None:
        await joined.greet()
        joined.a.abort()
        await joined.there.until(lambda: joined.there.reason is not None)
        await joined.here.until(lambda: joined.here.reason is not None)

    @pytest_twisted.ensureDeferred
    async def test_drop_says_nothing_more(self, joined: Joined) -> None:
        joined.b.drop()
        await joined.here.until(lambda: joined.here.reason is not None)
        assert joined.here.events == [] and not joined.a.writable

    @pytest_twisted.ensureDeferred
    async def test_the_socket_s_errors_come_the_usual_way(self, joined: Joined) -> None:
        """A write to a dead socket raises nothing here; the connection is lost a moment later."""
        await joined.greet()
        joined.a.session.ping()
        assert joined.a._socket is not None
        joined.a._socket.shutdown(socket.SHUT_RDWR)
        joined.a.flush()
        await joined.here.until(lambda: joined.here.reason is not None)

    @pytest_twisted.ensureDeferred
    async def test_a_link_moves_megabytes_over_it(self, joined: Joined, tmp_path: Path) -> None:
        """Two real nodes, both ways at once, through a socket of this kind."""
        reactor = joined.reactor
        people = [Person(reactor, seed) for seed in (1, 2)]
        (tmp_path / "second").mkdir()
        port = await self.server(reactor, tmp_path / "second").listen(
            StreamFactory(dialler=False, clock=reactor, owner=people[1].node.strangers)
        )
        await self.client(reactor, port).connect(StreamFactory(dialler=True, clock=reactor, owner=people[0].node.strangers))
        given = [os.urandom(3_000_000), b"line\n" * 600_000]
        acknowledged: list[Deferred[None]] = []
        for person, data in zip(people, given, strict=True):
            assert person.input is not None
            arrived: Deferred[None] = Deferred()
            acknowledged.append(arrived)
            cutter = LineCutter()
            end = person.input.accept(cutter.feed(data) + cutter.finish())

            def look(position: int, end: int = end, arrived: Deferred[None] = arrived) -> None:
                if position >= end and not arrived.called:
                    arrived.callback(None)

            person.input.sending.on_acknowledged = look
        for arrived in acknowledged:
            await arrived
        assert bytes(people[0].sink.output) == given[1] and bytes(people[1].sink.output) == given[0]
        for person in people:
            person.node.leave("done")
        for person in people:
            await person.node.when_closed()
        await port.stopListening()


class TestTCP(CarrierBehaviour):
    def server(self, reactor: Any, place: Path) -> Any:
        return endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")

    def client(self, reactor: Any, port: Any) -> Any:
        return endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)

    @pytest_twisted.ensureDeferred
    async def test_small_frames_go_out_at_once(self, joined: Joined) -> None:
        for carrier in (joined.a, joined.b):
            assert carrier._socket is not None and carrier._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
class TestTCP6(CarrierBehaviour):
    def server(self, reactor: Any, place: Path) -> Any:
        return endpoints.TCP6ServerEndpoint(reactor, 0, interface="::1")

    def client(self, reactor: Any, port: Any) -> Any:
        return endpoints.TCP6ClientEndpoint(reactor, "::1", port.getHost().port)


class TestUnix(CarrierBehaviour):
    def server(self, reactor: Any, place: Path) -> Any:
        return endpoints.UNIXServerEndpoint(reactor, str(place / "socket"), mode=0o600)

    def client(self, reactor: Any, port: Any) -> Any:
        return endpoints.UNIXClientEndpoint(reactor, os.fsdecode(port.getHost().name))
