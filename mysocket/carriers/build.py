"""Option text -> what listens and what dials."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from ipaddress import ip_address
from socket import AF_UNIX, SOCK_DGRAM, SOCK_STREAM, socket
from typing import TYPE_CHECKING, Any

from twisted.internet import endpoints, error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamClientEndpoint, IStreamServerEndpoint
from twisted.internet.protocol import DatagramProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from mysocket.carriers import activation, holders
from mysocket.carriers.addresses import host_port_text
from mysocket.carriers.admission import is_loopback
from mysocket.carriers.datagram import READ_SIZE
from mysocket.errors import CannotListen, ConnectionRefused, MySocketError, PortTaken, UnknownHost, Unreachable, UsageError

if TYPE_CHECKING:
    from twisted.application.internet import ClientService

#: Connections the kernel keeps that were not accepted yet. Twisted's default of 50 drops some of a thousand that come at once.
BACKLOG = 1024
#: Seconds until the next attempt to connect, at most: after the first that failed, and after many; each is FACTOR times the one
#: before. Chance takes any part of it (full jitter), down to SHORTEST_RETRY. `python -m bench.storm` shows what 10,000 senders do
#: to a hub with these, and with others; docs/operations.md has the reasons.
FIRST_RETRY = 0.4
LAST_RETRY = 30.0
FACTOR = 1.6
#: Nobody tries again sooner, whatever chance gives.
SHORTEST_RETRY = 0.02
#: Where those listen who are for this machine only.
LOOPBACK = ["127.0.0.1", "::1"]
#: Ports tried when the kernel chooses one, until one is free on all addresses.
ATTEMPTS = 16
#: Seconds for one attempt to connect.
CONNECT_TIME = 30


def retry_policy(random: Callable[[], float]) -> Callable[[int], float]:
    """Failed attempts since the last finished handshake -> seconds until the next. ``random`` gives numbers in [0, 1).

    A connection that was good and is lost counts as the first that failed, as ClientService counts.
    """

    def policy(attempt: int) -> float:
        longest = min(LAST_RETRY, FIRST_RETRY * FACTOR ** (min(max(attempt, 1), 50) - 1))
        return SHORTEST_RETRY + random() * (longest - SHORTEST_RETRY)

    return policy


def interfaces(bind: str | None, peer_host: str | None) -> list[str]:
    """Local addresses to listen on. A peer on this machine limits listening to this machine."""
    if bind is not None:
        return [bind]
    if peer_host is not None and is_loopback(peer_host):
        return LOOPBACK
    return ["::"]


def server_endpoint(reactor: Any, text: str) -> IStreamServerEndpoint:
    """The endpoint of a Twisted server endpoint string.

    A Unix socket is for this user alone unless its string has a mode: Twisted's own default lets everybody write to it. A TCP
    port has the same backlog as one that is given by its number.
    """
    whole = text
    if text.startswith("unix:") and not re.search(r"(?<!\\):mode=", text):
        whole += ":mode=600"
    elif text.startswith(("tcp:", "tcp6:", "ssl:")) and not re.search(r"(?<!\\):backlog=", text):
        whole += f":backlog={BACKLOG}"
    try:
        endpoint: IStreamServerEndpoint = endpoints.serverFromString(reactor, whole)
    except Exception as problem:  # the parsers of endpoints are plugins, and raise what they like
        raise CannotListen(_why_no_endpoint(problem, text), where=text) from None
    return endpoint


def client_endpoint(reactor: Any, text: str) -> IStreamClientEndpoint:
    """The endpoint of a Twisted client endpoint string."""
    try:
        endpoint: IStreamClientEndpoint = endpoints.clientFromString(reactor, text)
    except Exception as problem:
        raise UsageError(f"{text!r} is no client endpoint: {_why_no_endpoint(problem, text)}") from None
    return endpoint


def _why_no_endpoint(problem: Exception, text: str) -> str:
    if text.partition(":")[0] in ("ssl", "tls") and find_spec("OpenSSL") is None:
        return "TLS needs what is not installed here: pip install 'twisted[tls]'"
    if str(problem).startswith("Unknown endpoint type"):
        return f"{problem}; if it is a file, write ./{text}"
    return str(problem) or type(problem).__name__


async def listen_endpoint(reactor: Any, text: str, factory: IProtocolFactory) -> list[IListeningPort]:
    """Listen on an endpoint string.

    :raises CannotListen:
    :raises PortTaken:
    """
    if activation.is_inherited(text):
        return [await _adopt(reactor, activation.find(reactor, text, SOCK_STREAM), factory)]
    endpoint = server_endpoint(reactor, text)
    try:
        try:
            return [await endpoint.listen(factory)]
        except (error.CannotListenError, PermissionError) as problem:
            if not (_is_locked(problem) and text.startswith("unix:") and _remove_left(_argument(text, "address") or "")):
                raise
        return [await endpoint.listen(factory)]
    except (error.CannotListenError, OSError, OverflowError, ValueError) as problem:
        raise _cannot_listen(problem, text) from None


def _is_locked(problem: Exception) -> bool:
    """Does Twisted take the lock beside a Unix socket for that of a process which lives (and may be another user's)?"""
    return isinstance(getattr(problem, "socketError", None), str) or isinstance(problem, PermissionError)


def _remove_left(path: str) -> bool:
    """Remove a Unix socket, and its lock, if nobody listens there.

    The lock names a process by its number. After a reboot, or in a container, another has that of the one that was killed.
    """
    with socket(AF_UNIX, SOCK_STREAM) as probe:
        probe.setblocking(False)
        with suppress(OSError):
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                if stat.S_ISSOCK(os.lstat(path).st_mode):  # a file refuses, too
                    os.unlink(f"{path}.lock")
                    os.unlink(path)
                    return True
    return False


async def _adopt(reactor: Any, inherited: activation.Inherited, factory: IProtocolFactory) -> IListeningPort:
    if inherited.family == AF_UNIX:
        port = activation.InheritedUnixPort(reactor, inherited, factory)
        os.close(inherited.descriptor)
        port.startListening()
        return port
    endpoint = endpoints.AdoptedStreamServerEndpoint(reactor, inherited.descriptor, inherited.family)
    found: IListeningPort = await endpoint.listen(factory)
    return found


async def listen_port(reactor: Any, port: int, addresses: list[str], factory: IProtocolFactory) -> list[IListeningPort]:
    """Listen on the TCP port ``port`` (0: one the kernel chooses, the same on all addresses)."""
    for attempt in range(ATTEMPTS):
        ports: list[IListeningPort] = []
        number = port
        try:
            for address in addresses:
                found = await _listen_one(reactor, number, address, factory, optional=bool(ports))
                if found is not None:
                    ports.append(found)
                    number = port_number(found)
            return ports
        except MySocketError as problem:
            for opened in ports:
                stopped = opened.stopListening()
                if stopped is not None:
                    await stopped
            # The kernel's choice on the first address may be taken on the second.
            if port or not ports or not isinstance(problem, PortTaken) or attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


async def _listen_one(
    reactor: Any, port: int, address: str, factory: IProtocolFactory, *, optional: bool
) -> IListeningPort | None:
    six = ip_address(address).version == 6
    kind = endpoints.TCP6ServerEndpoint if six else endpoints.TCP4ServerEndpoint
    try:
        found: IListeningPort = await kind(reactor, port, BACKLOG, address).listen(factory)
        return found
    except error.CannotListenError as problem:
        if _no_such_address(problem, address):
            if address == "::":
                return await _listen_one(reactor, port, "0.0.0.0", factory, optional=False)
            if optional:
                return None
        raise _cannot_listen(problem, host_port_text(address, port)) from None


def port_number(port: IListeningPort) -> int:
    """The number of a TCP or UDP port."""
    address: Any = port.getHost()
    return int(address.port)


def _cannot_listen(problem: object, where: str, kind: holders.Kind = "tcp") -> MySocketError:
    cause = getattr(problem, "socketError", problem)
    text = getattr(cause, "strerror", None) or str(cause)
    if getattr(cause, "errno", None) != errno.EADDRINUSE and not isinstance(cause, str):
        return CannotListen(text, where=where)
    if not isinstance(problem, error.CannotListenError):
        return PortTaken(text, where=where)
    if isinstance(problem.port, int):
        return port_taken(problem.port, problem.interface, kind, where=where, text=text)
    return _taken(holders.holder_of_path(os.fsdecode(problem.port)), where, text)


def port_taken(port: int, address: str, kind: holders.Kind, *, where: str, text: str) -> PortTaken:
    """The error that names who has the port, as far as that can be seen."""
    return _taken(holders.holder_of_port(port, address, kind), where, text)


def _taken(holder: holders.Holder | None, where: str, text: str) -> PortTaken:
    return PortTaken(text, where=where) if holder is None else PortTaken(text, where=where, holder=holder.sentence())


@implementer(IStreamClientEndpoint)
class Dialled:
    """An endpoint whose failures are told as sentences.

    :param report: called with the error of each attempt that fails.
    :param begin: called when one begins.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        peer: str,
        report: Callable[[MySocketError], None],
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._endpoint = endpoint
        self._peer = peer
        self._report = report
        self._begin = begin

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        self._begin()

        def failed(failure: Failure) -> Failure:
            if failure.check(error.ConnectingCancelledError, CancelledError) is None:
                self._report(connect_error(failure.value, self._peer))
            return failure

        return self._endpoint.connect(protocolFactory).addErrback(failed)


def connect_error(problem: BaseException | None, peer: str) -> MySocketError:
    """What the user is told when a connection could not be made."""
    if isinstance(problem, MySocketError):
        return problem
    if isinstance(problem, error.ConnectionRefusedError):
        return ConnectionRefused(peer=peer)
    if isinstance(problem, error.DNSLookupError):
        return UnknownHost("the look-up found no address", host=peer.rpartition(":")[0] or peer)
    if isinstance(problem, error.TimeoutError):
        return Unreachable(f"no answer within {CONNECT_TIME} s", peer=peer)
    number = getattr(problem, "osError", None)
    text = os.strerror(number) if isinstance(number, int) else str(problem)
    return Unreachable(text or type(problem).__name__, peer=peer)


def endpoint_host(text: str) -> str | None:
    """The host in a client endpoint string, or None if it names none (a Unix socket)."""
    return None if text.startswith("unix:") else _argument(text, "host")


def _argument(text: str, name: str) -> str | None:
    """The first argument of an endpoint string, which may be named."""
    _, *parts = (part.replace("\\:", ":") for part in re.split(r"(?<!\\):", text))
    named = [part.removeprefix(f"{name}=") for part in parts if part.startswith(f"{name}=")]
    return next(iter(named + [part for part in parts if "=" not in part]), None)


def listen_datagrams(
    reactor: Any, port: int, address: str, protocol: DatagramProtocol, *, optional: bool
) -> IListeningPort | None:
    """Listen for datagrams on one address; None if it is ``optional`` and this machine has no such address."""
    try:
        found: IListeningPort = reactor.listenUDP(port, protocol, interface=address, maxPacketSize=READ_SIZE)
        return found
    except error.CannotListenError as problem:
        if _no_such_address(problem, address):
            if address == "::":
                return listen_datagrams(reactor, port, "0.0.0.0", protocol, optional=False)
            if optional:
                return None
        raise _cannot_listen(problem, host_port_text(address, port), "udp") from None


def adopt_datagrams(reactor: Any, text: str, protocol: DatagramProtocol) -> IListeningPort:
    """Take datagrams from the socket that ``systemd:index=N`` or ``systemd:name=NAME`` names.

    :raises CannotListen: there is none, or it is of another kind.
    """
    inherited = activation.find(reactor, text, SOCK_DGRAM)
    found: IListeningPort = reactor.adoptDatagramPort(inherited.descriptor, inherited.family, protocol, maxPacketSize=READ_SIZE)
    os.close(inherited.descriptor)  # the port has one of its own
    return found


def _no_such_address(problem: error.CannotListenError, address: str) -> bool:
    number = getattr(problem.socketError, "errno", None)
    return ":" in address and number in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def host_endpoint(reactor: Any, host: str, port: int, bind: str | None) -> IStreamClientEndpoint:
    """Dial a TCP port; names are resolved anew each time, and their addresses tried side by side (RFC 8305)."""
    return endpoints.HostnameEndpoint(reactor, host, port, timeout=CONNECT_TIME, bindAddress=(bind, 0) if bind else None)


def _ignore(reason: Failure) -> None:
    """Nobody waits for this connection's end any more."""


class Attempts:
    """How dialling goes, for whoever wants to know; :func:`dialler` keeps it true until its service is stopped."""

    def __init__(self) -> None:
        #: When the next attempt begins, on the reactor's clock; None while one is made, or its connection stands.
        self.next: float | None = None
        #: Those that failed since the last finished handshake, and what was wrong with the last of them.
        self.failed = 0
        self.error: MySocketError | None = None
        #: Those that ever failed.
        self.failed_ever = 0

    def fail(self, error: MySocketError) -> None:
        """Nobody was reached, or the handshake did not come to its end."""
        self.failed += 1
        self.failed_ever += 1
        self.error = error

    def succeed(self) -> None:
        """A handshake is finished."""
        self.failed, self.error = 0, None


def dialler(
    reactor: Any,
    endpoint: IStreamClientEndpoint,
    peer: str,
    factory: IProtocolFactory,
    *,
    prepare: Callable[[Any], Deferred[Any]],
    report: Callable[[MySocketError], None],
    random: Callable[[], float],
    attempts: Attempts | None = None,
) -> ClientService:
    """A service that connects, and again whenever the connection is lost.

    :param prepare: fires when the handshake is finished; until then the attempt counts as failed, so that the back-off goes on.
    :param attempts: is told how it goes.
    """

    from twisted.application.internet import ClientService  # a listener needs none of it

    known = attempts if attempts is not None else Attempts()
    backoff = retry_policy(random)

    def policy(attempt: int) -> float:
        delay = backoff(attempt)
        known.next = reactor.seconds() + delay
        return delay

    def failed_attempt(problem: MySocketError) -> None:
        known.fail(problem)
        report(problem)

    def prepared(protocol: Any) -> Deferred[Any]:
        def failed(failure: Failure) -> Failure:
            # ClientService (Twisted 26.10) has no transition for a connection that is lost when its preparation has failed.
            protocol._lostNotification = _ignore
            failed_attempt(connect_error(failure.value, peer))
            return failure

        def finished(result: object) -> object:
            known.succeed()
            return result

        return prepare(protocol).addCallbacks(finished, failed)

    dialled = Dialled(endpoint, peer, failed_attempt, begin=lambda: setattr(known, "next", None))
    return ClientService(dialled, factory, retryPolicy=policy, clock=reactor, prepareConnection=prepared)
