"""The service's side of `attach`, `ack` and `forget`: rows as they are read, and who has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mysocket.control.protocol import Line, unpack
from mysocket.control.server import FETCHING
from mysocket.core.batch import MAX_PAYLOAD, Batch, Flag, Kind
from mysocket.ends.shelf import Passing
from mysocket.spool.disk import DiskSpool
from mysocket.spool.disk_inbox import DiskInbox
from mysocket.spool.inbox import Row
from tests.control.bench import BUFFER, Service, Wire, open_inbox, receive
from tests.support.spools import close, kill, settle


class Shelf:
    """A service with an inbox on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spool: DiskSpool
        self.inbox: DiskInbox
        self.service: Service
        self.open()

    def open(self) -> None:
        self.spool, self.inbox = open_inbox(self.path)
        self.service = Service(feed=self.inbox)

    def restart(self) -> None:
        """As `kill -9` does."""
        self.service.__exit__(None, None, None)
        kill(self.spool)
        self.open()

    def attach(self, name: str | None = "a", begin: str | None = None, *, reads: bool = True) -> Wire:
        wire = self.service.connect(reads=reads)
        wire.say({"do": "attach", "as": name, "from": begin})
        self.turn(wire)
        return wire

    def turn(self, *wires: Wire) -> None:
        settle(self.spool)
        for _ in range(100):
            for wire in wires:
                wire.turn()
            settle(self.spool)

    def ask(self, line: Line) -> Line:
        wire = self.service.connect()
        wire.say(line)
        self.turn(wire)
        return wire.heard[-1]


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    shelf = Shelf(tmp_path / "spool")
    yield shelf
    shelf.service.__exit__(None, None, None)
    close(shelf.spool)


def rows(wire: Wire) -> list[Line]:
    return [line for line in wire.heard if "at" in line]


def text(wire: Wire) -> bytes:
    return b"".join(map(unpack, rows(wire)))


def test_rows_come_with_their_positions(shelf: Shelf) -> None:
    receive(shelf.spool, b"one\n")
    wire = shelf.attach()
    receive(shelf.spool, b"two\nthree\n")
    shelf.turn(wire)
    assert wire.heard[1] == {"attached": "a", "position": 0, "begin": 0, "end": 4, "durable": True}
    assert [(row["at"], row["text"], row["peer"], row["kind"]) for row in rows(wire)] == [
        (0, "one\n", "peer", 1),
        (4, "two\nthree\n", "peer", 1),
    ]


def test_what_is_acknowledged_does_not_come_again(shelf: Shelf) -> None:
    receive(shelf.spool, b"one\n", b"two\n")
    wire = shelf.attach()
    wire.say({"ack": 4})
    shelf.turn(wire)
    shelf.restart()
    wire = shelf.attach()
    assert text(wire) == b"two\n"
    wire.say({"ack": 8})
    shelf.turn(wire)
    wire.drop()
    assert text(shelf.attach()) == b""


def test_a_new_name_begins_where_it_says(shelf: Shelf) -> None:
    receive(shelf.spool, b"one\n")
    old, new = shelf.attach("old", "oldest"), shelf.attach("new", "now")
    none, viewer = shelf.attach("none"), shelf.attach(None)
    everything = shelf.attach(None, "oldest")
    receive(shelf.spool, b"two\n")
    shelf.turn(old, new, none, viewer, everything)
    assert [text(wire) for wire in (old, new, none, viewer, everything)] == [
        b"one\ntwo\n",
        b"two\n",
        b"one\ntwo\n",
        b"two\n",
        b"one\ntwo\n",
    ]
    # What a known name is told to begin at is not where it begins.
    old.drop()
    assert text(shelf.attach("old", "now")) == b"one\ntwo\n"


def test_one_name_is_one_session(shelf: Shelf) -> None:
    first = shelf.attach()
    second = shelf.attach()
    assert "attached already, by process " in second.error and not first.closed
    first.drop()
    assert not shelf.attach().closed


