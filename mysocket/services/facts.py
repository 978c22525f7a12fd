"""How a session stands, in the few words that fit on a status line."""

from __future__ import annotations

from mysocket.carriers.admission import is_loopback
from mysocket.errors import ClosedWithoutWord, HandshakeTimeout, MySocketError, NotMySocket, UnknownHost, Unreachable
from mysocket.screen.invitation import command, own_address
from mysocket.screen.status import Facts
from mysocket.services.linked import LinkService

#: What is wrong with the peer, in a word or two. Where nothing listens, it is simply not there yet.
PROBLEMS: dict[type[MySocketError], str] = {
    ClosedWithoutWord: "closes the connection",
    HandshakeTimeout: "does not answer",
    NotMySocket: "is no MySocket",
    UnknownHost: "name unknown",
    Unreachable: "unreachable",
}


class Glance:
    """Looks at a service.

    What the other machine should run is found out once: addresses do not change while one waits.
    """

    def __init__(self, service: LinkService) -> None:
        self._service = service
        self._command: str | None = None
        self._known = False

    def __call__(self) -> Facts:
        service = self._service
        now, settings, attempts = service.reactor.seconds(), service.settings, service.attempts
        links = [link for link in service.node.links.values() if link.peer is not None]
        up = [link for link in links if link.linked]
        one = next(iter(up or links), None)
        sessions = [carrier.session for link in up for carrier in link.connections]
        return Facts(
            peer=(one.peer.name if one is not None and one.peer is not None else "") or settings.peer or "",
            host=_host(service),
            problem=PROBLEMS.get(type(attempts.error), "") if attempts.error is not None else "",
            listening=" and ".join(service.listening),
            linked=bool(up),
            met=bool(links),
            nodes=len(up),
            heard=min((now - session.heard for session in sessions), default=None),
            next_attempt=max(0.0, attempts.next - now) if attempts.next is not None else None,
            dials=settings.peer is not None,
            waiting_bytes=service.undelivered(),
            kept=service.kept(),
            takes=not up or any(link.peer is not None and link.peer.takes for link in up),
            takes_files=any(link.peer is not None and link.peer.files for link in up),
            round_trip=min((session.round_trip for session in sessions if session.round_trip is not None), default=None),
            command=self._invitation() if not links else None,
        )

    def _invitation(self) -> str | None:
        service = self._service
        if service.settings.port is not None and not service.port_numbers:
            return None  # it does not listen yet
        if not self._known:
            self._known = True
            host = service.peer_host
            # A listener that lets nobody else in can be reached from here only.
            near = service.settings.peer is None and not service.settings.allow or host is not None and is_loopback(host)
            self._command = command(service.settings, service.port_numbers, "localhost" if near else own_address(host))
        return self._command


def _host(service: LinkService) -> str:
    host = service.peer_host or ""
    return "" if host and is_loopback(host) else host
