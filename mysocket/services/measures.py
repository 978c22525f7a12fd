"""What a service tells of itself in numbers: the table of its metrics, and where each comes from.

Rules

1. A name stands in the table, with its labels; docs/operations.md lists the same. What a kind of session has not, it leaves out.
2. What comes from the network and becomes a label is escaped and short, and there are at most so many of them. No two samples of
   one metric have the same labels.
3. Times are seconds, sizes and positions bytes, and totals begin anew with the process; positions do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal, NamedTuple

from mysocket._version import __version__
from mysocket.ends.escape import one_line
from mysocket.link import Link
from mysocket.metrics import Histogram
from mysocket.services.base import EndpointService
from mysocket.services.linked import LinkService
from mysocket.services.state import LISTED, Backlog
from mysocket.spool.disk import DiskSpool
from mysocket.spool.disk_inbox import DiskInbox

Kind = Literal["gauge", "counter", "histogram", "info"]
#: Characters of a label, and of a sentence, at most.
LABEL = 128
SENTENCE = 512


class Metric(NamedTuple):
    """One row of the table. ``help`` is what Prometheus shows beside it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


class Sample(NamedTuple):
    """One value of a metric, or what is counted by it."""

    name: str
    value: float | Histogram
    labels: tuple[str, ...] = ()


# fmt: off
METRICS = {metric.name: metric for metric in (
    Metric("mysocket_info", "info", "Which version runs, its node id and the name of its machine.", ("version", "node", "name")),
    Metric("mysocket_start_time_seconds", "gauge", "When the process began to serve, since the epoch."),
    Metric("mysocket_linked", "gauge", "1: linked with a peer; 0: nobody is there."),
    Metric("mysocket_data_missing", "gauge", "1: data of some peer is known to be missing."),

    Metric("mysocket_open_connections", "gauge", "Connections that are up, also before their handshake is finished."),
    Metric("mysocket_connections_total", "counter", "Connections that were taken: their handshake was finished."),
    Metric("mysocket_reconnects_total", "counter", "How often a peer came back that was linked before."),
    Metric("mysocket_dials_failed_total", "counter", "Attempts to connect to the peer that failed."),
    Metric("mysocket_rejected_total", "counter", "Connections, or with UDP datagrams, that were not taken.", ("reason",)),

    Metric("mysocket_received_bytes_total", "counter", "Bytes of messages and files from peers, each counted once."),
    Metric("mysocket_received_batches_total", "counter", "Batches of them."),
    Metric("mysocket_sent_bytes_total", "counter", "Bytes of messages and files that went to peers."),
    Metric("mysocket_sent_batches_total", "counter", "Batches of them."),
    Metric("mysocket_resent_bytes_total", "counter", "Those of the bytes sent that had been sent before."),
    Metric("mysocket_resent_batches_total", "counter", "Batches of them."),
    Metric("mysocket_round_trip_seconds", "histogram", "From PING to PONG."),

    Metric("mysocket_accepted_position_bytes", "gauge", "The own stream: all before is accepted, with a spool on its disk."),
    Metric("mysocket_acknowledged_position_bytes", "gauge", "The own stream: the peer has all before."),
    Metric("mysocket_waiting_bytes", "gauge", "Accepted, and not acknowledged."),
    Metric("mysocket_waiting_messages", "gauge", "The same in messages, unless they are too many to be counted."),
    Metric("mysocket_waiting_oldest_seconds", "gauge", "How long the oldest of them waits; 0 if none does."),
    Metric("mysocket_uncommitted_bytes", "gauge", "Read from inputs, and on its way to the disk of the spool."),
    Metric("mysocket_spool_capacity_bytes", "gauge", "How much may wait; without a spool, in memory."),
    Metric("mysocket_spool_room_bytes", "gauge", "How much more may wait."),
    Metric("mysocket_disk_full", "gauge", "1: a disk is full, and what needs room on it waits."),
    Metric("mysocket_commit_seconds", "histogram",
           "How long a commit takes, with its sync: of the output file, and of the spool.", ("part",)),

    Metric("mysocket_peers", "gauge", "Peers that are known. The first 100 have metrics of their own."),
    Metric("mysocket_peer_linked", "gauge", "1: this peer is linked.", ("node", "name")),
    Metric("mysocket_peer_taken_position_bytes", "gauge", "Its stream: all before was received.", ("node", "name")),
    Metric("mysocket_peer_committed_position_bytes", "gauge",
           "Its stream: all before is at its end, with a spool on disk.", ("node", "name")),
    Metric("mysocket_peer_heard_seconds", "gauge", "Since anything was heard from it, if it is linked.", ("node", "name")),
    Metric("mysocket_peer_round_trip_seconds", "gauge", "Its last PING and PONG, if it is linked.", ("node", "name")),

    Metric("mysocket_inbox_begin_position_bytes", "gauge", "The oldest position that the inbox keeps."),
    Metric("mysocket_inbox_end_position_bytes", "gauge", "Where the next message of the inbox will be."),
    Metric("mysocket_inbox_kept_bytes", "gauge", "What the inbox keeps for its consumers."),
    Metric("mysocket_inbox_capacity_bytes", "gauge", "How much it may keep."),
    Metric("mysocket_inbox_room_bytes", "gauge", "How much more it may keep."),
    Metric("mysocket_consumer_position_bytes", "gauge", "A consumer of the inbox has all before.", ("consumer",)),
    Metric("mysocket_consumer_lag_bytes", "gauge", "What it has not acknowledged.", ("consumer",)),

    Metric("mysocket_input_bytes_total", "counter", "Bytes of messages that an input gave.", ("input",)),
    Metric("mysocket_input_dropped_total", "counter", "What an input lost: nobody can give it again.", ("input",)),
    Metric("mysocket_input_rejected_total", "counter", "Connections or datagrams that an input did not take.", ("input",)),
    Metric("mysocket_input_connections", "gauge", "Connections of an input that are up.", ("input",)),
    Metric("mysocket_input_waiting_bytes", "gauge", "Read from an input, and not accepted yet.", ("input",)),
    Metric("mysocket_input_ended", "gauge", "1: an input has come to its end.", ("input",)),

    Metric("mysocket_output_connected", "gauge", "1: an output is connected; files and datagrams never are.", ("output",)),
    Metric("mysocket_output_written_bytes_total", "counter", "Bytes that are safe at an output.", ("output",)),
    Metric("mysocket_output_waiting_bytes", "gauge", "Received, and not safe at an output yet.", ("output",)),
    Metric("mysocket_output_connections_lost_total", "counter", "Connections of an output that were lost.", ("output",)),
    Metric("mysocket_output_failing", "gauge", "1: something is wrong with an output.", ("output",)),

    Metric("mysocket_downloads", "gauge", "Files that are being received."),
    Metric("mysocket_uploads", "gauge", "Files that are being sent, or wait for it."),
)}
# fmt: on


