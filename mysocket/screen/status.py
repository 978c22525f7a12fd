"""The status line: what one wants to know without asking. Pure: facts in, pieces of text out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wcwidth import wcswidth

from mysocket.ends.escape import one_line
from mysocket.ends.progress import size_text

SEPARATOR = " · "


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """How things stand.

    :ivar starting: nothing is known yet.
    :ivar peer: what to call the peer: its name when it has said one, else what was dialled; empty where anybody may come.
    :ivar host: the other machine, where that is known.
    :ivar listening: where this side listens, for people.
    :ivar linked: a connection is up.
    :ivar met: one was up before.
    :ivar nodes: how many are linked; more than one only for a listener.
    :ivar heard: seconds since the peer was heard; None: it is not linked.
    :ivar next_attempt: seconds until it is dialled again; None: an attempt is under way, or nothing is dialled.
    :ivar dials: this side dials.
    :ivar problem: why the last attempt failed, in a few words.
    :ivar waiting: own messages of this session that are not acknowledged.
    :ivar waiting_bytes: bytes that are not acknowledged, those of earlier sessions too.
    :ivar kept: they survive this process.
    :ivar takes: the peer takes messages (no --send-only); ``takes_files``: it has a --download-dir.
    :ivar round_trip: seconds a PING took.
    :ivar command: what to type on the other machine.
    :ivar leaving: the session is over but for what must still be delivered.
    """

    starting: bool = False
    peer: str = ""
    host: str = ""
    listening: str = ""
    linked: bool = False
    met: bool = False
    nodes: int = 0
    heard: float | None = None
    next_attempt: float | None = None
    dials: bool = False
    problem: str = ""
    waiting: int = 0
    waiting_bytes: int = 0
    kept: bool = False
    takes: bool = True
    takes_files: bool = False
    round_trip: float | None = None
    command: str | None = None
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the line: ``good``, ``bad`` or nothing says how it looks."""

    text: str
    look: str = ""


def parts(facts: Facts) -> list[Part]:
    """The parts of the line, the most important first."""
    if facts.starting:
        return [Part("starting")]
    found = [Part(one_line(facts.peer, 40) if facts.peer else "anybody"), _link(facts)]
    if facts.waiting or facts.waiting_bytes:
        found.append(Part(waiting_text(facts), "bad"))
    if facts.linked and facts.heard is not None:
        found.append(Part(f"last heard {ago(facts.heard)}"))
    if facts.leaving:
        waits = facts.waiting or facts.waiting_bytes
        found.append(Part("leaving when that is delivered; Ctrl-C leaves without" if waits else "leaving", "bad"))
    return found


def waiting_text(facts: Facts) -> str:
    """What waits, in messages where they are counted."""
    if facts.waiting:
        return f"{facts.waiting} message{'s' * (facts.waiting != 1)} waiting"
    return f"{size_text(facts.waiting_bytes)} waiting"


def _link(facts: Facts) -> Part:
    if facts.linked:
        return Part(f"{facts.nodes} connected" if facts.nodes > 1 else "connected", "good")
    if not facts.dials:
        return Part("waiting for it to come back" if facts.met else "waiting for a connection", "bad")
    if facts.next_attempt is None:
        return Part("connecting", "bad")
    why = facts.problem or ("gone" if facts.met else "not there yet")
    return Part(f"{why}, next attempt in {max(1, round(facts.next_attempt))} s", "bad")


def fitted(found: Sequence[Part], width: int) -> list[Part]:
    """As many of the parts as fit into ``width`` cells, cut rather than wrapped."""
    line: list[Part] = []
    left = width
    for part in found:
        between = len(SEPARATOR) if line else 0
        if left - between < 4:
            break
        text = clip(part.text, left - between)
        if between:
            line.append(Part(SEPARATOR, "dim"))
        line.append(Part(text, part.look))
        left -= between + max(0, wcswidth(text))
    return line


def clip(text: str, width: int) -> str:
    """``text`` in at most ``width`` cells (2 or more)."""
    if 0 <= wcswidth(text) <= width:
        return text
    kept = text[: width - 1]
    while kept and not 0 <= wcswidth(kept) <= width - 1:
        kept = kept[:-1]
    return kept + "…"


def invitation(facts: Facts, width: int) -> str:
    """The line below: what to type on the other machine, as long as nobody has come from there."""
    if facts.command is None or facts.linked or facts.met or facts.leaving:
        return ""
    line = f"on {one_line(facts.host, 40) or 'the other machine'}, run: {facts.command}"
    # A command that is cut is worse than none.
    return line if len(line) <= width else facts.command if len(facts.command) <= width else ""


def span(seconds: float) -> str:
    """A time, in the largest unit it fills: ``4 s``, ``3 min``, ``2 h``."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def ago(seconds: float) -> str:
    """The same, of the past."""
    return "just now" if seconds < 2 else f"{span(seconds)} ago"


def report(facts: Facts, transfers: Sequence[str]) -> str:
    """The answer to ``/status``: a few lines."""
    trip = f", round trip {facts.round_trip * 1000:.1f} ms" if facts.round_trip is not None else ""
    heard = f", last heard {ago(facts.heard)}" if facts.heard is not None else ""
    lines = [f"{one_line(facts.peer, 40) or 'anybody'}: {_link(facts).text}{heard}{trip}"]
    if facts.listening:
        lines.append(f"listening on {facts.listening}")
    if facts.linked and not facts.takes:
        lines.append("it takes nothing (--send-only)")
    elif facts.linked:
        lines.append("it takes files" if facts.takes_files else "it takes no files (it was started without --download-dir)")
    if facts.waiting or facts.waiting_bytes:
        where = "they are kept on disk" if facts.kept else "they are held in memory"
        lines.append(f"{waiting_text(facts)} to be acknowledged ({size_text(facts.waiting_bytes)}); {where}")
    else:
        lines.append("everything sent has arrived")
    lines += transfers
    if facts.command is not None and not facts.linked:
        lines.append(f"on {one_line(facts.host, 40) or 'the other machine'}, run: {facts.command}")
    return "\n".join(lines)
