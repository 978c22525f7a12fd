"""When to leave, and with which status."""

from __future__ import annotations

from itertools import product

import pytest

from mysocket.core.ending import END_QUIET, LAST_WORD, RULES, Facts, Own, PeerFacts, Policy, Progress, verdict
from mysocket.core.wire import Input

FINITE, OPEN, NONE = Input.FINITE, Input.OPEN, Input.NONE


def peer(input: Input = FINITE, progress: Progress = Progress.OPEN, away: float | None = None, told: bool = True) -> PeerFacts:
    return PeerFacts(input, progress, away, told)


def status(own: Own, *peers: PeerFacts, now: float = 1000.0, policy: Policy = Policy(), **facts: object) -> int | None:
    return verdict(Facts(own=own, peers=peers, **facts), policy, now).status  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("own", "theirs", "expected"),
    [
        # An input of one's own that is not delivered keeps one here, whatever the peer does.
        (Own.OPEN, peer(progress=Progress.DONE), None),
        (Own.ENDED, peer(progress=Progress.DONE), None),
        # Both finished.
        (Own.DELIVERED, peer(progress=Progress.DONE), 0),
        # A finite peer is waited for; a terminal, a service or nothing is not.
        (Own.DELIVERED, peer(FINITE), None),
        (Own.DELIVERED, peer(OPEN), 0),
        (Own.DELIVERED, peer(NONE, Progress.EMPTY), 0),
        # A receiver leaves on BYE(done), not on an end mark.
        (Own.NONE, peer(progress=Progress.DONE), 0),
        (Own.NONE, peer(progress=Progress.AT_END), None),
        (Own.NONE, peer(OPEN, Progress.OPEN), None),
        (Own.NONE, peer(progress=Progress.BROKEN), 5),
        (Own.DELIVERED, peer(progress=Progress.BROKEN), 5),
        # The connection broke at the last acknowledgement: stay a while, then nothing is missing.
        (Own.NONE, peer(progress=Progress.AT_END, away=1000.0), None),
        (Own.NONE, peer(progress=Progress.AT_END, away=1000.0 - END_QUIET), 0),
        # An open stream whose sender is gone is waited for, without limit.
        (Own.NONE, peer(progress=Progress.OPEN, away=0.0), None),
    ],
)
def test_one_peer(own: Own, theirs: PeerFacts, expected: int | None) -> None:
    assert status(own, theirs) == expected


def test_nobody_came() -> None:
    assert status(Own.NONE) is None
    assert status(Own.DELIVERED) == 0


def test_keep_open_stays_when_the_peer_has_finished() -> None:
    for own in (Own.NONE, Own.DELIVERED):
        assert status(own, peer(progress=Progress.DONE), policy=Policy(keep_open=True)) is None


def test_a_hub_leaves_when_every_sender_has_finished() -> None:
    done, going = peer(progress=Progress.DONE), peer(progress=Progress.OPEN)
    assert status(Own.NONE, done, going, done) is None
    assert status(Own.NONE, done, done) == 0
    assert status(Own.NONE, done, peer(progress=Progress.BROKEN)) == 5


def test_data_known_to_be_missing_is_remembered() -> None:
    assert status(Own.NONE, peer(progress=Progress.DONE), missing=True) == 5


@pytest.mark.parametrize(("away", "expected"), [(None, 0), (990.0, 5)])
def test_linger_bounds_the_wait_for_the_peers_input(away: float | None, expected: int) -> None:
    policy, theirs = Policy(linger=5), peer(FINITE, Progress.OPEN, away)
    assert status(Own.DELIVERED, theirs, policy=policy, delivered_at=996.0) is None
    assert status(Own.DELIVERED, theirs, policy=policy, delivered_at=995.0) == expected


def test_linger_shortens_the_quiet_at_an_end() -> None:
    theirs = peer(FINITE, Progress.AT_END, away=998.0)
    assert status(Own.NONE, theirs, policy=Policy(linger=2)) == 0
    assert status(Own.NONE, theirs, policy=Policy(linger=3)) is None


