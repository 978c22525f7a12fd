"""The status line fits into any window, and says what one wants to know."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wcwidth import wcswidth, wcwidth

from mysocket.ends.escape import escape
from mysocket.screen.status import Facts, Part, ago, clip, fitted, invitation, parts, report, span

NAMES = st.text(st.characters() | st.sampled_from("漢字\x1b\u202e\n\u0301\u200d👩"), max_size=60)
SECONDS = st.none() | st.floats(0, 1e7)
FACTS = st.builds(
    Facts,
    peer=NAMES,
    host=NAMES,
    linked=st.booleans(),
    met=st.booleans(),
    nodes=st.integers(0, 1000),
    heard=SECONDS,
    next_attempt=SECONDS,
    dials=st.booleans(),
    problem=st.sampled_from(["", "unreachable", "is no MySocket"]),
    waiting=st.integers(0, 10**6),
    waiting_bytes=st.integers(0, 10**12),
    kept=st.booleans(),
    takes_files=st.booleans(),
    round_trip=SECONDS,
    command=st.none() | st.just("mysocket 9001 hosta 9000"),
    leaving=st.booleans(),
)


def cells(text: str) -> int:
    """What a terminal, and prompt_toolkit, that know nothing of joined emoji make of it."""
    return sum(max(0, wcwidth(character)) for character in text)


@given(FACTS, st.integers(2, 200))
def test_it_fits_and_is_harmless(facts: Facts, width: int) -> None:
    line = "".join(part.text for part in fitted(parts(facts), width))
    assert wcswidth(line) <= width and "\n" not in line
    assert escape(line.encode()) == line.encode()
    below = invitation(facts, width)
    assert len(below) <= width and (not below or str(facts.command) in below), "a command that is cut is worse than none"
    assert "\n" not in below and escape(below.encode()) == below.encode()


@given(FACTS)
def test_a_wide_window_shows_all_of_it(facts: Facts) -> None:
    assert [part for part in fitted(parts(facts), 1000) if part.text != " · "] == parts(facts)


@given(FACTS)
def test_the_answer_to_status_is_for_anybody(facts: Facts) -> None:
    text = report(facts, ["a transfer"])
    assert "a transfer" in text.split("\n")
    assert "\x1b" not in text and "\u202e" not in text, "names come from peers"


@given(NAMES.map(lambda text: "".join(filter(str.isprintable, text))), st.integers(2, 100))
def test_what_is_clipped_fits_and_what_fits_is_not_clipped(text: str, width: int) -> None:
    clipped = clip(text, width)
    assert wcswidth(clipped) <= width
    assert clipped == text or clipped.endswith("…") and text.startswith(clipped[:-1])
    if 0 <= wcswidth(text) <= width:
        assert clipped == text


@given(st.text("漢a👩é", max_size=60), st.integers(2, 100))
def test_wide_characters_are_counted_as_prompt_toolkit_does(text: str, width: int) -> None:
    assert cells(clip(text, width)) <= width


def said(facts: Facts, width: int = 200) -> str:
    return "".join(part.text for part in fitted(parts(facts), width))


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (Facts(), "anybody · waiting for a connection"),
        (Facts(met=True), "anybody · waiting for it to come back"),
        (Facts(peer="hostb:9001", dials=True), "hostb:9001 · connecting"),
        (Facts(peer="hostb:9001", dials=True, next_attempt=3.7), "hostb:9001 · not there yet, next attempt in 4 s"),
        (Facts(peer="hostb", dials=True, met=True, next_attempt=0.0), "hostb · gone, next attempt in 1 s"),
        (Facts(peer="x:1", dials=True, problem="name unknown", next_attempt=9), "x:1 · name unknown, next attempt in 9 s"),
        (Facts(peer="hostb", linked=True, nodes=1, heard=0.1), "hostb · connected · last heard just now"),
        (Facts(peer="hostb", linked=True, nodes=3, heard=9), "hostb · 3 connected · last heard 9 s ago"),
        (Facts(peer="b", linked=True, waiting=1), "b · connected · 1 message waiting"),
        (Facts(peer="b", waiting=2, waiting_bytes=9), "b · waiting for a connection · 2 messages waiting"),
        (Facts(peer="b", linked=True, leaving=True), "b · connected · leaving"),
        (
            Facts(peer="b", linked=True, waiting=2, leaving=True),
            "b · connected · 2 messages waiting · leaving when that is delivered; Ctrl-C leaves without",
        ),
    ],
)
def test_what_it_says(facts: Facts, line: str) -> None:
    assert said(facts) == line


def test_what_matters_most_is_left_when_there_is_no_room() -> None:
    facts = Facts(peer="hostb:9001", dials=True, next_attempt=3.7, waiting=2)
    assert said(facts, 40) == "hostb:9001 · not there yet, next attemp…"
    assert said(facts, 10) == "hostb:9001"
    assert said(facts, 5) == "host…"
    assert fitted([Part("x")], 0) == []


def test_the_command_is_shown_until_somebody_has_come() -> None:
    facts = Facts(command="mysocket 9001 hosta 9000", host="hostb", dials=True)
    assert invitation(facts, 80) == "on hostb, run: mysocket 9001 hosta 9000"
    assert invitation(replace(facts, host=""), 80) == "on the other machine, run: mysocket 9001 hosta 9000"
    assert invitation(facts, 30) == "mysocket 9001 hosta 9000"
    assert invitation(facts, 20) == ""
    for change in ({"linked": True}, {"met": True}, {"leaving": True}, {"command": None}):
        assert invitation(replace(facts, **change), 80) == ""


def test_times_are_in_the_largest_unit_they_fill() -> None:
    assert [span(seconds) for seconds in (0, 59.9, 60, 3599, 3600, 86399, 86400, 10**6)] == [
        "0 s",
        "59 s",
        "1 min",
        "59 min",
        "1 h",
        "23 h",
        "1 d",
        "11 d",
    ]
    assert [ago(seconds) for seconds in (0, 1.9, 2, 61)] == ["just now", "just now", "2 s ago", "1 min ago"]


def test_the_report() -> None:
    facts = Facts(
        peer="hostb", linked=True, heard=3, round_trip=0.0123, listening="[::]:9000", waiting=2, waiting_bytes=12, kept=True
    )
    text = report(facts, ["↑ a.bin"])
    assert text.split("\n")[:2] == ["hostb: connected, last heard 3 s ago, round trip 12.3 ms", "listening on [::]:9000"]
    assert "2 messages waiting" in text and "on disk" in text and "↑ a.bin" in text
    assert "everything sent has arrived" in report(Facts(linked=True), [])


@pytest.mark.parametrize(
    ("facts", "line"),
    [
        (Facts(peer="hostb", linked=True, takes=False), "it takes nothing (--send-only)"),
        (Facts(peer="hostb", linked=True), "it takes no files (it was started without --download-dir)"),
        (Facts(peer="hostb", linked=True, takes_files=True), "it takes files"),
    ],
)
def test_what_the_peer_takes(facts: Facts, line: str) -> None:
    assert line in report(facts, []).splitlines()


def test_before_anything_is_known() -> None:
    assert [part.text for part in parts(Facts(starting=True))] == ["starting"]
