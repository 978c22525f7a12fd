"""From option text to what listens and what dials, and the sentences when that does not work."""

from __future__ import annotations

import errno
import gc
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import given
from hypothesis import strategies as st
from twisted.application.internet import ClientService
from twisted.internet import error
from twisted.internet import reactor as installed
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.python import lockfile
from twisted.python.failure import Failure

from mysocket.carriers import build
from mysocket.errors import CannotListen, ClosedWithoutWord, ConnectionRefused, MySocketError, PortTaken, UnknownHost, Unreachable

reactor: Any = installed
HAS_SIX = Path("/proc/net/if_inet6").exists()
six_only = pytest.mark.skipif(not HAS_SIX, reason="this machine has no IPv6")


# Waiting between attempts -------------------------------------------------------------------------------------------------------


@given(attempt=st.integers(-1, 100_000), chance=st.floats(0, 1, exclude_max=True))
def test_chance_takes_any_part_of_a_wait_and_leaves_the_shortest(attempt: int, chance: float) -> None:
    wait = build.retry_policy(lambda: chance)(attempt)
    longest = build.retry_policy(lambda: 1.0)(attempt)
    assert build.SHORTEST_RETRY <= wait <= longest <= build.LAST_RETRY
    assert build.retry_policy(lambda: 0.0)(attempt) == build.SHORTEST_RETRY
    middle = build.retry_policy(lambda: 0.5)(attempt)
    assert middle == pytest.approx((build.SHORTEST_RETRY + longest) / 2), "each wait is as likely as any other"


def test_the_longest_waits_grow_from_the_first_to_the_last() -> None:
    policy = build.retry_policy(lambda: 1.0)
    waits = [policy(attempt) for attempt in range(1, 15)]
    assert waits[0] == pytest.approx(build.FIRST_RETRY) and waits[-1] == pytest.approx(build.LAST_RETRY)
    for before, after in pairwise(waits):
        assert after == pytest.approx(min(before * build.FACTOR, build.LAST_RETRY))


def test_a_lost_link_is_tried_again_soon_and_an_old_one_within_half_a_minute() -> None:
    """docs/operations.md says why; whoever changes these runs `python -m bench.storm`."""
    policy = build.retry_policy(lambda: 0.5)
    assert policy(1) <= 0.25 and policy(1000) <= 15.1


# Where to listen ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bind", "peer", "wanted"),
    [
        (None, None, ["::"]),
        (None, "peer.example", ["::"]),
        (None, "192.0.2.1", ["::"]),
        (None, "127.0.0.2", ["127.0.0.1", "::1"]),
        (None, "::1", ["127.0.0.1", "::1"]),
        (None, "localhost", ["127.0.0.1", "::1"]),
        ("0.0.0.0", "127.0.0.1", ["0.0.0.0"]),
        ("192.0.2.7", None, ["192.0.2.7"]),
    ],
)
def test_a_peer_on_this_machine_limits_listening_to_it_unless_an_address_is_given(
    bind: str | None, peer: str | None, wanted: list[str]
) -> None:
    assert build.interfaces(bind, peer) == wanted


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("unix:{}", 0o600),
        ("unix:address={}", 0o600),
        ("unix:{}:lockfile=0", 0o600),
        ("unix:{}:mode=660", 0o660),
        ("unix:mode=666:address={}", 0o666),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_unix_socket_is_for_this_user_unless_its_string_has_a_mode(tmp_path: Path, text: str, mode: int) -> None:
    before = os.umask(0)
    try:
        [port] = await build.listen_endpoint(reactor, text.format(tmp_path / "s"), Factory.forProtocol(Protocol))
    finally:
        os.umask(before)
    found = (tmp_path / "s").stat().st_mode
    await port.stopListening()
    assert stat.S_ISSOCK(found) and oct(stat.S_IMODE(found)) == oct(mode)


@pytest_twisted.ensureDeferred
async def test_a_mode_in_the_name_of_a_unix_socket_is_no_mode(tmp_path: Path) -> None:
    [port] = await build.listen_endpoint(reactor, f"unix:address={tmp_path}/s\\:mode=666", Factory.forProtocol(Protocol))
    found = (tmp_path / "s:mode=666").stat().st_mode
    await port.stopListening()
    assert oct(stat.S_IMODE(found)) == oct(0o600)