def test_the_last_word_is_given_a_moment() -> None:
    theirs = peer(NONE, Progress.EMPTY, away=1000.0, told=False)
    assert status(Own.DELIVERED, theirs, delivered_at=1000.0) is None
    assert status(Own.DELIVERED, theirs, delivered_at=1000.0 - LAST_WORD) == 0


def test_wait_gives_up_when_nobody_is_there() -> None:
    policy = Policy(wait=10)
    assert status(Own.OPEN, policy=policy, alone_since=991.0) is None
    assert status(Own.OPEN, policy=policy, alone_since=990.0) == 3
    assert status(Own.OPEN, policy=policy, alone_since=None) is None
    assert status(Own.NONE, peer(away=990.0), policy=policy, alone_since=990.0) == 3


def test_wait_at_an_end_is_no_failure() -> None:
    theirs = peer(FINITE, Progress.AT_END, away=990.0)
    assert status(Own.NONE, theirs, policy=Policy(wait=10), alone_since=990.0) == 0


def test_a_kept_open_listener_is_alone_in_peace_after_its_peers_have_finished() -> None:
    policy = Policy(wait=10, keep_open=True)
    assert status(Own.NONE, policy=policy, alone_since=0.0) == 3
    assert status(Own.NONE, peer(progress=Progress.DONE, away=0.0), policy=policy, alone_since=0.0) is None
    assert status(Own.NONE, peer(progress=Progress.OPEN, away=0.0), policy=policy, alone_since=0.0) == 3


@pytest.mark.parametrize(("interrupts", "undelivered", "expected"), [(0, 0, None), (1, 0, 130), (1, 5, None), (2, 5, 130)])
def test_interrupts(interrupts: int, undelivered: int, expected: int | None) -> None:
    assert status(Own.OPEN, peer(), interrupts=interrupts, undelivered=undelivered) == expected


def test_terminate_leaves_at_once() -> None:
    assert status(Own.OPEN, peer(), undelivered=5, terminated=True) == 143


def test_errors_come_first() -> None:
    assert status(Own.OPEN, terminated=True, interrupts=2, failure=74) == 74


def every_case() -> list[tuple[Facts, Policy]]:
    peers = [peer(i, p, a, t) for i, p, a, t in product(Input, Progress, (None, 0.0, 999.0), (True, False))]
    policies = [Policy(k, q, w) for k, q, w in product((True, False), (None, 0.0, 5.0), (None, 5.0))]
    return [
        (
            Facts(
                own=own, undelivered=5 if own is Own.ENDED else 0, delivered_at=500.0, peers=(one,), alone_since=one.away_since
            ),
            policy,
        )
        for own, one, policy in product(Own, peers, policies)
    ]


def test_laws_over_every_case() -> None:
    """0 is never given with something undelivered, nor by a receiver whose peer's finite stream is open; and who stays and has
    been given a time is told something new at that time or has another time."""
    for facts, policy in every_case():
        found = verdict(facts, policy, 1000.0)
        [one] = facts.peers
        if found.status == 0:
            assert facts.own in (Own.NONE, Own.DELIVERED)
            if facts.own is Own.NONE:
                assert one.progress in (Progress.DONE, Progress.AT_END)
            if one.input is FINITE and one.progress is Progress.OPEN:
                assert policy.linger is not None and one.away_since is None
        if found.ask_at is not None:
            assert found.ask_at > 1000.0
            later = verdict(facts, policy, found.ask_at)
            assert later.status is not None or later.ask_at != found.ask_at


def test_every_rule_can_decide() -> None:
    assert len(RULES) == len(set(RULES))
    for rule in RULES:
        cases = [(facts, policy) for facts, policy in every_case()]
        cases += [
            (Facts(own=Own.OPEN, failure=1), Policy()),
            (Facts(own=Own.OPEN, terminated=True), Policy()),
            (Facts(own=Own.OPEN, interrupts=1), Policy()),
        ]
        assert any((found := rule(facts, policy, 1000.0)) is not None and found.status is not None for facts, policy in cases)