def measure(service: EndpointService, *, since: float, backlog: Backlog, wall: float) -> Iterator[Sample]:
    """All samples of a service, now.

    :param since: when it began, in seconds since the epoch.
    :param wall: the present time, likewise.
    """
    node = service.node if isinstance(service, LinkService) else None
    counters = service.counters
    identity = node.id.hex() if node is not None else ""
    name = one_line(node.character.name, LABEL) if node is not None else ""
    yield Sample("mysocket_info", 1, (__version__, identity, name))
    yield Sample("mysocket_start_time_seconds", since)
    yield Sample("mysocket_linked", service.linked)
    yield Sample("mysocket_data_missing", service.missing())
    yield Sample("mysocket_open_connections", len(node.connections) if node is not None else service.open_connections)
    yield Sample("mysocket_connections_total", counters.connections)
    for why, number in counters.rejected.items():
        yield Sample("mysocket_rejected_total", number, (why,))
    yield Sample("mysocket_received_bytes_total", counters.bytes_in)
    yield Sample("mysocket_received_batches_total", counters.batches_in)
    yield Sample("mysocket_sent_bytes_total", counters.bytes_out)
    yield Sample("mysocket_sent_batches_total", counters.batches_out)
    yield from _inputs(service)
    yield from _outputs(service)
    if isinstance(service, LinkService):
        yield from _linked(service, backlog, wall)
    else:
        yield Sample("mysocket_dials_failed_total", counters.dials_failed)
        yield Sample("mysocket_waiting_bytes", service.undelivered())


def _linked(service: LinkService, backlog: Backlog, wall: float) -> Iterator[Sample]:
    node, counters = service.node, service.node.counters
    yield Sample("mysocket_reconnects_total", counters.reconnects)
    yield Sample("mysocket_dials_failed_total", service.attempts.failed_ever)
    yield Sample("mysocket_resent_bytes_total", counters.bytes_resent)
    yield Sample("mysocket_resent_batches_total", counters.batches_resent)
    yield Sample("mysocket_round_trip_seconds", counters.round_trips)
    yield from _own(service, backlog, wall)
    yield Sample("mysocket_disk_full", bool(service.full))
    if isinstance(node.spool, DiskSpool):
        yield Sample("mysocket_commit_seconds", node.spool.times.output, ("output",))
        yield Sample("mysocket_commit_seconds", node.spool.times.spool, ("spool",))
    now = service.reactor.seconds()
    links = [link for link in node.links.values() if link.peer is not None]
    yield Sample("mysocket_peers", len(links))
    links.sort(key=lambda link: not link.linked)
    for link in islice(links, LISTED):
        yield from _peer(link, now)
    if isinstance(service.feed, DiskInbox):
        yield from _inbox(service.feed)
    yield Sample("mysocket_downloads", len(service.downloads.under_way) if service.downloads is not None else 0)
    yield Sample("mysocket_uploads", len(service.uploads.under_way))


