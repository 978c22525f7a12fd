"""The service's side of `send`: windows, whole messages, the floor, ids."""

from __future__ import annotations

from typing import Any

import pytest

from mysocket.control.protocol import WINDOW, Line, encode
from mysocket.control.server import MESSAGE_TIME
from mysocket.control.taking import HELD
from mysocket.core.batch import MAX_PAYLOAD, Flag, Kind
from tests.control.bench import Kept, OwnLog, Service, Wire, blob, lines, send


def begun(service: Service, number: int = 0) -> Wire:
    """A client whose request is open."""
    wire = service.connect()
    wire.say(send(number))
    return wire


def last(wire: Wire, name: str) -> Any:
    wire.flush()
    return [line[name] for line in wire.heard if name in line][-1]


def test_a_message_is_accepted_when_it_is_committed() -> None:
    with Service(at_once=False) as service:
        wire = begun(service)
        assert wire.read()[1:] == [{"accepted": 0, "position": 0, "window": WINDOW, "ended": False, "durable": True}]
        wire.say(lines(b"hello\n"))
        assert [set(line) for line in wire.read()] == [{"window"}]  # and nothing of accepted
        service.log.commit()
        assert wire.read() == [{"accepted": 6, "position": 6, "window": 6 + WINDOW, "ended": False, "durable": True}]
        wire.say({"end": True})
        assert wire.read() == []
        service.log.commit()
        assert [line["ended"] for line in wire.read()] == [True]
        wire.say({"deliver": True})
        assert wire.read() == []
        service.log.deliver()
        assert wire.read() == [{"delivered": 6}]
        wire.say({"deliver": True})
        assert wire.read() == [{"delivered": 6}]
        wire.say({"confirm": True})
        assert wire.read() == [] and not wire.closed
        assert not service.outcomes.find(bytes(16)).accepted


def test_an_end_is_never_committed_before_what_it_ends() -> None:
    """The bookmark of the end names all of it: alone it would tell of what is not there."""
    with Service(at_once=False) as service:
        wire = begun(service)
        wire.say(lines(b"hello\n"))
        wire.say({"end": True})
        service.log.commit(batches=0)
        assert service.kept.bookmarks == {}
        service.log.commit()
        service.log.commit()
        assert last(wire, "ended") is True


def test_an_end_that_comes_with_the_last_message_is_committed_with_it() -> None:
    with Service(at_once=False) as service:
        wire = begun(service)
        wire.say(lines(b"hello\n"), {"end": True})
        service.log.commit(items=0)
        assert last(wire, "ended") is True and last(wire, "accepted") == 6


def test_an_end_in_the_first_breath_is_not_told_before_it_is_committed() -> None:
    with Service(at_once=False) as service:
        wire = service.connect()
        wire.say(send(), {"end": True})
        assert last(wire, "ended") is False
        service.log.commit()
        assert last(wire, "ended") is True


def test_a_piece_begins_below_the_window() -> None:
    with Service(capacity=WINDOW) as service:
        wire = begun(service)
        wire.say(lines(b"x" * (WINDOW - 2) + b"\n"))
        wire.say(lines(b"y" * (MAX_PAYLOAD - 1) + b"\n"))
        assert last(wire, "accepted") == WINDOW - 1 + MAX_PAYLOAD and last(wire, "window") == 2 * WINDOW - 1
        wire.say(lines(b"z\n"))
        assert "was not asked for" in wire.error


def test_without_room_there_is_no_window() -> None:
    with Service(capacity=10) as service:
        first, second = begun(service, 1), begun(service, 2)
        first.say(lines(b"0123456789\n"))
        third = begun(service, 3)
        assert last(third, "window") == 0
        # What was allowed before comes, and waits.
        second.say(lines(b"later\n"))
        assert last(second, "accepted") == 0 and last(second, "window") == WINDOW
        service.log.deliver()
        service.settle()
        assert last(second, "accepted") == 6
        assert last(third, "window") == WINDOW