@pytest.mark.parametrize("text", ["nonsense:1", "tcp", "tcp:port=many", "unix:/tmp/s:mode=rw", "tcp:1:surprise=2"])
def test_what_is_no_server_endpoint_is_told_with_its_text(text: str) -> None:
    with pytest.raises(CannotListen, match=f"Cannot listen on {text}: .+"):
        build.server_endpoint(reactor, text)


def test_what_may_be_the_name_of_a_file_is_told_how_to_write_one() -> None:
    with pytest.raises(CannotListen, match=r"Unknown endpoint type: 'notes'; if it is a file, write \./notes:2024\.txt\."):
        build.server_endpoint(reactor, "notes:2024.txt")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("tcp:peer.example:9", "peer.example"),
        ("tcp:host=peer.example:port=9", "peer.example"),
        ("tcp:port=9:host=peer.example", "peer.example"),
        ("tcp:peer.example:port=9:timeout=5", "peer.example"),
        ("tcp:192.0.2.1:9", "192.0.2.1"),
        (r"tcp:2001\:db8\:\:1:9", "2001:db8::1"),
        (r"tcp:host=\:\:1:port=9", "::1"),
        ("tls:peer.example:9", "peer.example"),
        ("unix:/run/s", None),
        ("unix:path=/run/s", None),
        ("tcp", None),
    ],
)
def test_the_host_of_a_client_endpoint(text: str, host: str | None) -> None:
    assert build.endpoint_host(text) == host


# Listening on a port ------------------------------------------------------------------------------------------------------------


async def close(ports: list[Any]) -> None:
    for port in ports:
        await port.stopListening()


@six_only
@pytest_twisted.ensureDeferred
async def test_the_kernel_s_choice_is_the_same_number_on_both_addresses() -> None:
    ports = await build.listen_port(reactor, 0, ["127.0.0.1", "::1"], Factory.forProtocol(Protocol))
    found = [(port.getHost().host, port.getHost().port) for port in ports]
    await close(ports)
    number = found[0][1]
    assert number > 0 and found == [("127.0.0.1", number), ("::1", number)]


@pytest.mark.parametrize(
    ("address", "shown"), [("127.0.0.1", "127.0.0.1"), pytest.param("::1", "[::1]", marks=six_only)], ids=["IPv4", "IPv6"]
)
@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken_is_told(address: str, shown: str) -> None:
    with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as other:
        number = other.getsockname()[1]
        with pytest.raises(PortTaken) as told:
            await build.listen_port(reactor, number, [address], Factory.forProtocol(Protocol))
    assert str(told.value).startswith(
        f"Cannot listen on {shown}:{number}: {os.strerror(errno.EADDRINUSE)}. Process {os.getpid()} ("
    )
    assert ") listens there; choose another, or end that program." in str(told.value)
    assert told.value.status == 2


def test_a_udp_port_that_is_taken_is_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, socket.create_server(("127.0.0.1", 0)):
        other.bind(("127.0.0.1", 0))
        with pytest.raises(PortTaken, match=rf"Process {os.getpid()} \(\S.*\) listens there; "):
            build.listen_datagrams(reactor, other.getsockname()[1], "127.0.0.1", DatagramProtocol(), optional=False)


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()
        with pytest.raises(PortTaken, match=rf"Process {os.getpid()} \(\S.*\) listens there; "):
            await build.listen_endpoint(reactor, f"unix:{tmp_path}/s", Factory.forProtocol(Protocol))


@pytest.mark.parametrize("of_another_user", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_unix_socket_that_a_killed_process_left_is_taken_though_its_number_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_another_user: bool
) -> None:
    def kill(pid: int, number: int) -> None:
        if of_another_user:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(lockfile, "kill", kill)
    text, lock = f"unix:{tmp_path}/s", tmp_path / "s.lock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "s"))
    lock.symlink_to(str(os.getpid()))  # in a container each process has the number of the one before
    [port] = await build.listen_endpoint(reactor, text, Factory.forProtocol(Protocol))
    try:
        with pytest.raises(CannotListen if of_another_user else PortTaken):
            await build.listen_endpoint(reactor, text, Factory.forProtocol(Protocol))
        assert lock.is_symlink()
    finally:
        await port.stopListening()
    assert not list(tmp_path.iterdir())


@pytest_twisted.ensureDeferred
async def test_a_file_in_the_place_of_a_unix_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(b"of somebody")
    (tmp_path / "s.lock").symlink_to(str(os.getpid()))
    with pytest.raises(PortTaken):
        await build.listen_endpoint(reactor, f"unix:{tmp_path}/s", Factory.forProtocol(Protocol))
    assert (tmp_path / "s").read_bytes() == b"of somebody"