@pytest.mark.parametrize("name", ["", ".", "-x", "a b", "a/b", "ä", "x" * 65, "\0"])
def test_a_name_that_is_none(shelf: Shelf, name: str) -> None:
    for line in ({"do": "attach", "as": name}, {"do": "ack", "as": name, "position": 0}, {"do": "forget", "as": name}):
        answer = shelf.ask(line)
        assert "is no name of a consumer" in answer["error"] and answer["status"] == 2


NO_ACKNOWLEDGEMENTS: list[Line] = [
    {"ack": 5},
    {"ack": -1},
    {"ack": "4"},
    {"ack": None},
    {"ack": 2**63},
    {"ack": True},
    {},
    {"do": "stop"},
]


@pytest.mark.parametrize("line", NO_ACKNOWLEDGEMENTS)
def test_what_is_no_acknowledgement_ends_that_session(shelf: Shelf, line: Line) -> None:
    receive(shelf.spool, b"one\n")
    other, wire = shelf.attach("other"), shelf.attach()
    wire.say(line)
    assert "broke its protocol" in wire.error
    assert shelf.inbox.consumers["a"].position == 0 and not other.closed


def test_who_has_no_name_acknowledges_nothing(shelf: Shelf) -> None:
    receive(shelf.spool, b"one\n")
    wire = shelf.attach(None, "oldest")
    wire.say({"ack": 4})
    assert "without the name of a consumer" in wire.error


def test_the_middle_of_a_message_is_not_acknowledged(shelf: Shelf) -> None:
    """The next session would begin with half a message."""
    receive(shelf.spool, b"one\ntwo\nthree\n")
    wire = shelf.attach()
    wire.say({"ack": 4})
    shelf.turn(wire)
    assert shelf.inbox.consumers["a"].position == 4
    wire.say({"ack": 6})
    shelf.turn(wire)
    assert "not where a message ends" in wire.error
    assert shelf.inbox.consumers["a"].position == 4
    assert text(shelf.attach()) == b"two\nthree\n"
    answer = shelf.ask({"do": "ack", "as": "a", "position": 10})
    assert "not where a message ends" in answer["error"] and answer["status"] == 2


def test_parts_of_a_long_row_are_not_acknowledged_alone(shelf: Shelf) -> None:
    receive(shelf.spool, b"x" * (MAX_PAYLOAD + 5), kind=Kind.BLOB)
    receive(shelf.spool, b"next\n")
    wire = shelf.attach()
    first, second, third = rows(wire)
    assert (first["flags"], second["flags"], third["text"]) == (Flag.MORE, 0, "next\n")
    wire.say({"ack": MAX_PAYLOAD})
    shelf.turn(wire)
    assert "not where a message ends" in wire.error
    wire = shelf.attach()
    wire.say({"ack": MAX_PAYLOAD + 5})
    shelf.turn(wire)
    assert not wire.closed and shelf.inbox.consumers["a"].position == MAX_PAYLOAD + 5


def test_who_does_not_read_has_little_held_for_him_and_is_not_cut_off(shelf: Shelf) -> None:
    line = b"x" * 999 + b"\n"
    for _ in range(40):
        receive(shelf.spool, line * 100)
    wire = shelf.attach(reads=False)
    assert BUFFER < wire.unread < BUFFER + 2 * 100 * 1000
    shelf.service.clock.advance(1e6)
    assert not wire.closed
    wire.reads = True
    shelf.turn(wire)
    assert text(wire) == line * 4000
    ends = [row["at"] for row in rows(wire)]
    assert ends == sorted(set(ends)), "nothing comes twice"


