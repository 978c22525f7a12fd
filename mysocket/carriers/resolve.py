"""Looking names up without ever being held by a look-up.

``getaddrinfo`` may hang for minutes and cannot be cancelled. In the reactor's thread pool it would hold the program when it wants
to leave; a daemon thread of its own does not.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from threading import Thread
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IReactorFromThreads,
    IResolutionReceiver,
)
from zope.interface import implementer

_FAMILIES: dict[type[IAddress], int] = {IPv4Address: socket.AF_INET, IPv6Address: socket.AF_INET6}

Found = list[tuple[int, str]]


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Nothing: a look-up cannot be cancelled, and who asked waits for its answer no more."""


@implementer(IHostnameResolver)
class DaemonResolver:
    """Twisted's name resolver, with a daemon thread for each name that is being looked up.

    :param getaddrinfo: ``socket.getaddrinfo``, or another in tests.
    """

    def __init__(self, reactor: IReactorFromThreads, getaddrinfo: Any = socket.getaddrinfo) -> None:
        self._reactor = reactor
        self._getaddrinfo = getaddrinfo
        self._running: dict[str, list[Deferred[Found]]] = {}

    def look_up(self, host: str) -> Deferred[Found]:
        """Fires with (address family, address text) of each address; with none if the name is unknown.

        A second question about a name that is being looked up waits for the same answer.
        """
        answer: Deferred[Found] = Deferred()
        waiting = self._running.get(host)
        if waiting is not None:
            waiting.append(answer)
            return answer
        self._running[host] = [answer]
        Thread(target=self._run, args=(host,), daemon=True, name=f"look-up of {host}").start()
        return answer

    def _run(self, host: str) -> None:
        found: Found = []
        try:
            for family, _, _, _, address in self._getaddrinfo(host, None, 0, socket.SOCK_STREAM):
                if family in (socket.AF_INET, socket.AF_INET6) and (family, address[0]) not in found:
                    found.append((family, address[0]))
        except Exception:
            # Whatever it was (no such name, a name that is none): who waits must get an answer.
            found = []
        self._reactor.callFromThread(self._answer, host, found)

    def _answer(self, host: str, found: Found) -> None:
        for waiting in self._running.pop(host, ()):
            waiting.callback(found)

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        resolution = _Resolution(hostName)
        wanted = {_FAMILIES[kind] for kind in addressTypes or _FAMILIES}
        resolutionReceiver.resolutionBegan(resolution)

        def resolved(found: Found) -> None:
            for family, text in found:
                if family in wanted:
                    kind = IPv4Address if family == socket.AF_INET else IPv6Address
                    resolutionReceiver.addressResolved(kind(transportSemantics, text, portNumber))  # type: ignore[arg-type]
            resolutionReceiver.resolutionComplete()

        self.look_up(hostName).addCallback(resolved)
        return resolution
