"""What ``mysocket status`` shows: the status of a service, as rows for people. Pure; the time is an argument.

Rules

1. What matters first: linked or not and why, what has gone wrong, what waits, the inbox and who holds it up. Figures come last.
2. Anything may be missing, or of another type: it is left out.
3. All text is escaped: names come from peers, paths and errors from anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mysocket.ends.escape import one_line
from mysocket.ends.progress import size_text

#: Characters of a label with the space behind it, and of a text at most.
LABEL, MOST = 14, 8192
#: Peers and consumers that get a row of their own.
ROWS = 10


class Row(NamedTuple):
    """A row of the screen."""

    label: str
    text: str

    def __str__(self) -> str:
        return f"{self.label:{LABEL - 1}} {one_line(self.text, MOST)}"


class Part:
    """An object of the status: what is in it, if it is there and what it should be."""

    def __init__(self, found: object) -> None:
        self._found: Mapping[str, Any] = found if isinstance(found, dict) else {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def flag(self, name: str) -> bool | None:
        found = self._found.get(name)
        return found if isinstance(found, bool) else None

    def number(self, name: str) -> float | None:
        found = self._found.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float):
            return None
        # An int may be larger than any float.
        return found if abs(found) < 2**64 and math.isfinite(found) else None

    def size(self, name: str) -> int:
        """A number of bytes or pieces; 0 if nobody says."""
        return int(self.number(name) or 0)

    def text(self, name: str) -> str:
        """A text, or a number as one; empty if there is none."""
        found = self._found.get(name)
        return found if isinstance(found, str) else str(found) if self.number(name) is not None else ""

    def part(self, name: str) -> Part:
        return Part(self._found.get(name))

    def parts(self, name: str) -> list[Part]:
        found = self._found.get(name)
        return [Part(each) for each in found] if isinstance(found, list) else []

    def texts(self, name: str) -> list[str]:
        found = self._found.get(name)
        return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def healthy(status: object) -> bool:
    """Linked with a peer."""
    return Part(status).flag("linked") is True


def rows(status: object, now: float) -> list[Row]:
    """The screen.

    :param now: seconds since the epoch.
    """
    state = Part(status)
    return [*_link(state, now), *_trouble(state), *_waiting(state, now), *_figures(state), *_service(state, now)]


# The link -----------------------------------------------------------------------------------------------------------------------


def _link(state: Part, now: float) -> Iterator[Row]:
    peers = state.parts("peers")
    here = [peer for peer in peers if peer.flag("linked")]
    away = [peer for peer in peers if not peer.flag("linked")]
    total = max(state.size("peers_total"), len(peers))
    if state.flag("linked") and len(here) != 1:
        yield Row("linked", f"with {_count(len(here), 'peer')}" if here else "yes")
    elif not state.flag("linked"):
        yield Row("not linked", _why_not(state))
    shown = here + away
    for peer in shown[:ROWS]:
        alone = peer.flag("linked") and len(here) == 1
        yield Row("linked" if alone else "peer", ("with " if alone else "") + _peer(peer, now))
    if total > min(len(shown), ROWS):
        yield Row("", f"and {_count(total - min(len(shown), ROWS), 'more peer')}; --json lists {len(peers)}")


def _why_not(state: Part) -> str:
    dial = state.part("dial")
    if not dial:
        return "nobody has connected" + (" yet" if not state.parts("peers") else "")
    peer = dial.text("peer")
    error = dial.text("error")
    wait, failed = dial.number("next_attempt"), dial.size("failed")
    said = [error or (f"{peer or 'its peer'} is being dialled" if wait is None else f"no connection to {peer or 'its peer'}")]
    if wait is not None:
        said.append(f"next attempt in {span(wait)}")
    if failed > 1:
        said.append(f"{failed} attempts have failed")
    return "; ".join(text.rstrip(".") for text in said)


def _peer(peer: Part, now: float) -> str:
    name, address, node = peer.text("name"), peer.text("address"), peer.text("node")
    who = name or address or (f"node {node}" if node else "a peer without a name")
    if name and address:
        # An address may have the name with it.
        who = address if name in address else f"{name} ({address})"
    said = []
    since, away, heard, trip = (peer.number(field) for field in ("since", "away_since", "heard", "round_trip"))
    if peer.flag("linked"):
        said.append(f"since {clock(since, now)} ({span(now - since)})" if since is not None else "linked")
        if heard is not None:
            said.append(f"heard {span(heard)} ago")
        if trip is not None:
            said.append(f"round trip {span(trip)}")
    else:
        said.append("not linked" + (f" since {clock(away, now)} ({span(now - away)})" if away is not None else ""))
    taken, committed = peer.size("taken"), peer.size("committed")
    if taken > committed:
        said.append(f"{size_text(taken - committed)} from it not committed yet")
    if peer.flag("ended"):
        said.append("its input has ended")
    if peer.flag("durable") is False:
        said.append("it keeps no spool")
    joined = ", ".join(said)
    return f"{who} {joined}" if peer.flag("linked") and since is not None else f"{who}, {joined}"


def _trouble(state: Part) -> Iterator[Row]:
    full, lost = state.text("full"), state.text("state_lost")
    if full:
        yield Row("disk full", full)
    if lost:
        yield Row("trouble", lost)
    if state.flag("input") is False:
        yield Row("input", "nothing can be handed to it")
    if state.flag("takes") is False:
        yield Row("receiving", "nothing is taken from peers")


# What waits ---------------------------------------------------------------------------------------------------------------------


def _out(state: Part, now: float) -> Iterator[Row]:
    out = state.part("out")
    if not out:
        return
    waiting, messages, oldest = out.size("waiting_bytes"), out.number("waiting_messages"), out.number("oldest")
    text = "nothing"
    if waiting:
        text = size_text(waiting) if messages is None else f"{_count(int(messages), 'message')} ({size_text(waiting)})"
        if oldest is not None:
            text += f", the oldest for {span(now - oldest)}"
    yield Row("waiting", text + _room(out, "input waits"))


def _room(part: Part, then: str) -> str:
    """How much more fits in, for the end of a row."""
    room, capacity = part.number("room"), part.number("capacity")
    if room is None:
        return ""
    if room <= 0:
        return f"; full: {then}"
    return f"; room for {size_text(int(room))}" + (f" of {size_text(int(capacity))}" if capacity is not None else "")


def _waiting(state: Part, now: float) -> Iterator[Row]:
    yield from _out(state, now)
    yield from _inbox(state, now)
    downloads = state.parts("downloads")
    for download in downloads[:ROWS]:
        of = f" of {size_text(download.size('size'))}" if download.number("size") is not None else ""
        name, peer = download.text("name") or "a file", download.text("peer") or "a peer"
        yield Row("receiving", f"{name} from {peer}: {size_text(download.size('offset'))}{of}")
    if len(downloads) > ROWS:
        yield Row("", f"and {_count(len(downloads) - ROWS, 'more file')}; --json lists them")
    yield from (Row("input", _input(each)) for each in state.parts("inputs")[:ROWS])
    yield from (Row("output", _output(each)) for each in state.parts("outputs")[:ROWS])


def _input(part: Part) -> str:
    said = ["has ended" if part.flag("ended") else f"{size_text(part.size('bytes'))} accepted"]
    for what in ("connection", "rejected", "dropped"):
        number = part.size("connections" if what == "connection" else what)
        if number:
            said.append(_count(number, what) if what == "connection" else f"{number} {what}")
    if part.size("waiting"):
        said.append(f"{size_text(part.size('waiting'))} wait for room")
    return f"{part.text('name')}: {', '.join(said)}"


def _output(part: Part) -> str:
    said = [f"{size_text(part.size('written'))} written"]
    if part.flag("connected") is not None:
        said.insert(0, "connected" if part.flag("connected") else f"not connected ({part.text('error') or 'being dialled'})")
    if part.size("lost"):
        said.append(f"{_count(part.size('lost'), 'connection')} lost")
    if part.size("waiting"):
        said.append(f"{size_text(part.size('waiting'))} wait")
    return f"{part.text('name')}: {', '.join(said)}"


# The inbox ----------------------------------------------------------------------------------------------------------------------


def _inbox(state: Part, now: float) -> Iterator[Row]:
    inbox = state.part("inbox")
    if not inbox:
        return
    kept, consumers = inbox.size("kept_bytes"), inbox.parts("consumers")
    holds = [consumer.text("name") for consumer in consumers if consumer.flag("holds")]
    text = (f"{size_text(kept)} kept" if kept else "empty") + _room(inbox, "peers wait")
    if kept and holds:
        text += f"; held up by {', '.join(holds)}"
    yield Row("inbox", text)
    if kept and not consumers:
        yield Row("", "nothing takes what is kept; to take it: mysocket attach --recv-only")
    room = inbox.number("room")
    if kept and holds and room is not None and room <= 0:
        yield Row("", f"if {holds[0]} does not come back: mysocket forget {holds[0]}")
    first = sorted(consumers, key=lambda consumer: -consumer.size("lag_bytes"))
    for consumer in first[:ROWS]:
        yield Row("consumer", _consumer(consumer, now))
    if len(first) > ROWS:
        yield Row("", f"and {_count(len(first) - ROWS, 'more consumer')}; --json lists them")


def _consumer(consumer: Part, now: float) -> str:
    lag, pid, acked = consumer.size("lag_bytes"), consumer.number("attached"), consumer.number("acked")
    said = [f"{size_text(lag)} behind" if lag else "has everything"]
    said.append(f"attached (process {int(pid)})" if pid is not None else "not attached")
    if acked is not None:
        said.append(f"acknowledged {span(now - acked)} ago")
    if consumer.number("position") is not None:
        said.append(f"position {consumer.size('position')}")
    return f"{consumer.text('name') or '?'}: {', '.join(said)}"


# Figures ------------------------------------------------------------------------------------------------------------------------


def _figures(state: Part) -> Iterator[Row]:
    rates, totals, out = state.part("rates"), state.part("totals"), state.part("out")
    if rates:
        yield Row("rates", f"in {size_text(rates.size('in'))}/s, out {size_text(rates.size('out'))}/s")
    if totals:
        passed = f"in {size_text(totals.size('bytes_in'))}, out {size_text(totals.size('bytes_out'))}"
        yield Row("in all", f"{passed}; {_count(totals.size('connections'), 'connection')}")
    if out.number("accepted") is not None:
        yield Row("accepted", f"position {out.size('accepted')}")
        yield Row("acknowledged", f"position {out.size('acknowledged')}")


def _service(state: Part, now: float) -> Iterator[Row]:
    since, pid, name = state.number("since"), state.number("pid"), state.text("name")
    said = [f"mysocket {state.text('version')}".rstrip()]
    if pid is not None:
        said.append(f"process {int(pid)}")
    if name:
        said.append(f"on {name}")
    if since is not None:
        said.append(f"running for {span(now - since)}")
    yield Row("service", ", ".join(said))
    listening = state.texts("listening") or [text for text in [state.text("port")] if text]
    places = [("listening", ", ".join(listening)), ("dials", state.text("peer")), ("spool", state.text("spool"))]
    places.append(("node", state.text("node")))
    yield from (Row(label, text) for label, text in places if text)


# For people ---------------------------------------------------------------------------------------------------------------------


def span(seconds: float) -> str:
    """A length of time: ``0.4 ms``, ``3 s``, ``2 h 5 min``. A clock that was set back shows as nothing."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
    whole = int(seconds)
    parts = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next(index for index, (number, _) in enumerate(parts) if number)
    # Seconds matter for five minutes.
    last = first + 2 if whole < 300 or first < 2 else first + 1
    return " ".join(f"{number} {unit}" for number, unit in parts[first:last] if number)


def clock(time: float, now: float) -> str:
    """When something was, in local time; the day only if it is not within the last 20 hours."""
    try:
        local = datetime.fromtimestamp(time, UTC).astimezone()
    except (ValueError, OverflowError, OSError):
        return "?"
    return local.strftime("%H:%M:%S" if 0 <= now - time < 72000 else "%Y-%m-%d %H:%M")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def wrapped(rows: Iterable[Row], width: int) -> Iterator[str]:
    """The rows as lines of at most ``width`` characters, cut between words where that can be."""
    room = max(20, width - LABEL)
    for row in rows:
        label, text = row.label, one_line(row.text, MOST)
        while len(text) > room:
            cut = text.rfind(" ", room // 2, room + 1)
            piece, text = (text[:cut], text[cut + 1 :]) if cut > 0 else (text[:room], text[room:])
            yield f"{label:{LABEL - 1}} {piece}"
            label = ""
        yield f"{label:{LABEL - 1}} {text}"
