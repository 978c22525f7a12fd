"""The screen of `mysocket status`: what it says of a service, whatever the service says."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket.ends.progress import size_text
from mysocket.verbs.health import LABEL, clock, healthy, rows, span, wrapped

NOW = 1760000000.0
NODE = "cd" * 16

LINKED: dict[str, Any] = {
    "version": "0.4",
    "pid": 4711,
    "node": NODE,
    "name": "hosta",
    "since": NOW - 7500,
    "port": 9000,
    "peer": "hub:9001",
    "spool": "/var/lib/mysocket",
    "listening": ["0.0.0.0:9000"],
    "linked": True,
    "takes": True,
    "input": True,
    "dial": {"peer": "hub:9001", "next_attempt": None, "failed": 0, "error": None},
    "peers": [
        {
            "name": "hub",
            "address": "192.0.2.1:9001",
            "node": "ef" * 16,
            "durable": True,
            "linked": True,
            "since": NOW - 3600,
            "away_since": None,
            "heard": 3.2,
            "round_trip": 0.0004,
            "stream": "ab" * 16,
            "taken": 812,
            "committed": 812,
            "ended": False,
        }
    ],
    "peers_total": 1,
    "out": {
        "stream": "ab" * 16,
        "accepted": 5000,
        "acknowledged": 1600,
        "waiting_bytes": 3400,
        "waiting_messages": 12,
        "oldest": NOW - 185,
        "room": 10**9,
        "capacity": 2 * 10**9,
    },
    "rates": {"in": 0.0, "out": 1536.7},
    "totals": {"bytes_in": 812, "bytes_out": 5000, "batches_in": 3, "batches_out": 9, "connections": 2},
    "inbox": {
        "begin": 0,
        "end": 812,
        "kept_bytes": 812,
        "room": 10**9,
        "capacity": 10**9,
        "consumers": [
            {"name": "default", "position": 812, "lag_bytes": 0, "attached": 99, "acked": NOW - 1, "holds": False},
            {"name": "archive", "position": 0, "lag_bytes": 812, "attached": None, "acked": None, "holds": True},
        ],
    },
    "full": None,
    "state_lost": None,
}


def changed(**changes: Any) -> dict[str, Any]:
    """The status of a healthy service with other parts; ``out__room`` is ``room`` in ``out``."""
    state = copy.deepcopy(LINKED)
    for name, value in changes.items():
        *path, last = name.split("__")
        part = state
        for step in path:
            part = part[step]
        part[last] = value
    return state


def shown(state: object) -> str:
    return "".join(f"{row}\n" for row in rows(state, NOW))


def test_the_screen_of_a_service_that_is_well() -> None:
    at = clock(NOW - 3600, NOW)
    assert shown(LINKED) == (
        f"linked        with hub (192.0.2.1:9001) since {at} (1 h), heard 3 s ago, round trip 0.4 ms\n"
        "waiting       12 messages (3.4 kB), the oldest for 3 min 5 s; room for 1.0 GB of 2.0 GB\n"
        "inbox         812 bytes kept; room for 1.0 GB of 1.0 GB; held up by archive\n"
        "consumer      archive: 812 bytes behind, not attached, position 0\n"
        "consumer      default: has everything, attached (process 99), acknowledged 1 s ago, position 812\n"
        "rates         in 0 bytes/s, out 1.5 kB/s\n"
        "in all        in 812 bytes, out 5.0 kB; 2 connections\n"
        "accepted      position 5000\n"
        "acknowledged  position 1600\n"
        "service       mysocket 0.4, process 4711, on hosta, running for 2 h 5 min\n"
        "listening     0.0.0.0:9000\n"
        "dials         hub:9001\n"
        "spool         /var/lib/mysocket\n"
        f"node          {NODE}\n"
    )


def test_what_is_not_linked_says_why_and_when_it_is_tried_again() -> None:
    state = changed(
        linked=False, dial={"peer": "hub:9001", "next_attempt": 4.2, "failed": 7, "error": "hub:9001 refused the connection."}
    )
    state["peers"][0] |= {"linked": False, "since": None, "away_since": NOW - 60, "heard": None, "round_trip": None}
    first, second, *_ = shown(state).splitlines()
    assert first == "not linked    hub:9001 refused the connection; next attempt in 4 s; 7 attempts have failed"
    assert second == f"peer          hub (192.0.2.1:9001), not linked since {clock(NOW - 60, NOW)} (1 min)"


def test_a_service_that_only_listens_waits_for_somebody() -> None:
    state = changed(linked=False, dial=None, peers=[], peers_total=0)
    assert shown(state).splitlines()[0] == "not linked    nobody has connected yet"


def test_a_dial_under_way_is_said() -> None:
    state = changed(linked=False, dial={"peer": "hub:9001", "next_attempt": None, "failed": 0, "error": None}, peers=[])
    assert shown(state).splitlines()[0] == "not linked    hub:9001 is being dialled"


def test_an_attempt_to_come_is_said_without_an_error_as_well() -> None:
    state = changed(linked=False, dial={"peer": "hub:9001", "next_attempt": 0.25, "failed": 0, "error": None}, peers=[])
    assert shown(state).splitlines()[0] == "not linked    no connection to hub:9001; next attempt in 250 ms"


def test_a_name_is_not_said_twice() -> None:
    state = changed()
    state["peers"][0]["address"] = "hub (192.0.2.1:9001)"
    assert shown(state) == shown(LINKED)


def test_a_hub_of_many_fits_on_the_screen() -> None:
    one = LINKED["peers"][0]
    away = {**one, "linked": False, "name": "gone", "away_since": NOW - 60}
    state = changed(peers=[away, *({**one, "name": f"host{number}"} for number in range(99))], peers_total=3000)
    text = shown(state)
    assert text.startswith("linked        with 99 peers\npeer          host0 ")
    assert "and 2990 more peers; --json lists 100" in text
    assert len(text.splitlines()) <= 30


def test_a_peer_that_is_away_stands_behind_those_that_are_there() -> None:
    one = LINKED["peers"][0]
    state = changed(peers=[{**one, "linked": False, "name": "gone", "away_since": NOW - 60}, one], peers_total=2)
    first, second, *_ = shown(state).splitlines()
    assert first.startswith("linked        with hub ") and second.startswith("peer          gone ")


def test_nobody_takes_what_is_kept() -> None:
    text = shown(changed(inbox__consumers=[]))
    assert "nothing takes what is kept; to take it: mysocket attach --recv-only" in text
    assert "attach --recv-only" not in shown(changed(inbox__consumers=[], inbox__kept_bytes=0))


def test_a_full_inbox_names_who_holds_it_up_and_the_way_out() -> None:
    text = shown(changed(inbox__room=0))
    assert "inbox         812 bytes kept; full: peers wait; held up by archive\n" in text
    assert "if archive does not come back: mysocket forget archive\n" in text
    assert "forget" not in shown(LINKED)


def test_a_full_spool_makes_the_input_wait() -> None:
    assert "full: input waits" in shown(changed(out__room=0))


def test_what_has_gone_wrong_stands_on_top() -> None:
    text = shown(changed(full="the disk of /var/lib/mysocket is full", state_lost="the spool was put back", input=False))
    _, second, third, fourth, *_ = text.splitlines()
    assert second == "disk full     the disk of /var/lib/mysocket is full"
    assert third == "trouble       the spool was put back"
    assert fourth == "input         nothing can be handed to it"


def test_nothing_waits() -> None:
    text = shown(changed(out__waiting_bytes=0, out__waiting_messages=0, out__oldest=None, out__room=None))
    assert "waiting       nothing\n" in text
    assert "waiting       5.0 MB\n" in shown(
        changed(out__waiting_bytes=5 * 10**6, out__waiting_messages=None, out__oldest=None, out__room=None)
    )


def test_what_comes_from_others_is_escaped() -> None:
    state = changed(spool="/tmp/\x1b]0;x\x07\n", full="\x9b2J")
    state["peers"][0]["name"] = "hub\n\x1b[2J\u202e"
    state["inbox"]["consumers"][0]["name"] = "a\rb"
    text = shown(state)
    assert not set(map(ord, text)) & ({*range(32), 127, 0x9B, 0x202E} - {10})
    assert len(text.splitlines()) == len(rows(state, NOW))


def test_health_is_being_linked() -> None:
    assert healthy(LINKED)
    assert not healthy(changed(linked=False)) and not healthy({}) and not healthy(None) and not healthy({"linked": "yes"})


# Services of other versions -----------------------------------------------------------------------------------------------------


def places(part: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a status."""
    inside = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    return [path] + [place for name, each in inside for place in places(each, (*path, name))]


