"""The control socket's clients, as the service takes them: who is let in, what ends a connection, what is held for whom."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket.control import server
from mysocket.control.places import Peer
from mysocket.control.protocol import MAX_LINE, VERSION, Line, encode
from mysocket.control.server import LONG_LINES, MAX_CLIENTS, QUESTION_TIME, READ_TIME
from mysocket.core.batch import MAX_PAYLOAD
from tests.control.bench import BUFFER, Service, Wire, blob, lines, send


def test_the_service_speaks_first() -> None:
    with Service() as service:
        wire = service.connect()
        assert wire.heard == [service.greeting.line()] and wire.heard[0]["mysocket"] == VERSION


def test_another_user_is_told_so_and_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "peer", lambda connection: Peer(4711, os.geteuid() + 1, 0))
    with Service() as service:
        wire = service.connect()
        assert f"belongs to user {os.geteuid()}" in wire.error and wire.heard[-1]["status"] == 2
        assert len(wire.heard) == 1 and not service.factory.clients
        wire.say({"do": "stop"})
        assert not service.stopped


def test_too_many_clients_are_told_so() -> None:
    with Service() as service:
        wires = [service.connect() for _ in range(MAX_CLIENTS)]
        assert "256 other clients" in service.connect().error
        wires[0].drop()
        assert not service.connect().closed


MALFORMED = [
    b"\n",
    b"\0\n",
    b"hello\n",
    b"\xff\xfe\n",
    b"5\n",
    b"null\n",
    b"[]\n",
    b'"do"\n',
    b"{\n",
    b'{"do"}\n',
    b"{}\n",
    b'{"do":null}\n',
    b'{"do":["send"]}\n',
    b'{"do":{"do":"send"}}\n',
    b'{"do":"dance"}\n',
    b'{"do":"send"}\n',
    b'{"do":"send","id":5}\n',
    b'{"do":"send","id":"00"}\n',
    b'{"do":"send","id":"' + b"zz" * 16 + b'"}\n',
    b'{"do":"send","id":"' + "é".encode() * 32 + b'"}\n',
    b'{"do":"attach","from":"yesterday"}\n',
    b'{"do":"attach","from":["now"]}\n',
    b'{"do":"attach","as":5}\n',
    b"[" * 100000 + b"\n",
    b'{"a":' * 50000 + b"\n",
    b'{"do":' + b"9" * 6000 + b"}\n",
]


@pytest.mark.parametrize("line", MALFORMED, ids=lambda line: repr(line[:20]))
def test_what_is_no_question_ends_that_connection(line: bytes) -> None:
    with Service() as service:
        other, wire = service.connect(), service.connect()
        wire.send(line)
        assert "broke its protocol" in wire.error and wire.heard[-1]["status"] == 1
        assert not other.closed
        other.say(send())
        assert other.heard[-1]["accepted"] == 0


@given(data=st.binary(max_size=300), size=st.integers(1, 300))
def test_garbage_ends_the_connection_or_waits_for_more(data: bytes, size: int) -> None:
    with Service() as service:
        wire = service.connect()
        wire.send(data, size)
        assert wire.closed or b"\n" not in data
        wire.drop()
        assert not service.factory.clients


QUESTIONS: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
)
WORDS = st.sampled_from(
    ["do", "id", "as", "from", "piece", "flags", "text", "base64", "end", "ack", "position", "deliver", "confirm"]
)
VALUES = st.sampled_from(["send", "attach", "ack", "forget", "status", "stop", "0" * 32, "now", "default", "x\n", 0, 1, 2, True])


@given(st.lists(st.dictionaries(WORDS, VALUES | QUESTIONS, max_size=4), max_size=8))
def test_odd_questions_raise_nothing(said: list[Line]) -> None:
    with Service() as service:
        wire = service.connect()
        for line in said:
            try:
                data = encode(line)
            except UnicodeEncodeError:
                continue
            wire.send(data)
            for done in service.asked:
                done({})
            service.asked.clear()
        wire.drop()
        assert not service.factory.taken and not service.factory.attached and not service.factory.clients


def test_a_line_without_an_end_is_cut_off_at_its_limit() -> None:
    with Service() as service:
        wire = service.connect()
        sent = 0
        while sent < 100 * MAX_LINE:
            sent += 65536
            wire.send(b"x" * 65536)
            if wire.closed:
                break
        assert sent < MAX_LINE + 2 * 65536
        assert f"a line of more than {MAX_LINE} bytes" in wire.error


def test_long_lines_come_in_from_a_few_at_a_time() -> None:
    with Service() as service:
        wires = [service.connect() for _ in range(100)]
        for wire in wires:
            wire.send(b"x" * (MAX_LINE - 1))
        held = [wire.protocol._reader.held for wire in wires]
        assert sorted(held, reverse=True)[:LONG_LINES] == [MAX_LINE - 1] * LONG_LINES
        assert sum(held) <= LONG_LINES * MAX_LINE + 100 * 65536
        # Short ones come in meanwhile, and who holds the others up is cut off.
        wire = service.connect()
        wire.say(send())
        assert wire.heard[-1]["accepted"] == 0
        service.clock.advance(QUESTION_TIME)
        assert all(wire.protocol._ending for wire in wires)
        assert not wire.closed


def test_a_long_line_goes_on_when_another_has_ended() -> None:
    with Service() as service:
        wires = [service.connect() for _ in range(10)]
        for number, wire in enumerate(wires):
            wire.say(send(number))
        line = encode(lines(b"x" * (MAX_PAYLOAD - 1) + b"\n"))
        for wire in wires:
            wire.send(line[:-1])
        assert sum(wire.unheard > 0 for wire in wires) == len(wires) - LONG_LINES
        for _ in range(5):
            for wire in wires:
                if not wire.unheard and wire.protocol._reader.held:
                    wire.send(line[-1:])
                wire.turn()
        assert service.log.end == 10 * MAX_PAYLOAD


def test_a_long_line_that_does_not_end_is_cut_off() -> None:
    with Service() as service:
        wires = [service.connect() for _ in range(LONG_LINES + 1)]
        for number, wire in enumerate(wires):
            wire.say(send(number))
            wire.send(b'{"piece":1,"flags":0,"text":"' + b"x" * 200000)
        assert wires[-1].unheard
        for _ in range(29):
            service.clock.advance(1)
            wires[0].send(b"x")
        assert not any(wire.closed for wire in wires)
        service.clock.advance(1)
        assert "a long line that had begun did not end for 30 s" in wires[0].error
        wires[-1].turn()
        assert not wires[-1].closed and not wires[-1].unheard


def test_who_asks_nothing_is_cut_off() -> None:
    with Service() as service:
        wire, other = service.connect(), service.connect()
        other.say({"do": "status"})
        wire.send(b'{"do"')
        service.clock.advance(QUESTION_TIME)
        assert "nothing was asked for 30 s" in wire.error
        service.clock.advance(QUESTION_TIME * 10)
        assert not other.closed


def test_questions_are_answered_in_their_order() -> None:
    with Service() as service:
        wire = service.connect()
        wire.say({"do": "status"}, {"do": "status"}, {"do": "stop"})
        assert len(service.asked) == 1 and not service.stopped
        service.asked.pop()({"first": 1})
        assert len(service.asked) == 1
        service.asked.pop()({"second": 2})
        assert wire.read()[1:] == [{"status": {"first": 1}}, {"status": {"second": 2}}, {"stopping": True}]
        assert service.stopped == 1


def test_questions_wait_in_the_socket_while_one_is_answered() -> None:
    with Service() as service:
        wire = service.connect()
        question = encode({"do": "status", "padding": "x" * 200})
        wire.send(question * 100)
        wire.send(question * 10000)
        assert wire.unheard >= len(question) * 10000 - 65536
        assert len(wire.protocol._reader._data) <= 2 * 65536
        answered = 0
        while service.asked:
            service.asked.pop()({})
            wire.turn()
            answered += 1
        assert answered == 10100 and not wire.closed


def test_tiny_questions_do_not_pile_up() -> None:
    with Service() as service:
        wire = service.connect()
        wire.send(encode({"do": "status"}) + b"\n" * 60000)
        assert not wire.closed and len(wire.protocol._reader._data) <= 65536
        service.asked.pop()({})
        assert "broke its protocol" in wire.error


def test_who_asks_without_reading_is_cut_off() -> None:
    with Service() as service:
        wire = service.connect(reads=False)
        answer = {"answer": "x" * 5000}
        for _ in range(1000):
            wire.say({"do": "status"})
            while service.asked:
                service.asked.pop()(answer)
                wire.turn()
        assert wire.unread < BUFFER + 6000 and wire.unheard
        service.clock.advance(READ_TIME - 1)
        assert not wire.closed
        service.clock.advance(1)
        assert wire.aborted


def test_who_sends_without_reading_is_cut_off() -> None:
    """Each answer is small, and more come for as long as more is accepted."""
    with Service() as service:
        wire = service.connect(reads=False)
        wire.say(send())
        for _ in range(20000):
            wire.say(lines(b"x\n"))
            if wire.unheard:
                break
        assert wire.unheard and wire.unread < BUFFER + 1000
        accepted = service.kept.position
        service.clock.advance(READ_TIME - 1)
        service.factory.progress()
        service.clock.advance(1)
        assert wire.aborted and service.kept.position == accepted


def test_who_reads_again_in_time_goes_on() -> None:
    with Service() as service:
        wire = service.connect(reads=False)
        wire.say(send())
        while not wire.unheard:
            wire.say(lines(b"x\n"))
        service.clock.advance(READ_TIME - 1)
        wire.read()
        service.clock.advance(READ_TIME * 2)
        assert not wire.closed and not wire.unheard
        wire.say(lines(b"goes on\n"))
        assert service.kept.payload.endswith(b"goes on\n")


def test_who_does_not_read_why_he_is_cut_off_is_cut_off() -> None:
    with Service() as service:
        wire = service.connect(reads=False)
        while not wire.unread:
            wire.say({"do": "status"})
            service.asked.pop()({"answer": "x" * 50000})
        wire.protocol.end("why not")
        assert wire.disconnecting and not wire.closed
        service.clock.advance(READ_TIME)
        assert wire.aborted


def test_who_says_no_more_and_does_not_read_either_is_cut_off() -> None:
    with Service() as service:
        wire = service.connect(reads=False)
        while not wire.unread:
            wire.say({"do": "status"})
            service.asked.pop()({"answer": "x" * 50000})
        wire.protocol.readConnectionLost()
        assert wire.disconnecting and not wire.closed
        service.clock.advance(READ_TIME)
        assert wire.aborted


def test_an_answer_to_somebody_who_has_gone_is_no_trouble() -> None:
    with Service() as service:
        wire = service.connect()
        wire.say({"do": "status"})
        wire.drop()
        service.asked.pop()({})
        assert len(wire.heard) == 1


def test_a_service_without_an_input_refuses_to_send() -> None:
    with Service() as service:
        service.no_input = "this service only receives"
        wire = service.connect()
        wire.say(send())
        assert wire.error == "this service only receives." or wire.error == "this service only receives"
        assert wire.heard[-1]["status"] == 2


def test_a_service_without_a_feed_refuses_to_attach() -> None:
    with Service() as service:
        for question in ("attach", "ack", "forget"):
            wire = service.connect()
            wire.say({"do": question, "as": "a", "position": 0})
            assert wire.error and wire.heard[-1]["status"] == 2


def test_all_are_let_go_in_the_end() -> None:
    with Service() as service:
        wires = [service.connect() for _ in range(10)]
        for number, wire in enumerate(wires):
            wire.say(send(number))
        wires[0].say(blob(b"half", 1))
        service.factory.close()
        for wire in wires:
            wire.flush()
        assert all(wire.closed for wire in wires)
        assert not service.factory.taken and not service.factory.floor.held._size


def test_a_crowd_of_everything() -> None:
    """Clients that send well, among others that do all the rest at random: theirs arrives."""
    chance = random.Random(7)
    with Service() as service:
        good = [service.connect() for _ in range(5)]
        for number, wire in enumerate(good):
            wire.say(send(number))
        bad: list[Wire] = []
        for step in range(600):
            wire = good[step % 5]
            wire.turn()
            wire.say(lines(b"%d\n" % step))
            if len(bad) < 60:
                bad.append(service.connect(reads=chance.random() < 0.5))
                if chance.random() < 0.7:
                    bad[-1].say(send(100 + step))
            evil = chance.choice(bad)
            evil.send(
                chance.choice(
                    [b"x" * 65536, b"{}\n", encode(blob(b"y" * 60000, 1)), encode(lines(b"evil\n")), encode({"deliver": True})]
                )
            )
            service.clock.advance(chance.random())
            bad = [one for one in bad if not one.closed]
        for wire in good:
            wire.turn()
        mine = [int(line) for line in service.kept.payload.split(b"\n") if line.isdigit()]
        assert mine == list(range(600))