@pytest.mark.parametrize(
    "line",
    [
        {"piece": 1, "flags": 0},
        {"piece": 1, "flags": 0, "text": ""},
        {"piece": 1, "flags": 0, "text": 5},
        {"piece": 1, "flags": 0, "base64": "?"},
        {"piece": 1, "flags": 0, "text": "\ud800"},
        {"piece": 3, "flags": 0, "text": "\x04"},
        {"piece": 0, "flags": 0, "text": "x\n"},
        {"piece": 1, "flags": 16, "text": "x\n"},
        {"piece": 1, "flags": -1, "text": "x\n"},
        {"piece": 1, "text": "x\n"},
        {"piece": True, "flags": 0, "text": "x\n"},
        {"piece": 1, "flags": 0, "text": "x"},
        {"piece": 1, "flags": 2, "text": "x\n"},
        {"piece": 2, "flags": 0, "text": "x" * (MAX_PAYLOAD + 1)},
        {"end": False},
        {"end": 1},
        {"do": "status"},
        {"confirm": None},
        {},
    ],
)
def test_what_is_no_piece_ends_the_connection(line: Line) -> None:
    with Service() as service:
        other, wire = begun(service, 1), begun(service)
        wire.send(encode(line) if line.get("text") != "\ud800" else b'{"piece":1,"flags":0,"text":"\\ud800"}\n')
        assert "broke its protocol" in wire.error and wire.heard[-1]["status"] == 1
        assert service.kept.pieces == [] and service.log.end == 0
        other.say(lines(b"undisturbed\n"))
        assert last(other, "accepted") == 12


def test_parts_of_different_kinds_are_no_message() -> None:
    with Service() as service:
        for second in (lines(b"b", Flag.MORE | Flag.NUL), blob(b"b", Flag.MORE), blob(b"b")):
            wire = begun(service)
            wire.say(lines(b"a", Flag.MORE), second)
            assert "another kind" in wire.error
        assert service.log.end == 0


def test_an_end_within_a_message_is_none() -> None:
    with Service() as service:
        wire = begun(service)
        wire.say(lines(b"a", Flag.MORE), {"end": True})
        assert "middle of a message" in wire.error


@pytest.mark.parametrize("behind", [{"end": True}, {"withdraw": True}, {"confirm": True}])
def test_nothing_comes_behind_the_end_of_a_request(behind: Line) -> None:
    with Service() as service:
        wire = begun(service)
        wire.say(behind, lines(b"late\n"))
        assert "was not asked for" in wire.error
        assert service.log.end == 0


def test_nothing_comes_before_the_first_answer() -> None:
    with Service(at_once=False) as service:
        first = begun(service)
        first.say(lines(b"on its way\n"))
        second = service.connect()
        second.say(send())
        assert len(second.heard) == 1  # the greeting
        second.say(lines(b"too early\n"))
        assert "was not asked for" in second.error


def test_lines_without_an_end_say_so() -> None:
    with Service() as service:
        wire = begun(service)
        wire.say(lines(b"x", Flag.UNTERMINATED))
        wire.say(lines(b"y\0", Flag.NUL))
        assert last(wire, "accepted") == 3


def test_a_long_message_is_accepted_at_once_and_not_before() -> None:
    with Service() as service:
        wire = begun(service)
        for _ in range(8):
            wire.say(blob(b"x" * MAX_PAYLOAD, Flag.MORE))
            assert last(wire, "window") > service.factory.taken[bytes(16)].taking.received  # type: ignore[union-attr]
        assert service.log.end == 0 and last(wire, "accepted") == 0
        wire.say(blob(b"y"))
        assert last(wire, "accepted") == 8 * MAX_PAYLOAD + 1
        assert len(service.kept.pieces) == 9


def test_a_long_message_that_is_dropped_leaves_nothing() -> None:
    with Service() as service:
        wire = begun(service)
        wire.say(blob(b"x" * MAX_PAYLOAD, Flag.MORE), blob(b"x", Flag.MORE))
        wire.drop()
        again = begun(service)
        assert last(again, "accepted") == 0 and service.log.end == 0
        assert not service.factory.floor.held._size


def test_a_message_beyond_the_limit_is_refused_as_its_receiver_would() -> None:
    with Service(max_message=100) as service:
        for size, more, status in ((100, b"\n", None), (101, b"\n", 1), (50, b"x" * 50 + b"\nfurther\n", None)):
            wire = begun(service, size)
            wire.say(lines(b"x" * 20, Flag.MORE), lines(b"x" * (size - 20) + more))
            if status is None:
                assert last(wire, "accepted") == size + len(more)
            else:
                assert "larger than --max-message" in wire.error and wire.heard[-1]["status"] == 1
        wire = begun(service)
        wire.say(blob(b"x" * 60, Flag.MORE), blob(b"x" * 60, Flag.MORE))
        assert "larger than --max-message" in wire.error


# The floor ----------------------------------------------------------------------------------------------------------------------


def half(service: Service, number: int) -> Wire:
    """A client in the middle of a long message that has used up its window."""
    wire = begun(service, number)
    wire.say(blob(bytes([65 + number]) * (WINDOW - 1), Flag.MORE))
    return wire