def _own(service: LinkService, backlog: Backlog, wall: float) -> Iterator[Sample]:
    log = service.own_stream
    if log is None or service.settings.recv_only:
        return
    waiting = log.committed - log.retired
    yield Sample("mysocket_accepted_position_bytes", log.committed)
    yield Sample("mysocket_acknowledged_position_bytes", log.retired)
    yield Sample("mysocket_waiting_bytes", waiting)
    if backlog.messages is not None:
        yield Sample("mysocket_waiting_messages", backlog.messages)
    if backlog.oldest is not None or not waiting:
        # What is acknowledged meanwhile may still be on the disk.
        oldest = backlog.oldest if waiting else None
        yield Sample("mysocket_waiting_oldest_seconds", max(0.0, wall - oldest) if oldest is not None else 0.0)
    yield Sample("mysocket_uncommitted_bytes", log.end - log.committed)
    yield Sample("mysocket_spool_capacity_bytes", log.capacity)
    yield Sample("mysocket_spool_room_bytes", log.left)


def _peer(link: Link, now: float) -> Iterator[Sample]:
    assert link.peer is not None
    labels = link.peer.node.hex(), one_line(link.peer.name, LABEL)
    inbox, sessions = link.receiving.inbox, [carrier.session for carrier in link.connections]
    trips = [session.round_trip for session in sessions if session.round_trip is not None]
    yield Sample("mysocket_peer_linked", link.linked, labels)
    yield Sample("mysocket_peer_taken_position_bytes", inbox.taken, labels)
    yield Sample("mysocket_peer_committed_position_bytes", inbox.committed, labels)
    if sessions:
        yield Sample("mysocket_peer_heard_seconds", max(0.0, min(now - session.heard for session in sessions)), labels)
    if trips:
        yield Sample("mysocket_peer_round_trip_seconds", min(trips), labels)


def _inbox(inbox: DiskInbox) -> Iterator[Sample]:
    yield Sample("mysocket_inbox_begin_position_bytes", inbox.begin)
    yield Sample("mysocket_inbox_end_position_bytes", inbox.end)
    yield Sample("mysocket_inbox_kept_bytes", inbox.kept)
    yield Sample("mysocket_inbox_capacity_bytes", inbox.capacity)
    yield Sample("mysocket_inbox_room_bytes", max(0, inbox.room))
    consumers = sorted(inbox.consumers.items())
    for name, (_, consumer) in zip(labels(name for name, _ in consumers), islice(consumers, LISTED), strict=True):
        yield Sample("mysocket_consumer_position_bytes", consumer.position, (name,))
        yield Sample("mysocket_consumer_lag_bytes", inbox.end - consumer.position, (name,))


def _inputs(service: EndpointService) -> Iterator[Sample]:
    facts = service.input_facts
    for name, one in zip(labels(one.name for one in facts), islice(facts, LISTED), strict=True):
        yield Sample("mysocket_input_bytes_total", one.bytes, (name,))
        yield Sample("mysocket_input_dropped_total", one.dropped, (name,))
        yield Sample("mysocket_input_rejected_total", one.rejected, (name,))
        yield Sample("mysocket_input_connections", one.connections, (name,))
        yield Sample("mysocket_input_waiting_bytes", one.waiting, (name,))
        yield Sample("mysocket_input_ended", one.ended, (name,))


def _outputs(service: EndpointService) -> Iterator[Sample]:
    facts = service.output_facts
    for name, one in zip(labels(one.name for one in facts), islice(facts, LISTED), strict=True):
        if one.connected is not None:
            yield Sample("mysocket_output_connected", one.connected, (name,))
        yield Sample("mysocket_output_written_bytes_total", one.written, (name,))
        yield Sample("mysocket_output_waiting_bytes", one.waiting, (name,))
        yield Sample("mysocket_output_connections_lost_total", one.lost, (name,))
        yield Sample("mysocket_output_failing", one.error is not None, (name,))


def labels(names: Iterable[str]) -> list[str]:
    """The first of the names as labels: escaped, short, and no two alike."""
    found: dict[str, None] = {}
    for name in islice(names, LISTED):
        label, number = one_line(name, LABEL), 1
        while label in found:
            number += 1
            label = f"{one_line(name, LABEL - 8)} ({number})"
        found[label] = None
    return list(found)


def health(service: EndpointService) -> tuple[bool, str]:
    """Is it linked? And one line that says with whom, or why not."""
    linked = service.linked
    if isinstance(service, LinkService):
        text = _company(service) if linked else _alone(service)
    elif linked:
        text = "linked" if service.open_connections else "datagrams pass; whether anybody is there, UDP does not know"
    else:
        text = f"no connection with {one_line(service.settings.peer or 'anybody')}"
    if not linked and service.watch.error is not None:
        text = one_line(str(service.watch.error), SENTENCE)
    return linked, text


def _company(service: LinkService) -> str:
    linked = [link for link in service.node.links.values() if link.linked]
    text = f"linked with {len(linked)} peers" if len(linked) != 1 else f"linked with {one_line(linked[0].peer_text)}"
    return text + _full(service)


def _alone(service: LinkService) -> str:
    if service.settings.peer is None:
        return "nobody is linked: no sender is there" + _full(service)
    error = service.attempts.error
    why = f": {one_line(str(error), SENTENCE)}" if error is not None else ""
    return f"not linked with {one_line(service.settings.peer)}{why}{_full(service)}"


def _full(service: LinkService) -> str:
    return f"; the disk of {one_line(service.full)} is full" if service.full else ""