ODD = [None, True, -1, 2**70, 10**400, 1e308, float("inf"), float("nan"), "", "x\n", [], [None], {}, {"name": 1}, [[]], "\ud800"]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: repr(odd)[:20])
def test_no_part_of_another_type_is_an_error(odd: object) -> None:
    for path in places(LINKED):
        if not path:
            assert isinstance(shown(odd), str)
            continue
        state = copy.deepcopy(LINKED)
        part: Any = state
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = odd
        shown(state).encode(errors="strict")
        if isinstance(part, dict):
            del part[path[-1]]
            shown(state).encode()


STATUSES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([p[-1] for p in places(LINKED)[1:]]), inner),
    max_leaves=20,
)


@given(STATUSES, st.integers(0, 200))
def test_no_status_at_all_is_an_error(state: object, width: int) -> None:
    decoded = json.loads(json.dumps(state))
    shown(decoded).encode()
    for line in wrapped(rows(decoded, NOW), width):
        assert len(line) <= max(width, LABEL + 20)


# For people ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0.0 ms"),
        (0.0004, "0.4 ms"),
        (0.25, "250 ms"),
        (1, "1 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (185, "3 min 5 s"),
        (301, "5 min"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (90061, "1 d 1 h"),
        (86400 * 200, "200 d"),
    ],
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 bytes"), (1, "1 byte"), (999, "999 bytes"), (1536, "1.5 kB"), (2**40, "1.1 TB")]
)
def test_sizes(number: int, text: str) -> None:
    assert size_text(number) == text


