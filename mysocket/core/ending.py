"""When to leave, and with which status: one table, :data:`RULES`, read from the top; the first rule that decides wins.

Words: a node's *own* input is DELIVERED when it has ended and all of it, the end mark included, is acknowledged. A peer's stream
is AT_END when the last thing taken from it is an END, DONE when it said so (BYE), BROKEN when it will never be continued.

The reasons behind the rules are in docs/protocol.md ("Leaving without a wrong status"). Raw connections use the same table: their
end of file is DONE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from mysocket import errors
from mysocket.core.wire import Input

#: Seconds a receiver stays at an END whose sender is gone without a BYE: the last acknowledgement may not have reached it.
END_QUIET = 30.0
#: Seconds a sender that has its last acknowledgement stays for a connection on which to say so.
LAST_WORD = 3.0


class Own(Enum):
    """The state of the own input."""

    NONE = auto()
    OPEN = auto()
    #: Ended, and not all of it acknowledged.
    ENDED = auto()
    DELIVERED = auto()


class Progress(Enum):
    """How far a peer's stream has come."""

    EMPTY = auto()
    OPEN = auto()
    AT_END = auto()
    DONE = auto()
    BROKEN = auto()


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """One peer. ``away_since`` is the time in seconds since which no connection to it is up, or None if one is."""

    input: Input
    progress: Progress
    away_since: float | None = None
    #: It has heard our BYE(done), or there is nothing to say.
    told: bool = True


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user asked for; times in seconds, None: no limit."""

    keep_open: bool = False
    linger: float | None = None
    wait: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that leaving depends on, but the time."""

    own: Own
    #: Bytes of messages that were given and are not acknowledged.
    undelivered: int = 0
    delivered_at: float | None = None
    #: Every peer that was ever linked.
    peers: Iterable[PeerFacts] = ()
    #: Since when nobody is there; None while somebody is.
    alone_since: float | None = None
    #: What is not delivered is kept on disk.
    kept: bool = False
    #: SIGINT came so often; SIGTERM came.
    interrupts: int = 0
    terminated: bool = False
    #: The status of an error that ends the program, or None.
    failure: int | None = None
    #: Data is known to be missing, whatever comes.
    missing: bool = False


class Verdict(NamedTuple):
    """Leave with ``status``, or stay (None) and ask again at ``ask_at`` at the latest."""

    status: int | None = None
    ask_at: float | None = None
    why: str = ""


STAY = Verdict()
Rule = Callable[[Facts, Policy, float], Verdict | None]


def _failed(facts: Facts, policy: Policy, now: float) -> Verdict | None:
    return Verdict(facts.failure, why="error") if facts.failure is not None else None


def _terminated(facts: Facts, policy: Policy, now: float) -> Verdict | None:
    return Verdict(errors.TERMINATED, why="SIGTERM") if facts.terminated else None


def _interrupted(facts: Facts, policy: Policy, now: float) -> Verdict | None:
    if facts.interrupts > 1 or facts.interrupts and (facts.kept or not facts.undelivered):
        return Verdict(errors.INTERRUPTED, why="SIGINT")
    return None


def _finished(facts: Facts, policy: Policy, now: float) -> Verdict | None:
    """All is delivered, and every peer whose end is waited for has finished."""
    if policy.keep_open or facts.own in (Own.OPEN, Own.ENDED):
        return None
    ask: list[float] = []
    missing, nobody = facts.missing, True
    for peer in facts.peers:
        nobody = False
        until = _peer_until(peer, facts, policy)
        if until is None:
            return None
        if until > now:
            ask.append(until)
        elif peer.progress is Progress.BROKEN or peer.away_since is not None and peer.progress is Progress.OPEN:
            missing = missing or facts.own is Own.NONE or peer.input is Input.FINITE
    if nobody and facts.own is Own.NONE:
        return None
    if ask:
        return Verdict(None, max(ask), "waiting for the peer")
    return Verdict(errors.MISSING if missing else errors.OK, why="finished")


def _peer_until(peer: PeerFacts, facts: Facts, policy: Policy) -> float | None:
    """Until when this peer is waited for; in the past if it is not, None if without limit."""
    own_done = facts.own is Own.DELIVERED
    delivered = facts.delivered_at if facts.delivered_at is not None else float("-inf")
    last_word = float("-inf") if peer.told or not own_done else delivered + LAST_WORD
    if peer.progress in (Progress.DONE, Progress.BROKEN):
        return last_word
    if own_done and peer.input is not Input.FINITE:
        return last_word
    limits: list[float] = []
    if own_done and policy.linger is not None:
        limits.append(delivered + policy.linger)
    if peer.progress is Progress.AT_END and peer.away_since is not None:
        quiet = min(t for t in (END_QUIET, policy.linger, policy.wait) if t is not None)
        limits.append(peer.away_since + quiet)
    return max(last_word, min(limits)) if limits else None


def _given_up(facts: Facts, policy: Policy, now: float) -> Verdict | None:
    """``-w``: the peer cannot be reached, or stays away."""
    if policy.wait is None or facts.alone_since is None:
        return None
    if policy.keep_open and not facts.undelivered:
        progress = {peer.progress for peer in facts.peers}
        if progress and progress <= {Progress.DONE, Progress.AT_END}:
            return None
    until = facts.alone_since + policy.wait
    return Verdict(errors.TIME_LIMIT, why="-w") if now >= until else Verdict(None, until, "-w")


#: Read from the top; the first that gives a status wins, and of the others the earliest time to ask again counts.
RULES: tuple[Rule, ...] = (_failed, _terminated, _interrupted, _finished, _given_up)


def verdict(facts: Facts, policy: Policy, now: float) -> Verdict:
    """Leave, and with which status, or stay, and until when at the latest."""
    stay = STAY
    for rule in RULES:
        found = rule(facts, policy, now)
        if found is None:
            continue
        if found.status is not None:
            return found
        if found.ask_at is not None and (stay.ask_at is None or found.ask_at < stay.ask_at):
            stay = found
    return stay
