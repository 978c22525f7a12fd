"""An output of datagrams: each message is one, in order, whatever the network says."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mysocket.carriers.datagram import MAX_DATAGRAM
from mysocket.carriers.resolve import DaemonResolver, Found
from mysocket.core.batch import END_PAYLOAD, Batch, Flag, Kind
from mysocket.core.wire import Hello
from mysocket.ends.sink import Format, JsonFormat, LineFormat
from mysocket.errors import MessageTooLong
from mysocket.outputs.datagrams import AGAIN, AT_ONCE, DatagramSink

HERE = (socket.AF_INET, "127.0.0.1")


class Sender:
    """Where blocks come from."""

    peer_text = "192.0.2.1:9"
    peer: Hello | None = None
    stream_id = b"s" * 16
    repeats_until = 0

    def __init__(self, then: Callable[[int], None] = lambda position: None) -> None:
        self.positions: list[int] = []
        self._then = then

    def written(self, position: int) -> None:
        self.positions.append(position)
        self._then(position)


class Names:
    """Answers when a test wants it to."""

    def __init__(self) -> None:
        self.asked: list[Deferred[Found]] = []

    def look_up(self, host: str) -> Deferred[Found]:
        assert host == "hub.example"
        self.asked.append(Deferred())
        return self.asked[-1]

    def answer(self, *found: tuple[int, str]) -> None:
        self.asked.pop(0).callback(list(found))


class Flaky:
    """A socket that fails as it is told to, and keeps what it took."""

    def __init__(self, problems: list[int], taken: list[bytes]) -> None:
        self.problems, self.taken = problems, taken

    def send(self, data: bytes) -> int:
        if self.problems and (problem := self.problems.pop(0)):
            raise OSError(problem, "this cannot be sent")
        self.taken.append(data)
        return len(data)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: None


class Bench:
    """A sink, and a receiver on this machine."""

    def __init__(self, host: str = "127.0.0.1", format: Format | None = None, **more: Any) -> None:
        self.clock, self.names = Clock(), Names()
        self.told: list[str] = []
        self.complaints: list[str] = []
        self.receiver = self.listening("127.0.0.1")
        self.port = self.receiver.getsockname()[1]
        self.sink = DatagramSink(
            host,
            more.pop("port", self.port),
            "udp:hub:514",
            clock=self.clock,
            resolver=cast(DaemonResolver, self.names),
            format=format,
            tell=self.told.append,
            complain=self.complaints.append,
            **more,
        )

    @staticmethod
    def listening(address: str, port: int = 0) -> socket.socket:
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((address, port))
        made.setblocking(False)
        return made

    @property
    def received(self) -> list[bytes]:
        found = []
        try:
            while True:
                found.append(self.receiver.recv(65536))
        except BlockingIOError:
            return found

    def close(self) -> None:
        self.sink.close()
        self.receiver.close()
        assert not self.clock.getDelayedCalls()


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    made.sink.start()
    yield made
    made.close()


def lines(data: bytes, flags: int = 0, start: int = 0) -> Batch:
    return Batch(start, Kind.LINES, flags, 0, data)


def blob(data: bytes, flags: int = 0, start: int = 0) -> Batch:
    return Batch(start, Kind.BLOB, flags, 0, data)


# What a datagram is -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "datagrams"),
    [
        (lines(b"one\n\ntwo\n"), [b"one\n", b"\n", b"two\n"]),
        (lines(memoryview(b"one\ntail"), Flag.UNTERMINATED), [b"one\n", b"tail"]),
        (lines(b"a\nb\0c\0", Flag.NUL), [b"a\nb\0", b"c\0"]),
        (blob(b"all\nof it"), [b"all\nof it"]),
        (blob(b"\xff\0"), [b"\xff\0"]),
        (blob(b"x" * MAX_DATAGRAM), [b"x" * MAX_DATAGRAM]),
        (blob(b"x" * 100_000, Flag.CHUNK), [b"x" * MAX_DATAGRAM, b"x" * (100_000 - MAX_DATAGRAM)]),
        (Batch(0, Kind.END, 0, 0, END_PAYLOAD), []),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_message_is_a_datagram_with_its_delimiter(bench: Bench, block: Batch, datagrams: list[bytes]) -> None:
    sender = Sender()
    bench.sink.write(block, sender)
    assert bench.received == datagrams
    assert sender.positions == [block.end] and bench.sink.idle and not bench.complaints
    assert bench.sink.facts == ("udp:hub:514", None, sum(map(len, datagrams)), 0, 0, None)


@given(payload=st.binary(max_size=60).map(lambda data: data.replace(b"\0", b"\n")), cut=st.integers(0, 60))
def test_nothing_is_lost_between_the_datagrams_of_a_block(payload: bytes, cut: int) -> None:
    taken: list[bytes] = []
    bench = Bench(make_socket=lambda family, kind: Flaky([], taken))
    bench.sink.start()
    flags = 0 if payload.endswith(b"\n") or not payload else int(Flag.UNTERMINATED)
    bench.sink.write(lines(payload, flags), Sender())
    assert b"".join(taken) == payload and all(b"\n" not in one[:-1] for one in taken)
    bench.close()


def test_with_json_each_datagram_is_one_object() -> None:
    bench = Bench(format=JsonFormat(1000, lambda: 1_700_000_000.0))
    bench.sink.start()
    sender = Sender()
    sender.repeats_until = 11
    bench.sink.write(lines(b"one\ntwo\ntail", Flag.UNTERMINATED, 10), sender)
    found = [json.loads(one) for one in bench.received]
    assert [(one["text"], one["position"], one.get("maybe_repeat", False)) for one in found] == [
        ("one", 14, True),
        ("two", 18, False),
        ("tail", 22, False),
    ]
    assert {one["stream"] for one in found} == {b"s".hex() * 16} and sender.positions == [22]
    bench.close()


def test_with_timestamps_each_datagram_has_one() -> None:
    bench = Bench(format=LineFormat(1000, escaped=False, stamp=lambda: 0.0))
    bench.sink.start()
    bench.sink.write(lines(b"one\ntwo\n"), Sender())
    assert [one.partition(b" ")[2] for one in bench.received] == [b"one\n", b"two\n"]
    with pytest.raises(MessageTooLong):
        bench.sink.write(lines(b"three\n" + b"x" * 1001 + b"\n"), Sender())
    assert not bench.received and bench.sink.idle, "nothing of a block that is refused is sent"
    bench.close()


def test_what_does_not_fit_is_told_and_the_next_goes_on(bench: Bench) -> None:
    sender = Sender()
    long = b"x" * MAX_DATAGRAM + b"\n"
    bench.sink.write(lines(b"before\n" + long + long + b"after\n"), sender)
    assert bench.received == [b"before\n", b"after\n"] and len(sender.positions) == 1
    assert bench.complaints == [
        "A message of 65508 bytes does not fit into a datagram (65507 bytes at most): it was not sent to udp:hub:514. The next "
        "goes on; a TCP output has no such limit."
    ]


def test_many_go_out_a_few_at_a_time_in_order_over_all_senders(bench: Bench) -> None:
    one, two = Sender(), Sender()
    bench.sink.write(lines(b"".join(b"%d\n" % number for number in range(3 * AT_ONCE))), one)
    bench.sink.write(lines(b"other\n"), two)
    assert len(bench.received) == AT_ONCE and not one.positions and bench.sink.facts.waiting
    found = []
    while not bench.sink.idle:
        assert not two.positions
        bench.clock.advance(0)
        found += bench.received
    assert found == [b"%d\n" % number for number in range(AT_ONCE, 3 * AT_ONCE)] + [b"other\n"]
    assert len(one.positions) == len(two.positions) == 1 and not bench.sink.facts.waiting


def test_whoever_hears_of_it_may_write_more_and_close(bench: Bench) -> None:
    def more(position: int) -> None:
        if position < 6:
            bench.sink.write(lines(b"%d\n" % position, start=position), sender)
        else:
            bench.sink.close()
            bench.sink.write(lines(b"late\n"), sender)

    sender = Sender(more)
    bench.sink.write(lines(b"0\n"), sender)
    assert bench.received == [b"0\n", b"2\n", b"4\n"] and sender.positions == [2, 4, 6]


# Where it goes ------------------------------------------------------------------------------------------------------------------


def test_it_waits_while_the_name_is_unknown() -> None:
    bench, sender = Bench("hub.example"), Sender()
    bench.sink.write(lines(b"one\n"), sender)
    bench.sink.start()
    for _ in range(5):
        bench.names.answer()
        assert not bench.names.asked and bench.sink.facts.error == "its name is unknown"
        bench.clock.advance(AGAIN)
    bench.sink.write(lines(b"two\n", start=4), sender)
    assert not sender.positions and not bench.received and bench.sink.facts.waiting == 8
    assert bench.complaints == [
        "Cannot send datagrams to the output udp:hub:514: its name is unknown. What is received waits for it, and is not "
        "acknowledged. Trying again."
    ]
    bench.names.answer(HERE)
    assert bench.received == [b"one\n", b"two\n"] and sender.positions == [4, 8]
    bench.close()


def test_a_block_without_datagrams_waits_for_nothing() -> None:
    bench, sender = Bench("hub.example"), Sender()
    bench.sink.write(Batch(7, Kind.END, 0, 0, END_PAYLOAD), sender)
    assert sender.positions == [8]
    bench.close()


@pytest.mark.parametrize("closed", [True, False])
def test_an_answer_that_comes_too_late_starts_nothing(closed: bool) -> None:
    bench = Bench("hub.example")
    bench.sink.start()
    bench.sink.close()
    bench.names.answer(*([] if closed else [HERE]))
    bench.sink.start()
    bench.close()


def test_an_address_of_either_family_needs_no_look_up() -> None:
    try:
        receiver = Bench.listening("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    bench = Bench("::1", port=receiver.getsockname()[1])
    bench.sink.start()
    bench.sink.write(lines(b"six\n"), Sender())
    assert receiver.recv(100) == b"six\n" and not bench.names.asked
    receiver.close()
    bench.close()


def test_nobody_listens_it_goes_on_and_looks_elsewhere() -> None:
    """What the system says of one datagram is heard when the next is sent, and that one is not lost with it."""
    bench, sender = Bench("hub.example"), Sender()
    bench.sink.start()
    # Nobody listens at the first address.
    bench.names.answer(HERE, (socket.AF_INET, "127.0.0.2"))
    port = bench.port
    bench.receiver.close()
    for number in range(4):
        bench.sink.write(lines(b"lost %d\n" % number, start=10 * number), sender)
    assert len(sender.positions) == 4, "a datagram that nobody hears is sent all the same"
    assert len(bench.complaints) == 1 and "nobody listens there" in bench.complaints[0] and not bench.names.asked
    bench.receiver = bench.listening("127.0.0.2", port)
    bench.clock.advance(AGAIN)
    bench.sink.write(lines(b"lost 4\n", start=40), sender)
    bench.names.answer(HERE, (socket.AF_INET, "127.0.0.2"))
    bench.sink.write(lines(b"found\n", start=50), sender)
    assert bench.received == [b"found\n"] and len(sender.positions) == 6
    bench.close()


def test_a_name_that_is_lost_for_a_while_leads_where_it_led() -> None:
    bench = Bench("hub.example")
    bench.sink.start()
    bench.names.answer(HERE)
    port = bench.port
    bench.receiver.close()
    bench.sink.write(lines(b"1\n2\n"), Sender())
    bench.clock.advance(AGAIN)
    bench.names.answer()
    bench.receiver = bench.listening("127.0.0.1", port)
    bench.sink.write(lines(b"3\n4\n"), Sender())
    assert bench.received == [b"3\n", b"4\n"]
    bench.close()


# What the own machine says ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [errno.EAGAIN, errno.ENOBUFS])
def test_what_is_full_is_tried_again_soon_and_in_order(problem: int) -> None:
    taken: list[bytes] = []
    bench = Bench(make_socket=lambda family, kind: Flaky([0, *[problem] * 9], taken))
    bench.sink.start()
    sender = Sender()
    bench.sink.write(lines(b"1\n2\n3\n"), sender)
    bench.sink.write(lines(b"4\n", start=6), sender)
    assert taken == [b"1\n"] and not sender.positions
    while not bench.sink.idle:
        bench.clock.advance(0.001)
    assert taken == [b"1\n", b"2\n", b"3\n", b"4\n"] and sender.positions == [6, 8]
    assert bench.clock.seconds() < 1 and not bench.complaints
    bench.close()


@pytest.mark.parametrize("problem", [errno.ENETUNREACH, errno.EPERM, errno.EHOSTUNREACH])
def test_a_network_that_is_away_is_waited_for(problem: int) -> None:
    taken: list[bytes] = []
    problems = [problem] * 8
    bench = Bench(make_socket=lambda family, kind: Flaky(problems, taken))
    bench.sink.start()
    sender = Sender()
    bench.sink.write(lines(b"1\n2\n"), sender)
    assert not sender.positions and bench.sink.facts.error == "this cannot be sent"
    for _ in range(10):
        bench.clock.advance(AGAIN)
    assert taken == [b"1\n", b"2\n"] and len(sender.positions) == 1 and len(bench.complaints) == 1
    assert bench.sink.facts.error is None and bench.told == ["output udp:hub:514: datagrams are sent again"]
    bench.close()


def test_what_the_way_does_not_take_is_told_and_the_next_goes_on() -> None:
    taken: list[bytes] = []
    bench = Bench(make_socket=lambda family, kind: Flaky([errno.EMSGSIZE], taken))
    bench.sink.start()
    sender = Sender()
    bench.sink.write(lines(b"1\n2\n"), sender)
    assert taken == [b"2\n"] and sender.positions == [4] and "does not fit" in bench.complaints[0]
    assert bench.sink.facts.written == 2
    bench.close()


def test_a_family_that_this_machine_does_not_have_is_passed_over() -> None:
    taken: list[bytes] = []

    def make(family: int, kind: int) -> Any:
        if family == socket.AF_INET:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return Flaky([], taken)

    bench = Bench("hub.example", make_socket=make)
    bench.sink.start()
    bench.names.answer(HERE)
    assert bench.sink.facts.error == "Address family not supported by protocol"
    bench.clock.advance(AGAIN)
    bench.sink.write(lines(b"1\n"), Sender())
    bench.names.answer(HERE, (socket.AF_INET6, "2001:db8::1"))
    assert taken == [b"1\n"]
    bench.close()


def test_a_system_that_refuses_for_ever_ends_no_loop() -> None:
    bench = Bench(make_socket=lambda family, kind: Flaky([errno.ECONNREFUSED] * 10_000, []))
    bench.sink.start()
    bench.sink.write(lines(b"1\n"), Sender())
    assert not bench.sink.idle and len(bench.complaints) == 1
    bench.close()