def test_the_day_is_named_if_it_is_not_today() -> None:
    assert len(clock(NOW - 60, NOW)) == 8
    assert clock(NOW - 10**6, NOW)[:5] == "2025-"
    assert clock(1e18, NOW) == "?"


def test_long_rows_are_cut_between_words() -> None:
    lines = list(wrapped(rows(LINKED, NOW), 60))
    assert all(len(line) <= 60 for line in lines)
    assert lines[0].startswith("linked        with hub (192.0.2.1:9001) since ")
    assert lines[1].startswith(" " * LABEL) and not lines[1][LABEL:].startswith(" ")
    joined = "".join(" " + line[LABEL:] if line.startswith(" " * LABEL) else "\n" + line for line in lines)
    assert joined[1:] + "\n" == shown(LINKED)


# Files --------------------------------------------------------------------------------------------------------------------------


def test_files_that_come_are_shown() -> None:
    files = [{"name": "a.csv", "peer": "hub", "size": 5_000_000, "offset": 1_200_000}, {"name": "", "peer": "hub", "offset": 7}]
    shown = [str(row) for row in rows(changed(downloads=files), NOW)]
    assert "receiving     a.csv from hub: 1.2 MB of 5.0 MB" in shown and "receiving     a file from hub: 7 bytes" in shown
    many = [str(row) for row in rows(changed(downloads=files * 10), NOW)]
    assert any("and 10 more files; --json lists them" in row for row in many)
    for nothing in (None, [], "x", [3], [{}]):
        assert rows(changed(downloads=nothing), NOW)


def test_inputs_and_outputs_are_shown() -> None:
    inputs = [
        {
            "name": "follow:app.log",
            "bytes": 1_200_000,
            "dropped": 0,
            "rejected": 0,
            "connections": 0,
            "waiting": 0,
            "ended": False,
        },
        {"name": "udp:514", "bytes": 5, "dropped": 3, "rejected": 2, "connections": 1, "waiting": 70, "ended": False},
        {"name": "a.csv", "bytes": 5, "ended": True},
    ]
    outputs = [
        {"name": "all.log", "connected": None, "written": 1_200_000, "waiting": 0, "lost": 0, "error": None},
        {"name": "tcp:siem:514", "connected": False, "written": 7, "waiting": 12, "lost": 2, "error": "nobody listens"},
        {"name": "tcp:b:1", "connected": True, "written": 7},
    ]
    text = [str(row) for row in rows(changed(inputs=inputs, outputs=outputs), NOW)]
    for row in (
        "input         follow:app.log: 1.2 MB accepted",
        "input         udp:514: 5 bytes accepted, 1 connection, 2 rejected, 3 dropped, 70 bytes wait for room",
        "input         a.csv: has ended",
        "output        all.log: 1.2 MB written",
        "output        tcp:siem:514: not connected (nobody listens), 7 bytes written, 2 connections lost, 12 bytes wait",
        "output        tcp:b:1: connected, 7 bytes written",
    ):
        assert row in text
    for nothing in (None, [], "x", [3], [{}]):
        assert rows(changed(inputs=nothing, outputs=nothing), NOW)