def test_where_nobody_can_be_seen_another_program_has_the_port() -> None:
    told = PortTaken("Address already in use", where="[::]:80")
    assert str(told) == (
        "Cannot listen on [::]:80: Address already in use. Another program uses that port; choose another, or end that program."
    )


class Kernel:
    """What binds sockets: numbers from a list for whoever asks for 0, and refusals."""

    def __init__(self, numbers: list[int], refuse: Callable[[str, int], int | None]) -> None:
        self.open: list[tuple[str, int]] = []
        self.asked: list[tuple[str, int]] = []
        self._numbers = iter(numbers)
        self._refuse = refuse

    def listenTCP(self, port: int, factory: Any, backlog: int, interface: str) -> Any:
        self.asked.append((interface, port))
        number = port or next(self._numbers)
        if (code := self._refuse(interface, number)) is not None:
            raise error.CannotListenError(interface, port, OSError(code, os.strerror(code)))
        self.open.append((interface, number))
        return Listening(self, interface, number)

    def listen(self, port: int, *addresses: str) -> list[tuple[str, int]]:
        """What `listen_port` leads to: everything here is done at once."""
        done = Deferred.fromCoroutine(build.listen_port(self, port, list(addresses), Factory()))
        results: list[Any] = []
        done.addBoth(results.append)
        [result] = results
        if isinstance(result, Failure):
            result.raiseException()
        return [(found.getHost().host, found.getHost().port) for found in result]


class Listening:
    def __init__(self, kernel: Kernel, host: str, port: int) -> None:
        self._kernel = kernel
        self._place = (host, port)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", *self._place)

    def stopListening(self) -> Deferred[None] | None:
        self._kernel.open.remove(self._place)
        return None


def test_a_number_that_is_taken_on_the_second_address_is_given_back_and_another_one_tried() -> None:
    kernel = Kernel([40001, 40002, 40003], lambda host, port: errno.EADDRINUSE if host == "::1" and port < 40003 else None)
    assert kernel.listen(0, "127.0.0.1", "::1") == kernel.open == [("127.0.0.1", 40003), ("::1", 40003)]


def test_the_search_for_a_number_comes_to_an_end_and_leaves_nothing_open() -> None:
    kernel = Kernel(list(range(40000, 50000)), lambda host, port: errno.EADDRINUSE if host == "::1" else None)
    with pytest.raises(PortTaken, match=r"Cannot listen on \[::1\]:40015: "):
        kernel.listen(0, "127.0.0.1", "::1")
    assert not kernel.open and len(kernel.asked) == 2 * build.ATTEMPTS


def test_a_number_the_user_gave_is_tried_once_and_on_all_addresses_or_none() -> None:
    kernel = Kernel([], lambda host, port: errno.EADDRINUSE if host == "::1" else None)
    with pytest.raises(PortTaken):
        kernel.listen(9000, "127.0.0.1", "::1")
    assert not kernel.open and kernel.asked == [("127.0.0.1", 9000), ("::1", 9000)]


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_a_machine_without_ipv6_listens_on_ipv4(code: int) -> None:
    kernel = Kernel([40001, 40002], lambda host, port: code if ":" in host else None)
    assert kernel.listen(0, "127.0.0.1", "::1") == [("127.0.0.1", 40001)]
    assert kernel.listen(9000, "::") == [("0.0.0.0", 9000)]


@pytest.mark.parametrize(
    ("address", "code", "where"),
    [
        ("192.0.2.7", errno.EADDRNOTAVAIL, "192.0.2.7:80"),
        ("2001:db8::7", errno.EADDRNOTAVAIL, "[2001:db8::7]:80"),
        ("127.0.0.1", errno.EACCES, "127.0.0.1:80"),
        ("::", errno.EACCES, "[::]:80"),
    ],
)
def test_an_address_that_cannot_be_had_is_told_with_the_reason(address: str, code: int, where: str) -> None:
    kernel = Kernel([], lambda host, port: code)
    with pytest.raises(CannotListen) as told:
        kernel.listen(80, address)
    assert str(told.value) == f"Cannot listen on {where}: {os.strerror(code)}. Check the address and the permissions."


