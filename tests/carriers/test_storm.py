"""Thousands of senders come back to a hub: no herd, nobody left behind, by the real dialler on a clock that is turned."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock

from bench import herd
from bench.clock import HeapClock
from bench.herd import HOUR, POWER_CUT, REFUSED, RESTART, Hub, Outage, Policy, Scene, Sender, Story, play
from mysocket.carriers import build

SENDERS = 500
OUTAGES = [RESTART, POWER_CUT, HOUR]


def no_jitter(random: Any) -> Any:
    return lambda attempt: min(build.LAST_RETRY, build.FIRST_RETRY * build.FACTOR ** (min(attempt, 50) - 1))


@cache
def story(outage: Outage, policy: Policy | None = None) -> Story:
    """All the senders and one outage: the same each time."""
    return play(Scene(outage, SENDERS), policy)


# The clock ----------------------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("later"), st.integers(0, 40)),
            st.tuples(st.sampled_from(["cancel", "reset", "delay"]), st.integers(0, 40), st.integers(0, 40)),
            st.tuples(st.just("advance"), st.integers(0, 20)),
        ),
        max_size=60,
    )
)
def test_the_clock_does_what_twisted_s_own_does(acts: list[tuple[Any, ...]]) -> None:
    seen = []
    for clock in (Clock(), HeapClock()):
        made: list[tuple[int, float]] = []
        calls: list[Any] = []

        def make(number: int, clock: Clock = clock, made: Any = made, calls: Any = calls) -> None:
            made.append((number, clock.seconds()))
            if number % 3 == 0:  # a call that makes a call
                calls.append(clock.callLater(1 + number / 997, make, len(calls)))

        for turn, act in enumerate(acts):
            if act[0] == "later":
                calls.append(clock.callLater(act[1] + turn / 1009, make, len(calls)))  # no two at one time
            elif act[0] == "advance":
                clock.advance(act[1])
            elif act[1] < len(calls) and calls[act[1]].active():
                change = getattr(calls[act[1]], act[0])
                change() if act[0] == "cancel" else change(act[2] + turn / 1013)
        left = [call.getTime() for call in clock.getDelayedCalls()]
        seen.append((made, clock.seconds(), sorted(left)))
    assert seen[0] == seen[1]


def test_going_from_call_to_call_each_sees_its_own_time() -> None:
    clock, seen = HeapClock(), list[float]()
    for delay in (3.0, 1.0, 2.0):
        clock.callLater(delay, lambda: seen.append(clock.seconds()))
    clock.run(2.5)
    assert seen == [1.0, 2.0] and clock.seconds() == 2.5
    clock.run()
    assert seen == [1.0, 2.0, 3.0] and clock.seconds() == 3.0 and not clock.getDelayedCalls()


# The storm ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.name)
def test_all_are_back(outage: Outage) -> None:
    seen = story(outage)
    assert len(seen.back) == SENDERS and 0 <= min(seen.back) and max(seen.back) < 2 * build.LAST_RETRY


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.name)
def test_no_wait_is_shorter_or_longer_than_is_allowed(outage: Outage) -> None:
    seen = story(outage)
    assert len(seen.waits) == sum(seen.attempts.values())
    assert build.SHORTEST_RETRY <= min(seen.waits) and max(seen.waits) <= build.LAST_RETRY


def test_the_herd_is_scattered() -> None:
    together, scattered = story(HOUR, no_jitter), story(HOUR)
    assert together.peak == SENDERS, "without chance they come all at once"
    # Each makes an attempt in LAST_RETRY / 2 on average; three times that is beyond all chance, and the seed is given anyway.
    assert scattered.peak <= 3 * 2 * SENDERS / build.LAST_RETRY < together.peak / 4


def test_when_the_hub_is_back_soon_they_are_too() -> None:
    assert story(RESTART).share_back(0.5) < 2.0


def test_the_same_seed_tells_the_same_story() -> None:
    again = play(Scene(RESTART, SENDERS))
    assert again == story(RESTART)
    other = play(Scene(RESTART, SENDERS, seed=2))
    assert other.waits != again.waits


@pytest.mark.parametrize("limits", [(64, 64), (2, 1)])
def test_a_hub_that_cannot_keep_up_gets_its_senders_in_the_end(limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """SYNs are dropped, or connections turned away: nobody is forgotten, and nobody is in a hurry for that."""
    monkeypatch.setattr(herd, "HANDSHAKE", 0.02)
    total, each = limits
    seen = play(Scene(RESTART, SENDERS, backlog=16, strangers=total, strangers_per_address=each, one_address=True))
    assert (seen.dropped if total > 16 else seen.turned_away) and len(seen.back) == SENDERS
    assert len(seen.waits) == sum(seen.attempts.values()) and max(seen.waits) <= build.LAST_RETRY


# One sender ---------------------------------------------------------------------------------------------------------------------


class Waiting(Hub):
    """A hub that leaves the answers to the test."""

    def dialled(self, sender: Sender) -> None:
        self.story.attempts[0] += 1


def longest(attempt: int) -> float:
    return min(build.LAST_RETRY, build.FIRST_RETRY * build.FACTOR ** (attempt - 1))


@pytest.mark.parametrize("how", ["turned away", "refused", "both"])
def test_only_a_finished_handshake_begins_the_waits_anew(how: str) -> None:
    clock, seen = HeapClock(), Story()
    hub = Waiting(clock, Scene(HOUR), seen)
    sender = Sender(hub, 1, lambda: 1.0)  # never less than the longest

    def wait() -> float:
        """The time until the next attempt."""
        [call] = clock.getDelayedCalls()
        before, begun = seen.attempts[0], clock.seconds()
        assert sender.known.next == pytest.approx(call.getTime())
        clock.advance(call.getTime() - begun)
        assert seen.attempts[0] == before + 1
        return clock.seconds() - begun

    sender.link()
    for good_connections in range(3):
        assert sender.known.failed == 0
        sender.lose()
        assert wait() == pytest.approx(longest(1)), f"after {good_connections} good connections"
        for failed in range(1, 15):
            if how == "refused" or how == "both" and random.Random(failed).random() < 0.5:
                sender.failed(REFUSED)
            else:
                sender.turned_away()
            assert sender.known.failed == failed
            assert wait() == pytest.approx(longest(failed + 1))
        sender.welcome()
        assert not clock.getDelayedCalls()