def test_one_at_a_time_puts_a_long_message_together() -> None:
    with Service() as service:
        first, second, third = half(service, 0), half(service, 1), begun(service, 2)
        second.say(blob(b"B", Flag.MORE))
        assert last(first, "window") == WINDOW and last(second, "window") == WINDOW
        assert last(second, "accepted") == 0
        # Others go on with what is not long.
        third.say(lines(b"short\n"))
        assert last(third, "accepted") == 6
        for _ in range(3):
            first.say(blob(b"A" * MAX_PAYLOAD, Flag.MORE))
        first.say(blob(b"A"))
        assert last(first, "accepted") == WINDOW + 3 * MAX_PAYLOAD
        second.turn()
        assert last(second, "window") == WINDOW + 1
        second.say(blob(b"B"))
        assert last(second, "accepted") == WINDOW + 1
        kinds = b"".join(piece.payload for piece in service.kept.pieces if piece.kind is Kind.BLOB)
        assert kinds == b"A" * (WINDOW + 3 * MAX_PAYLOAD) + b"B" * (WINDOW + 1)


def test_who_stalls_with_the_floor_is_cut_off_and_the_next_goes_on() -> None:
    with Service() as service:
        first, second = half(service, 0), half(service, 1)
        second.say(blob(b"B", Flag.MORE))
        service.clock.advance(MESSAGE_TIME - 1)
        first.say(blob(b"A", Flag.MORE))
        service.clock.advance(MESSAGE_TIME - 1)
        # Questions do not count: only more of the message does.
        first.say({"deliver": True})
        assert not first.closed and not second.closed
        service.clock.advance(2)
        assert "did not go on for 30 s" in first.error
        assert not second.closed, "it waited for the first, and is not to blame"
        second.turn()
        assert last(second, "window") == WINDOW + 1
        second.say(blob(b"B"))
        assert last(second, "accepted") == WINDOW + 1


def test_who_has_got_the_floor_and_stalls_is_cut_off_too() -> None:
    with Service() as service:
        first, second = half(service, 0), half(service, 1)
        second.say(blob(b"B", Flag.MORE))
        service.clock.advance(MESSAGE_TIME * 3)
        first_error = first.error
        assert "did not go on" in first_error and not second.closed
        third = half(service, 2)
        service.clock.advance(MESSAGE_TIME + 1)
        assert "did not go on" in second.error and not third.closed


def test_who_is_slow_with_a_long_message_is_not_hurried_while_nobody_waits() -> None:
    with Service() as service:
        wire = half(service, 0)
        for _ in range(3):
            service.clock.advance(MESSAGE_TIME + 1)
        other = half(service, 1)
        wire.say(blob(b"A", Flag.MORE))
        service.clock.advance(MESSAGE_TIME - 1)
        assert not wire.closed
        wire.say(blob(b"A"))
        assert last(wire, "accepted") == WINDOW + 1
        service.clock.advance(10 * MESSAGE_TIME)
        assert not other.closed


def test_a_finished_message_that_waits_for_room_is_not_hurried() -> None:
    with Service(capacity=1) as service:
        begun(service, 9).say(lines(b"fills it\n"))
        service.log.kept.retired = 0
        assert service.log.room <= 0
        service.log.capacity = 100
        wire = begun(service)
        wire.say(blob(b"a", Flag.MORE))
        service.log.capacity = 1
        wire.say(blob(b"b"))
        service.clock.advance(10 * MESSAGE_TIME)
        assert not wire.closed
        service.log.capacity = 100
        service.factory.progress()
        service.settle()
        assert last(wire, "accepted") == 2


def test_what_is_held_for_all_is_bounded() -> None:
    """With a full spool, and messages that do not end: so much, and what each sent first."""
    with Service(capacity=1) as service:
        clients = [begun(service, number) for number in range(100)]
        clients[0].say(lines(b"fills it\n"))
        held = service.factory.floor.held
        for wire in clients[1:]:
            for _ in range(10):
                wire.say(lines(b"x" * 2047 + b"\n"))
                wire.say(blob(b"y" * 2048, Flag.MORE), blob(b"y" * 2048))
        assert held._size < HELD + 100 * 8 * 1024
        assert any(wire.unheard for wire in clients)
        # A newcomer may bring one thing all the same, and when there is room all goes on.
        service.log.capacity = 1 << 30
        service.factory.progress()
        service.settle()
        for _ in range(10):
            for wire in clients:
                wire.turn()
        assert all(not wire.unheard for wire in clients)
        assert service.kept.position == 9 + 99 * 10 * 3 * 2048 and held._size == 0