def test_rows_are_fetched_for_a_few_at_a_time(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    receive(shelf.spool, *[b"x" * 9999 + b"\n"] * 30)
    fetch, under_way, most = shelf.inbox.fetch, [0], [0]

    def counted(position: int, done: Callable[[list[Row]], None]) -> None:
        def fetched(found: list[Row]) -> None:
            under_way[0] -= 1
            done(found)

        under_way[0] += 1
        most[0] = max(most[0], under_way[0])
        fetch(position, fetched)

    monkeypatch.setattr(shelf.inbox, "fetch", counted)
    wires = []
    for number in range(20):
        wire = shelf.service.connect()
        wire.say({"do": "attach", "as": None, "from": "oldest"})
        wires.append(wire)
        if number % 5 == 4:
            wires.pop(-3).drop()
    shelf.turn(*wires)
    assert most[0] == FETCHING and under_way[0] == 0
    assert all(text(wire) == (b"x" * 9999 + b"\n") * 30 for wire in wires)


def test_who_does_not_read_may_acknowledge_all_the_same(shelf: Shelf) -> None:
    receive(shelf.spool, *[b"x" * 99_999 + b"\n"] * 8)
    wire = shelf.attach(reads=False)
    assert wire.unread
    first = rows(wire)[0]
    wire.say({"ack": 100_000})
    shelf.turn(wire)
    assert first["at"] == 0 and shelf.inbox.consumers["a"].position == 100_000


def test_an_acknowledgement_is_answered_when_it_is_committed(shelf: Shelf) -> None:
    receive(shelf.spool, b"one\n", b"two\n")
    shelf.attach().drop()
    wire = shelf.service.connect()
    wire.say({"do": "ack", "as": "a", "position": 4})
    assert len(wire.heard) == 1
    shelf.turn(wire)
    assert wire.heard[1:] == [{"acked": 4}]
    assert shelf.ask({"do": "ack", "as": "a", "position": 0}) == {"acked": 4}
    shelf.restart()
    assert shelf.inbox.consumers["a"].position == 4


def test_acknowledgements_that_cannot_be(shelf: Shelf) -> None:
    receive(shelf.spool, b"one\n")
    shelf.attach("known").drop()
    assert "no consumer other here; known are known" in shelf.ask({"do": "ack", "as": "other", "position": 0})["error"]
    assert "behind the end of the inbox, 4" in shelf.ask({"do": "ack", "as": "known", "position": 5})["error"]
    assert "broke its protocol" in shelf.ask({"do": "ack", "as": "known"})["error"]


def test_forgotten_while_it_is_attached(shelf: Shelf) -> None:
    receive(shelf.spool, b"one\n")
    wire = shelf.attach()
    assert shelf.ask({"do": "forget", "as": "a"}) == {"forgotten": "a"}
    assert "consumer a was forgotten" in wire.error
    assert "there are none yet" in shelf.ask({"do": "forget", "as": "a"})["error"]
    shelf.restart()
    assert not shelf.inbox.consumers


def test_forgotten_between_an_acknowledgement_and_its_commit(shelf: Shelf) -> None:
    receive(shelf.spool, b"one\n")
    shelf.attach().drop()
    first, second = shelf.service.connect(), shelf.service.connect()
    first.say({"do": "ack", "as": "a", "position": 4})
    while shelf.inbox.consumers["a"].position != 4:
        assert shelf.spool.step()
    second.say({"do": "forget", "as": "a"})
    shelf.turn(first, second)
    assert first.heard[-1] == {"acked": 4} and second.heard[-1] == {"forgotten": "a"}


def test_a_consumer_that_leaves_lets_others_go_on(shelf: Shelf) -> None:
    receive(shelf.spool, b"one\n", b"two\n")
    slow, fast = shelf.attach("slow"), shelf.attach("fast")
    fast.say({"ack": 8})
    shelf.turn(fast)
    assert shelf.inbox.begin == 0 and shelf.inbox.holder == "slow"
    slow.drop()
    shelf.ask({"do": "forget", "as": "slow"})
    receive(shelf.spool, b"three\n")
    assert shelf.inbox.begin == 8
    viewer = shelf.attach(None, "oldest")
    assert text(viewer) == b"three\n"


def test_a_viewer_is_told_what_it_has_missed(shelf: Shelf) -> None:
    receive(shelf.spool, *[b"x" * 99_999 + b"\n"] * 10)
    consumer, viewer = shelf.attach("a"), shelf.attach(None, "oldest", reads=False)
    seen = sum(map(len, map(unpack, rows(viewer))))
    consumer.say({"ack": 1_000_000})
    shelf.turn(consumer)
    receive(shelf.spool, b"new\n")
    assert shelf.inbox.begin == 1_000_000
    viewer.reads = True
    shelf.turn(viewer)
    passed = sum(line.get("passed", 0) for line in viewer.heard)
    assert passed and seen < 1_000_000
    assert sum(map(len, map(unpack, rows(viewer)))) + passed == 1_000_004


# Without a spool ----------------------------------------------------------------------------------------------------------------


def show(passing: Passing, payload: bytes) -> None:
    passing.show(Batch(0, Kind.LINES, 0, 0, payload), stream=b"s" * 16, peer="peer")


def test_what_passes_is_shown_to_those_who_look_on() -> None:
    passing = Passing(lambda: 0.0)
    with Service(feed=passing) as service:
        show(passing, b"before\n")
        wire = service.connect()
        wire.say({"do": "attach"})
        assert wire.heard[-1] == {"attached": None, "position": 7, "begin": 7, "end": 7, "durable": False}
        show(passing, b"now\n")
        wire.flush()
        assert text(wire) == b"now\n"
        for question in ({"do": "attach", "as": "a"}, {"do": "ack", "as": "a", "position": 7}, {"do": "forget", "as": "a"}):
            refused = service.connect()
            refused.say(question)
            assert "keeps no inbox" in refused.error


def part(passing: Passing, payload: bytes, flags: int = Flag.MORE) -> None:
    passing.show(Batch(0, Kind.LINES, flags, 0, payload), stream=b"s" * 16, peer="peer")


def passed(wire: Wire) -> int:
    return sum(line.get("passed", 0) for line in wire.heard)


def test_who_comes_in_the_middle_of_a_message_sees_the_next() -> None:
    passing = Passing(lambda: 0.0)
    with Service(feed=passing) as service:
        part(passing, b"beginning ")
        early = service.connect()
        early.say({"do": "attach"})
        part(passing, b"goes on ")
        late = service.connect()
        late.say({"do": "attach"})
        part(passing, b"ends\nnext\n", 0)
        part(passing, b"last\n", 0)
        for wire in (early, late):
            wire.flush()
            assert text(wire) == b"next\nlast\n"
        assert (passed(early), passed(late)) == (13, 5)


def test_who_has_missed_a_part_of_a_message_is_shown_nothing_of_its_rest() -> None:
    passing = Passing(lambda: 0.0)
    with Service(feed=passing) as service:
        slow, other = service.connect(reads=False), service.connect()
        for one in (slow, other):
            one.say({"do": "attach"})
        part(passing, b"first\n", 0)
        for _ in range(80):
            part(passing, b"x" * 100_000)
            other.flush()
        part(passing, b"x\nlast\n", 0)
        other.flush()
        assert text(other) == b"first\n" + b"x" * 8_000_001 + b"\nlast\n" and not passed(other)
        slow.reads = True
        for _ in range(1000):
            slow.flush()
        gap = next(index for index, line in enumerate(slow.heard) if "passed" in line)
        assert all(row["flags"] & Flag.MORE for row in slow.heard[3:gap])
        assert b"".join(unpack(line) for line in slow.heard[gap:] if "at" in line) == b"last\n"
        assert passed(slow) + len(text(slow)) == 8_000_013


def test_who_looks_on_without_reading_has_little_held_for_him_and_misses_the_rest() -> None:
    passing = Passing(lambda: 0.0)
    with Service(feed=passing) as service:
        wire, other = service.connect(reads=False), service.connect()
        for one in (wire, other):
            one.say({"do": "attach"})
        for _ in range(200):
            show(passing, b"x" * 99_999 + b"\n")
            other.flush()
        assert wire.unread < BUFFER + 2 * 100_000
        wire.reads = True
        for _ in range(1000):
            wire.flush()
        passed = sum(line.get("passed", 0) for line in wire.heard)
        assert passed > 10_000_000 and passed + len(text(wire)) == 20_000_000
        assert len(text(other)) == 20_000_000
