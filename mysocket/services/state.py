"""How a service is, as ``mysocket status`` tells it: one JSON object, docs/control.md has its fields.

Times are seconds since the epoch unless a name says otherwise; the clock of the links counts from somewhere else.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from mysocket.control.protocol import Greeting, Line
from mysocket.ends.downloads import Downloads
from mysocket.link import Link
from mysocket.services.linked import LinkService
from mysocket.spool.disk_inbox import DiskInbox

#: Peers that are listed; a hub may have thousands.
LISTED = 100


class Backlog(NamedTuple):
    """How many messages wait, or None if nobody has counted them, and since when the oldest does."""

    messages: int | None
    oldest: float | None


def state(service: LinkService, greeting: Greeting, since: float, backlog: Backlog, pid_of: Callable[[str], int | None]) -> Line:
    """The object.

    :param since: when the service began.
    :param pid_of: the process that is attached as a consumer.
    """
    now, node, counters = service.reactor.seconds(), service.node, service.node.counters
    counters.tick(now)

    def date(seconds: float | None) -> float | None:
        return None if seconds is None else time.time() - (now - seconds)

    links = [link for link in node.links.values() if link.peer is not None]
    links.sort(key=lambda link: not link.linked)
    inbox = service.feed if isinstance(service.feed, DiskInbox) else None
    return {
        "version": greeting.version,
        "pid": greeting.pid,
        "node": greeting.node,
        "name": socket.gethostname(),
        "since": since,
        "port": greeting.port,
        "peer": greeting.peer,
        "spool": greeting.spool,
        "listening": service.listening,
        "linked": node.linked,
        "takes": not service.settings.send_only,
        "input": not service.settings.recv_only,
        "dial": _dial(service, now),
        "peers": [_peer(link, now, date) for link in islice(links, LISTED)],
        "peers_total": len(links),
        "out": _out(service, backlog),
        "rates": {"in": counters.rate_in.rate(now), "out": counters.rate_out.rate(now)},
        "totals": {
            "bytes_in": counters.bytes_in,
            "bytes_out": counters.bytes_out,
            "batches_in": counters.batches_in,
            "batches_out": counters.batches_out,
            "connections": counters.connections,
        },
        "inbox": _inbox(inbox, pid_of) if inbox is not None else None,
        "downloads": _downloads(service.downloads) if service.downloads is not None else None,
        "inputs": [facts._asdict() for facts in service.input_facts],
        "outputs": [facts._asdict() for facts in service.output_facts],
        "full": service.full or None,
        "state_lost": str(service.watch.error) if service.watch.error is not None else None,
    }


def _downloads(downloads: Downloads) -> list[Line]:
    return [
        {"name": one.name, "peer": one.peer, "size": one.size, "offset": one.offset}
        for one in islice(downloads.under_way, LISTED)
    ]


def _dial(service: LinkService, now: float) -> Line | None:
    if service.settings.peer is None:
        return None
    attempts = service.attempts
    return {
        "peer": service.settings.peer,
        "next_attempt": max(0.0, attempts.next - now) if attempts.next is not None else None,
        "failed": attempts.failed,
        "error": str(attempts.error) if attempts.error is not None else None,
    }


def _peer(link: Link, now: float, date: Callable[[float | None], float | None]) -> Line:
    peer, sessions = link.peer, [carrier.session for carrier in link.connections]
    trips = [session.round_trip for session in sessions if session.round_trip is not None]
    inbox = link.receiving.inbox
    return {
        "name": peer.name if peer is not None else "",
        "address": link.peer_text,
        "node": peer.node.hex() if peer is not None else None,
        "durable": peer is not None and peer.durable,
        "linked": link.linked,
        "since": date(link.linked_since),
        "away_since": date(link.away_since),
        "heard": min((now - session.heard for session in sessions), default=None),
        "round_trip": min(trips, default=None),
        "stream": inbox.stream.hex() if inbox.stream is not None else None,
        "taken": inbox.taken,
        "committed": inbox.committed,
        "ended": inbox.at_end,
    }


def _out(service: LinkService, backlog: Backlog) -> Line | None:
    log = service.own_stream
    if log is None or service.settings.recv_only:
        return None
    found: dict[str, Any] = {
        "stream": log.stream.hex(),
        "accepted": log.committed,
        "acknowledged": log.retired,
        "waiting_bytes": service.undelivered(),
        "waiting_messages": backlog.messages,
        "oldest": backlog.oldest,
        "room": log.left,
        "capacity": log.capacity,
    }
    return found


def _inbox(inbox: DiskInbox, pid_of: Callable[[str], int | None]) -> Line:
    holder = inbox.holder
    return {
        "begin": inbox.begin,
        "end": inbox.end,
        "kept_bytes": inbox.kept,
        "room": max(0, inbox.room),
        "capacity": inbox.capacity,
        "consumers": [
            {
                "name": name,
                "position": consumer.position,
                "lag_bytes": inbox.end - consumer.position,
                "attached": pid_of(name),
                "acked": consumer.time,
                "holds": name == holder and consumer.position < inbox.end,
            }
            for name, consumer in sorted(inbox.consumers.items())
        ],
    }