# What is said when nobody answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "kind", "sentence"),
    [
        (
            error.ConnectionRefusedError(osError=errno.ECONNREFUSED),
            ConnectionRefused,
            "peer.example:9 refused the connection: nothing listens there yet. Start mysocket on that side, or check the port.",
        ),
        (
            error.DNSLookupError("no results for hostname lookup: peer.example"),
            UnknownHost,
            "The name peer.example is unknown: the look-up found no address. Check its spelling and the name server.",
        ),
        (
            error.TimeoutError(),
            Unreachable,
            "peer.example:9 cannot be reached: no answer within 30 s. Check the network, the address and firewalls on the way.",
        ),
        (
            error.NoRouteError(osError=errno.ENETUNREACH),
            Unreachable,
            "peer.example:9 cannot be reached: Network is unreachable. Check the network, the address and firewalls on the way.",
        ),
        (
            error.ConnectError(string="something new"),
            Unreachable,
            "peer.example:9 cannot be reached: An error occurred while connecting: something new. "
            "Check the network, the address and firewalls on the way.",
        ),
        (
            RuntimeError(),
            Unreachable,
            "peer.example:9 cannot be reached: RuntimeError. Check the network, the address and firewalls on the way.",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_what_is_said_when_a_connection_cannot_be_made(problem: Exception, kind: type[MySocketError], sentence: str) -> None:
    told = build.connect_error(problem, "peer.example:9")
    assert type(told) is kind and str(told) == sentence


def test_a_sentence_stays_what_it_is() -> None:
    told = ClosedWithoutWord(peer="192.0.2.1:9", address="192.0.2.2")
    assert build.connect_error(told, "peer.example:9") is told


# Dialling ---------------------------------------------------------------------------------------------------------------------


class Dialling:
    """A dialler over an endpoint whose connections come, stay and go as a test tells them to."""

    def __init__(self, *, refuse: Exception | None = None, silent: bool = False, chance: float = 1.0) -> None:
        self.clock = Clock()
        self.attempts: list[float] = []
        self.said: list[str] = []
        self._refuse = refuse
        self._silent = silent
        self.handshake: Deferred[None] = Deferred()
        self.connection: Any = None
        self.known = build.Attempts()
        self.service: ClientService = build.dialler(
            self.clock,
            self,  # type: ignore[arg-type]
            "peer.example:9",
            Factory.forProtocol(Protocol),
            prepare=self._prepare,
            report=lambda problem: self.said.append(str(problem)),
            random=lambda: chance,
            attempts=self.known,
        )
        self.service.startService()

    def connect(self, factory: Any) -> Deferred[Any]:
        self.attempts.append(self.clock.seconds())
        if self._refuse is not None:
            return fail(self._refuse)
        if self._silent:
            return Deferred()
        self.connection = factory.buildProtocol(IPv4Address("TCP", "192.0.2.1", 9))
        self.connection.makeConnection(StringTransport())
        made: Deferred[Any] = Deferred()
        made.callback(self.connection)
        return made

    def _prepare(self, protocol: Any) -> Deferred[None]:
        assert protocol is self.connection
        self.handshake = Deferred()
        return self.handshake

    @property
    def facts(self) -> tuple[float | None, int, str | None]:
        """What is known: seconds to the next attempt, how many failed, and the last error."""
        wait = None if self.known.next is None else self.known.next - self.clock.seconds()
        return wait, self.known.failed, None if self.known.error is None else str(self.known.error)

    def lose(self) -> None:
        """The connection is lost."""
        self.connection.connectionLost(Failure(error.ConnectionLost()))

    def lose_while_preparing(self) -> None:
        """As the real factory's protocols do: the end of the connection ends its handshake."""
        inner = self.connection._protocol
        inner.connectionLost = lambda reason: self.handshake.errback(MySocketError("the connection was lost"))
        self.lose()

    def next_wait(self) -> float:
        """Turn the clock to the next attempt; the time until then."""
        [call] = self.clock.getDelayedCalls()
        wait: float = call.getTime() - self.clock.seconds()
        before = len(self.attempts)
        self.clock.advance(wait)
        assert len(self.attempts) == before + 1
        return wait


@contextmanager
def errors_logged() -> Iterator[list[str]]:
    """Failures that anybody logs, the unhandled ones of Deferreds too."""
    found: list[str] = []

    def look(event: Any) -> None:
        if "log_failure" in event:
            found.append(event["log_failure"].getTraceback())

    globalLogPublisher.addObserver(look)
    try:
        yield found
        gc.collect()
    finally:
        globalLogPublisher.removeObserver(look)


EXPECTED = [min(build.LAST_RETRY, build.FIRST_RETRY * build.FACTOR**attempt) for attempt in range(14)]


def test_attempts_that_find_nobody_come_at_growing_distances_and_each_is_told() -> None:
    dialling = Dialling(refuse=error.ConnectionRefusedError())
    assert [dialling.next_wait() for _ in EXPECTED] == pytest.approx(EXPECTED)
    assert len(dialling.said) == 1 + len(EXPECTED) and all("peer.example:9 refused" in text for text in dialling.said)


@pytest.mark.parametrize("lost", ["lost", "closed by us"])
def test_handshakes_that_fail_count_as_attempts_that_failed(lost: str) -> None:
    """Somebody takes every connection and no handshake: he is not asked five times a second for ever."""
    dialling = Dialling()
    waits = []
    for _ in EXPECTED:
        if lost == "lost":
            dialling.lose_while_preparing()
        else:
            dialling.handshake.errback(MySocketError("no handshake"))
            dialling.lose()
        waits.append(dialling.next_wait())
    assert waits == pytest.approx(EXPECTED) and len(dialling.said) == len(EXPECTED)


@pytest.mark.parametrize("chance", [0.0, 0.25])
def test_chance_takes_its_part_of_each_wait(chance: float) -> None:
    dialling = Dialling(refuse=error.ConnectionRefusedError(), chance=chance)
    shortest = build.SHORTEST_RETRY
    assert [dialling.next_wait() for _ in EXPECTED] == pytest.approx([shortest + chance * (most - shortest) for most in EXPECTED])


def test_after_a_finished_handshake_the_waits_begin_anew() -> None:
    dialling = Dialling()
    for _ in range(6):
        dialling.lose_while_preparing()
        dialling.next_wait()
    said = list(dialling.said)
    dialling.handshake.callback(None)
    assert not dialling.clock.getDelayedCalls()
    dialling.lose()
    assert dialling.next_wait() == pytest.approx(EXPECTED[0])
    dialling.lose_while_preparing()
    assert dialling.next_wait() == pytest.approx(EXPECTED[1])
    # A connection that was good and is lost is not an attempt that failed; the link tells of it.
    assert len(dialling.said) == len(said) + 1


def test_attempts_that_find_nobody_are_known() -> None:
    dialling = Dialling(refuse=error.ConnectionRefusedError())
    for failed, wait in enumerate(EXPECTED, 1):
        assert dialling.facts == (pytest.approx(wait), failed, dialling.said[-1])
        assert dialling.next_wait() == pytest.approx(wait)


def test_while_an_attempt_is_made_there_is_no_next_one() -> None:
    assert Dialling(silent=True).facts == (None, 0, None)
    dialling = Dialling(refuse=error.ConnectionRefusedError())
    dialling._refuse = None
    dialling.next_wait()
    assert dialling.facts == (None, 1, dialling.said[-1])


def test_a_finished_handshake_begins_the_count_anew() -> None:
    dialling = Dialling()
    dialling.lose_while_preparing()
    assert dialling.facts == (pytest.approx(EXPECTED[0]), 1, "the connection was lost")
    dialling.next_wait()
    assert dialling.facts == (None, 1, "the connection was lost")
    dialling.handshake.callback(None)
    assert dialling.facts == (None, 0, None)
    dialling.lose()
    # What was good and is lost is no attempt that failed.
    assert dialling.facts == (pytest.approx(EXPECTED[0]), 0, None)
    dialling.next_wait()
    assert dialling.facts == (None, 0, None)


def test_a_connection_that_is_lost_before_its_handshake_leaves_no_error_in_the_log() -> None:
    with errors_logged() as found:
        dialling = Dialling()
        dialling.lose_while_preparing()
        dialling.next_wait()
        dialling.handshake.errback(MySocketError("no handshake"))
        dialling.lose()
        dialling.next_wait()
        dialling.service.stopService()
        del dialling
    assert found == []


def test_a_dialler_that_is_stopped_tries_no_more_and_says_nothing() -> None:
    dialling = Dialling(refuse=error.ConnectionRefusedError())
    dialling.service.stopService()
    assert not dialling.clock.getDelayedCalls()
    waiting = Dialling(silent=True)
    with errors_logged() as found:
        waiting.service.stopService()
    assert found == [] and waiting.said == [] and not waiting.clock.getDelayedCalls()
