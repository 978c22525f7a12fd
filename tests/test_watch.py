"""When the table of endings is asked, what signals and errors do to its answer, and what people are told meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from twisted.internet.task import Clock

from mysocket.core.ending import Own, PeerFacts, Policy, Progress, Verdict
from mysocket.core.wire import Input
from mysocket.ends.seldom import SAY_AGAIN
from mysocket.errors import ConnectionRefused, MySocketError, OutputClosed, OutputFailed, PortTaken
from mysocket.watch import Voice, Watch

TALKING = PeerFacts(Input.FINITE, Progress.OPEN)
FINISHED = PeerFacts(Input.FINITE, Progress.DONE)


class Subject:
    """What is watched: facts that a test sets."""

    def __init__(self) -> None:
        self.state = Own.OPEN
        self.waiting = 0
        self.them: list[PeerFacts] = []
        self.alone: float | None = 0.0
        self.lost = False
        self.spool = False
        self.looks = 0

    def own(self) -> Own:
        self.looks += 1
        return self.state

    def undelivered(self) -> int:
        return self.waiting

    def undelivered_text(self) -> str:
        return f"{self.waiting} bytes"

    def kept(self) -> bool:
        return self.spool

    def peers(self) -> Iterable[PeerFacts]:
        return iter(self.them)

    def alone_since(self) -> float | None:
        return self.alone

    def missing(self) -> bool:
        return self.lost


class Watched:
    """A watch over a subject, with a clock of its own; everything it says and decides."""

    def __init__(self, policy: Policy = Policy(), *, quiet: bool = False, verbose: bool = False) -> None:
        self.clock = Clock()
        self.subject = Subject()
        self.said: list[str] = []
        self.stopped: list[float] = []
        self.verdicts: list[Verdict] = []
        self.watch = Watch(
            self.subject,
            policy,
            clock=self.clock,
            voice=Voice(self.said.append, quiet=quiet, verbose=verbose),
            stop_input=lambda: self.stopped.append(self.clock.seconds()),
        )
        self.watch.verdict.addCallback(self.verdicts.append)

    @property
    def statuses(self) -> list[int | None]:
        return [found.status for found in self.verdicts]

    def look(self) -> list[int | None]:
        """Something has changed; the statuses with which it said to leave."""
        self.watch.changed()
        self.clock.advance(0)
        return self.statuses

    def finish(self) -> None:
        """Everything is delivered, and the peer has nothing more to say."""
        self.subject.state, self.subject.them, self.subject.waiting = Own.DELIVERED, [FINISHED], 0


# The table is asked -------------------------------------------------------------------------------------------------------------


def test_the_verdict_comes_once() -> None:
    watched = Watched()
    assert watched.look() == []
    watched.finish()
    assert watched.look() == [0]
    looks = watched.subject.looks
    for act in (
        watched.watch.changed,
        watched.watch.terminate,
        watched.watch.interrupt,
        lambda: watched.watch.fail(PortTaken(where="")),
    ):
        act()
        watched.clock.advance(1000)
    assert watched.statuses == [0] and watched.subject.looks == looks and not watched.clock.getDelayedCalls()


def test_what_changes_in_one_turn_is_looked_at_once_and_in_the_next() -> None:
    watched = Watched()
    for _ in range(5):
        watched.watch.changed()
    assert watched.subject.looks == 0
    watched.clock.advance(0)
    assert watched.subject.looks == 1
    watched.watch.changed()
    watched.finish()
    # What is true in the turn of the look counts, not what was true when it was asked for.
    assert watched.look() == [0] and watched.subject.looks == 2


def test_data_that_is_missing_is_in_the_status() -> None:
    watched = Watched()
    watched.finish()
    watched.subject.lost = True
    assert watched.look() == [5]


def test_nobody_who_can_be_reached_ends_it_at_the_time_limit_and_not_before() -> None:
    watched = Watched(Policy(wait=5))
    assert watched.look() == []
    watched.clock.advance(4.9)
    assert watched.statuses == []
    watched.clock.advance(0.1)
    assert watched.verdicts == [Verdict(3, why="-w")] and watched.clock.seconds() == 5


def test_the_time_limit_begins_anew_when_somebody_was_there() -> None:
    watched = Watched(Policy(wait=5))
    watched.look()
    watched.clock.advance(3)
    watched.subject.alone = None
    watched.look()
    watched.clock.advance(100)
    assert watched.statuses == [] and not watched.clock.getDelayedCalls()
    watched.subject.alone = 103.0
    watched.look()
    watched.clock.advance(4.9)
    assert watched.statuses == []
    watched.clock.advance(0.1)
    assert watched.statuses == [3]


def test_however_often_it_looks_one_time_to_look_again_is_kept() -> None:
    watched = Watched(Policy(wait=5))
    for _ in range(10):
        watched.look()
        watched.clock.advance(0.1)
    assert [call.getTime() for call in watched.clock.getDelayedCalls()] == [5]


def test_a_time_at_which_somebody_is_there_again_is_no_time_limit() -> None:
    """Nobody says that something has changed; the look at the old time finds out."""
    watched = Watched(Policy(wait=5))
    watched.look()
    watched.subject.alone = None
    watched.clock.advance(100)
    assert watched.statuses == []


def test_the_peer_is_waited_for_so_long_after_the_own_input_is_delivered() -> None:
    watched = Watched(Policy(linger=2))
    watched.subject.alone, watched.subject.them = None, [TALKING]
    watched.clock.advance(50)
    assert watched.look() == []
    watched.subject.state = Own.DELIVERED
    assert watched.look() == []
    watched.clock.advance(1)
    # Further looks do not move the moment from which it counts.
    assert watched.look() == []
    watched.clock.advance(0.9)
    assert watched.statuses == []
    watched.clock.advance(0.1)
    assert watched.statuses == [0] and watched.clock.seconds() == 52


def test_a_watch_that_is_stopped_says_nothing_more_and_leaves_no_call_behind() -> None:
    watched = Watched(Policy(wait=5))
    watched.look()
    watched.watch.changed()
    assert len(watched.clock.getDelayedCalls()) == 2
    watched.watch.stop()
    assert not watched.clock.getDelayedCalls()
    watched.watch.report(ConnectionRefused(peer="a"))
    watched.clock.advance(100)
    assert watched.look() == [] and not watched.said


# Signals and errors -------------------------------------------------------------------------------------------------------------


def test_an_interrupt_with_nothing_undelivered_leaves() -> None:
    watched = Watched()
    watched.watch.interrupt()
    assert watched.stopped == [0] and watched.verdicts == []
    watched.clock.advance(0)
    assert watched.verdicts == [Verdict(130, why="SIGINT")] and watched.said == []


def test_the_first_interrupt_waits_for_what_is_undelivered_and_says_so() -> None:
    watched = Watched(quiet=True)
    watched.subject.waiting = 7
    watched.watch.interrupt()
    watched.clock.advance(1000)
    assert watched.said == ["7 bytes not delivered yet; waiting for that. Interrupt again to leave without."]
    assert watched.stopped == [0] and watched.statuses == []
    watched.subject.waiting = 0
    assert watched.look() == [130]


def test_the_second_interrupt_leaves_without_what_is_undelivered() -> None:
    watched = Watched()
    watched.subject.waiting = 7
    for statuses in ([], [130]):
        watched.watch.interrupt()
        watched.clock.advance(0)
        assert watched.statuses == statuses
    assert len(watched.said) == 1


def test_a_termination_waits_for_nothing() -> None:
    watched = Watched()
    watched.subject.waiting = 7
    watched.watch.terminate()
    watched.clock.advance(0)
    assert watched.statuses == [143] and watched.said == []


def test_the_first_error_is_the_one_that_counts() -> None:
    watched = Watched(quiet=True)
    watched.subject.waiting = 7
    first = OutputFailed("No space left on device", where="stdout")
    watched.watch.fail(first)
    watched.watch.fail(OutputClosed("Broken pipe"))
    watched.watch.terminate()
    watched.clock.advance(0)
    assert watched.statuses == [74] and watched.watch.error is first and watched.said == [str(first)]


# What people are told -----------------------------------------------------------------------------------------------------------

REFUSED = ConnectionRefused(peer="hostb:9")
TEXT = "hostb:9 refused the connection: nothing listens there yet. Start mysocket on that side, or check the port"


def test_attempts_that_fail_again_and_again_are_told_once_a_minute() -> None:
    watched = Watched()
    for _ in range(121):
        watched.watch.report(ConnectionRefused(peer="hostb:9"))
        watched.clock.advance(1)
    assert SAY_AGAIN == 60 and watched.said == [f"{TEXT}. Trying again."] * 3


def test_an_attempt_that_fails_for_another_reason_is_told_at_once() -> None:
    watched = Watched()
    for _ in range(3):
        for peer in ("hosta:9", "hostb:9"):
            watched.watch.report(ConnectionRefused(peer=peer))
    watched.watch.report(MySocketError("no full stop"))
    assert [text.split()[0] for text in watched.said] == ["hosta:9", "hostb:9", "no"]
    assert watched.said[-1] == "no full stop. Trying again."


@pytest.mark.parametrize(("verbose", "said"), [(False, []), (True, [f"{TEXT}."] * 2)])
def test_while_somebody_is_there_only_those_who_want_details_hear_of_attempts(verbose: bool, said: list[str]) -> None:
    watched = Watched(verbose=verbose)
    watched.subject.alone = None
    for _ in range(2):
        watched.watch.report(REFUSED)
    assert watched.said == said
    # It was not told to everybody yet; now that nobody is there, it is.
    watched.subject.alone = 0.0
    watched.watch.report(REFUSED)
    assert watched.said == [*said, f"{TEXT}. Trying again."]


def test_attempts_that_fail_behind_the_verdict_are_not_told() -> None:
    watched = Watched(verbose=True)
    watched.watch.terminate()
    watched.clock.advance(0)
    for watched.subject.alone in (0.0, None):
        watched.watch.report(REFUSED)
    assert watched.statuses == [143] and watched.said == []


@pytest.mark.parametrize(
    ("quiet", "verbose", "said"),
    [
        (False, False, ["told", "said by the watch", "complained"]),
        (False, True, ["told", "said by the watch", "detail", "complained"]),
        (True, False, ["complained"]),
        (True, True, ["detail", "complained"]),
    ],
)
def test_how_much_is_said(quiet: bool, verbose: bool, said: list[str]) -> None:
    watched = Watched(quiet=quiet, verbose=verbose)
    watched.watch.voice.tell("told")
    watched.watch.tell("said by the watch")
    watched.watch.voice.detail("detail")
    watched.watch.voice.complain("complained")
    assert watched.said == said