def test_stalled_parts_do_not_keep_short_messages_out() -> None:
    with Service() as service:
        stalled = []
        for number in range(1, 40):
            wire = begun(service, number)
            wire.say(*(blob(b"y" * 32768, Flag.MORE) for _ in range(8)))
            stalled.append(wire)
        assert service.factory.floor.held.is_full
        wire = begun(service)
        for number in range(1, 20):
            wire.say(lines(b"short\n"))
            assert last(wire, "accepted") == number * 6


# Withdrawing and asking again ---------------------------------------------------------------------------------------------------


def test_withdrawn_before_it_is_accepted() -> None:
    with Service(capacity=1) as service:
        wire = begun(service)
        other = begun(service, 1)
        other.say(lines(b"fills it\n"))
        wire.say(lines(b"waits\n"))
        wire.say({"withdraw": True})
        assert wire.heard[-1] == {"withdrawn": True, "accepted": 0, "position": 0}
        service.log.deliver()
        service.settle()
        assert service.kept.payload == b"fills it\n"
        assert service.factory.floor.held._size == 0


def test_withdrawn_within_a_message() -> None:
    with Service() as service:
        wire = begun(service)
        wire.say(lines(b"whole\n"), blob(b"half", Flag.MORE), {"withdraw": True})
        assert wire.heard[-1]["withdrawn"] is True
        assert service.kept.payload == b"" or wire.heard[-1]["accepted"] == 6
        assert wire.heard[-1]["accepted"] == len(service.kept.payload)


def test_withdrawn_when_it_is_on_its_way_to_the_disk() -> None:
    with Service(at_once=False) as service:
        wire = begun(service)
        wire.say(lines(b"on its way\n"))
        wire.say({"withdraw": True})
        assert not any("withdrawn" in line for line in wire.heard)
        service.log.commit()
        wire.turn()
        assert wire.heard[-1] == {"withdrawn": True, "accepted": 11, "position": 11}
        wire.say({"confirm": True})
        assert not wire.closed


def test_the_same_id_on_two_connections_is_the_last_ones() -> None:
    with Service(at_once=False) as service:
        first = begun(service)
        first.say(lines(b"one\n"))
        second = begun(service)
        assert "goes on on another connection" in first.error
        assert len(second.heard) == 1, "what the first gave is on its way, so nothing is known yet"
        service.log.commit()
        second.turn()
        assert last(second, "accepted") == 4
        second.say(lines(b"two\n"))
        service.log.commit()
        second.turn()
        assert service.kept.payload == b"one\ntwo\n" and last(second, "accepted") == 8
        first.drop()
        assert service.factory.taken, "the end of the first is no end of the second"


def test_parts_of_the_first_connection_do_not_go_on_on_the_second() -> None:
    with Service() as service:
        first = begun(service)
        first.say(lines(b"whole\n"))
        first.say(blob(b"half", Flag.MORE))
        second = begun(service)
        assert last(second, "accepted") == 6
        second.say(blob(b"all of it"))
        assert service.kept.payload == b"whole\nall of it"


def test_a_restart_knows_what_was_accepted_and_no_more() -> None:
    kept = Kept()
    with Service(kept, at_once=False) as service:
        wire = begun(service)
        wire.say(lines(b"one\n"))
        service.log.commit()
        wire.say(lines(b"two\n"))
        # Killed before the second is committed.
    with Service(kept) as service:
        wire = begun(service)
        assert last(wire, "accepted") == 4 and last(wire, "ended") is False and last(wire, "position") == 4
        wire.say(lines(b"two\n"), {"end": True})
        assert last(wire, "ended") is True
    with Service(kept) as service:
        wire = begun(service)
        assert last(wire, "ended") is True and last(wire, "accepted") == 8
        wire.say({"confirm": True})
        service.outcomes.close()
        service.log.settle()
    assert kept.bookmarks == {} and kept.payload == b"one\ntwo\n"


def test_a_closed_service_takes_nothing_more() -> None:
    class Closed(OwnLog):
        room = 0

    kept = Kept()
    with Service(kept, log=Closed(kept)) as service:
        wire = begun(service)
        assert last(wire, "window") == 0
        wire.say(lines(b"x\n"), {"end": True})
        assert last(wire, "accepted") == 0 and last(wire, "ended") is False
        service.factory.close()
        wire.flush()
        assert wire.closed
    assert kept.payload == b"" and kept.bookmarks == {} and not service.factory.floor.held._size
