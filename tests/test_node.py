"""Nodes and links over the network in memory: who is linked with whom, and what each kind of trouble leads to."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from mysocket.core.batch import Batch, Flag, Kind, LineCutter, Piece
from mysocket.core.ending import Progress
from mysocket.core.session import HANDSHAKE_TIME, Heartbeat
from mysocket.core.wire import MAGIC, NONE, Ack, Attach, Bye, Hello, Input, Ping, Reason, Resume, Start, encode
from mysocket.ends import words
from mysocket.errors import AnotherPeer, MessageTooLong, RefusedByPeer, StateLoss, VersionMismatch
from mysocket.notices import Notice
from tests.support.network import Connection, Person, Wire, run


@pytest.fixture
def clock() -> Clock:
    return Clock()


def give(person: Person, data: bytes) -> None:
    assert person.input is not None
    person.input.accept(LineCutter().feed(data))


def end(person: Person) -> None:
    assert person.input is not None
    person.input.end_input()


def shake_hands(dialler: Person, acceptor: Person) -> Connection:
    connection = Connection(dialler, acceptor)
    run(connection)
    return connection


def hang(connection: Connection) -> None:
    """The other side is gone without a word: nothing arrives any more, and nobody is told."""
    for wire in connection.wires:
        wire.deliver = lambda count: 0  # type: ignore[method-assign]
        wire.notice = lambda: False  # type: ignore[method-assign]


def test_a_stream_moves_to_the_other_connection_when_its_own_dies(clock: Clock) -> None:
    a, b = Person(clock, 1), Person(clock, 2)
    first, second = Connection(a, b), Connection(b, a)
    run(first, second)
    give(a, b"one\n")
    give(b, b"eins\n")
    run(first, second)
    carrying = first if a.link.sending.outbox.session is first.wires[0].protocol.session else second  # type: ignore[union-attr]
    carrying.cut()
    give(a, b"two\n")
    run(first, second)
    assert b.sink.output == b"one\ntwo\n" and a.sink.output == b"eins\n"
    assert a.link.linked and not carrying.wires[0].open


def test_the_receiver_closes_the_connection_a_stream_has_left(clock: Clock) -> None:
    a, b = Person(clock, 1), Person(clock, 2)
    first, second = Connection(a, b), Connection(a, b)
    run(first, second)
    give(a, b"one\n")
    run(first, second)
    session = a.link.sending.outbox.session
    carrying, other = (first, second) if session is first.wires[0].protocol.session else (second, first)  # type: ignore[union-attr]
    # Only a sees it die; b thinks that it is up.
    carrying.wires[0].abortConnection()
    carrying.whole = True
    give(a, b"two\n")
    run(other)
    assert b.sink.output == b"one\ntwo\n"
    assert carrying.wires[1].protocol.session.is_over and carrying.wires[1].eof_sent  # type: ignore[union-attr]


def test_a_node_talks_to_itself(clock: Clock) -> None:
    person = Person(clock, 1)
    connection = Connection(person, person)
    run(connection)
    give(person, b"echo\n")
    end(person)
    for _ in range(3):
        run(connection)
        clock.advance(0.03)
    assert person.sink.output == b"echo\n" and person.link.sending.delivered
    assert person.facts().progress is Progress.DONE


def test_heartbeats_go_on_while_the_output_stands_still(clock: Clock) -> None:
    """A peer that reads nothing for ten minutes is not a peer that is gone."""
    a, b = Person(clock, 1), Person(clock, 2)
    connection = Connection(a, b)
    run(connection)
    b.sink.slow = True
    give(a, b"x" * 99 + b"\n")
    for _ in range(600):
        run(connection)
        clock.advance(1)
    assert a.link.linked and b.link.linked and a.link.sending.undelivered == 100
    b.sink.drain()
    run(connection)
    clock.advance(0.1)
    run(connection)
    assert a.link.sending.undelivered == 0


def test_credit_stops_the_sender_at_the_window(clock: Clock) -> None:
    a, b = Person(clock, 1), Person(clock, 2)
    connection = Connection(a, b)
    b.sink.slow = True
    run(connection)
    line = b"x" * 262143 + b"\n"
    while a.link.room > 0:
        give(a, line)
    run(connection)
    taken = b.link.receiving.inbox.taken
    assert 8 * 2**20 <= taken <= 8 * 2**20 + 262144
    assert a.link.room <= 0
    b.sink.drain()
    run(connection)
    assert a.link.room > 0


def test_a_peer_that_vanishes_without_a_word_is_missed(clock: Clock) -> None:
    a, b = Person(clock, 1, heartbeat=Heartbeat.for_wait(6)), Person(clock, 2)
    connection = Connection(a, b)
    run(connection)
    hang(connection)
    for _ in range(6):
        assert a.link.linked
        clock.advance(1)
    assert not a.link.linked and any("Nothing was heard" in text for text in a.said)


def test_a_restarted_peer_takes_the_place_of_one_that_does_not_answer(clock: Clock) -> None:
    a, old = Person(clock, 1), Person(clock, 2)
    first = Connection(old, a)
    run(first)
    hang(first)
    new = Person(clock, 3)
    second = Connection(new, a)
    run(second)
    assert not new.link.linked
    clock.advance(5)
    third = Connection(new, a)
    run(third)
    assert new.link.linked and a.link.linked


def test_a_third_node_does_not_break_a_link_that_lives(clock: Clock) -> None:
    a, b, third = Person(clock, 1), Person(clock, 2), Person(clock, 3)
    link = Connection(a, b)
    run(link)
    stray = Connection(third, b)
    for _ in range(8):
        run(link, stray)
        clock.advance(1)
    assert not third.link.linked and stray.dead
    give(a, b"still here\n")
    run(link)
    assert b.sink.output == b"still here\n"


def test_a_hub_takes_many_each_with_its_own_position(clock: Clock) -> None:
    hub = Person(clock, 1, hub=True, input=Input.NONE, whole=True)
    people = [Person(clock, seed) for seed in range(2, 12)]
    connections = [shake_hands(person, hub) for person in people]
    for number, person in enumerate(people):
        give(person, b"from %d\n" % number)
        end(person)
    for _ in range(3):
        run(*connections)
        clock.advance(0.03)
    assert sorted(hub.sink.output.splitlines()) == [b"from %d" % number for number in range(10)]
    assert all(person.link.sending.delivered for person in people)
    for person in people:
        person.node.leave("done")
    run(*connections)
    assert not hub.node.links and [facts.progress for facts in hub.node] == [Progress.DONE]


def test_the_own_input_of_a_hub_goes_to_the_first_that_came(clock: Clock) -> None:
    hub = Person(clock, 1, hub=True)
    first, second = Person(clock, 2, input=Input.NONE), Person(clock, 3, input=Input.NONE)
    connections = [Connection(first, hub), Connection(second, hub)]
    run(*connections)
    give(hub, b"to the first\n")
    run(*connections)
    assert (first.sink.output, second.sink.output) == (b"to the first\n", b"")


def test_what_is_handed_to_a_hub_goes_to_the_first_that_takes_it_and_then_to_the_next(clock: Clock) -> None:
    hub = Person(clock, 1, hub=True, handed=True, input=Input.OPEN)
    sender = Person(clock, 2, takes=False)
    first, second, third = (Person(clock, seed, input=Input.NONE) for seed in (3, 4, 5))
    connections = [shake_hands(sender, hub), shake_hands(first, hub)]
    give(hub, b"to the first\n")
    run(*connections)
    # One that is lost without a word may come back.
    connections[1].cut()
    run(*connections)
    connections += [shake_hands(second, hub), shake_hands(first, hub)]
    give(hub, b"to it again\n")
    run(*connections)
    assert (first.sink.output, second.sink.output) == (b"to the first\nto it again\n", b"")
    first.node.leave("done")
    run(*connections)
    give(hub, b"to the next\n")
    run(*connections)
    assert second.sink.output == b"", "nothing was promised to it when it came"
    connections.append(shake_hands(third, hub))
    give(hub, b"and more\n")
    run(*connections)
    assert (third.sink.output, second.sink.output) == (b"to the next\nand more\n", b"")
    assert len(hub.node.links) == 3 and not hub.node.missing and not hub.errors


def test_windows_of_a_hub_shrink_with_its_senders(clock: Clock) -> None:
    hub = Person(clock, 1, hub=True, input=Input.NONE)
    for seed in range(2, 34):
        shake_hands(Person(clock, seed), hub)
    assert len(hub.node.links) == 32 and hub.node.window() * 32 == 64 * 2**20


def test_of_a_killed_memory_sender_that_had_sent_nothing_nothing_is_missing(clock: Clock) -> None:
    receiver = Person(clock, 1, input=Input.NONE)
    old, new = Person(clock, 2, input=Input.OPEN), Person(clock, 3)
    first = Connection(old, receiver)
    run(first)
    first.cut()
    first.wires[1].notice()
    second = Connection(new, receiver)
    give(new, b"whole\n")
    end(new)
    run(second)
    assert receiver.sink.output == b"whole\n" and not receiver.node.missing
    assert not any("broken off" in text for text in receiver.said)


def test_a_killed_memory_sender_leaves_its_stream_open_and_a_new_one_breaks_it_off(clock: Clock) -> None:
    receiver = Person(clock, 1, input=Input.NONE)
    old, new = Person(clock, 2), Person(clock, 3)
    first = Connection(old, receiver)
    run(first)
    give(old, b"half\n")
    run(first)
    first.cut()
    first.wires[1].notice()
    assert receiver.facts().progress is Progress.OPEN and receiver.facts().away_since is not None
    second = Connection(new, receiver)
    run(second)
    assert receiver.node.missing and any("broken off at position 5" in text for text in receiver.said)
    give(new, b"whole\n")
    end(new)
    run(second)
    clock.advance(0.1)
    run(second)
    assert receiver.facts().progress is Progress.BROKEN and receiver.sink.output == b"half\nwhole\n"


def test_a_sender_that_says_it_leaves_early_breaks_its_stream_off_at_once(clock: Clock) -> None:
    receiver, sender = Person(clock, 1, input=Input.NONE), Person(clock, 2)
    connection = Connection(sender, receiver)
    run(connection)
    give(sender, b"half\n")
    run(connection)
    sender.node.leave("SIGTERM")
    run(connection)
    assert receiver.facts().progress is Progress.BROKEN and receiver.node.missing
    assert any("left: SIGTERM" in text for text in receiver.said)


def test_a_restarted_memory_receiver_is_told_and_gets_the_rest(clock: Clock) -> None:
    sender, old, new = Person(clock, 1), Person(clock, 2, input=Input.NONE), Person(clock, 3, input=Input.NONE)
    first = Connection(sender, old)
    run(first)
    give(sender, b"one\n")
    run(first)
    clock.advance(0.1)
    run(first)
    first.cut()
    run(first)
    second = Connection(sender, new)
    run(second)
    give(sender, b"two\n")
    run(second)
    assert (old.sink.output, new.sink.output) == (b"one\n", b"two\n")
    assert any("restarted without the 4 bytes" in text for text in sender.said)
    assert any("goes on at position 4" in text for text in new.said)


def test_a_new_stream_waits_until_the_sink_has_the_old_one(clock: Clock) -> None:
    """Two incarnations of a sender, and an output that stands still between them: positions do not meet."""
    receiver = Person(clock, 1, input=Input.NONE)
    old, new = Person(clock, 2), Person(clock, 3)
    first = Connection(old, receiver)
    run(first)
    receiver.sink.slow = True
    give(old, b"old line\n")
    end(old)
    run(first)
    first.cut()
    run(first)
    second = Connection(new, receiver)
    give(new, b"new\n")
    run(second)
    assert receiver.sink.output == b"old line\n"
    receiver.sink.slow = False
    receiver.sink.drain()
    run(second)
    clock.advance(0.1)
    run(second)
    assert receiver.sink.output == b"old line\nnew\n" and new.link.sending.undelivered == 0


def test_a_send_only_node_takes_nothing_and_says_so(clock: Clock) -> None:
    deaf, sender = Person(clock, 1, takes=False), Person(clock, 2)
    connection = Connection(sender, deaf)
    run(connection)
    assert not sender.errors
    give(sender, b"for nobody\n")
    [error] = sender.errors
    assert isinstance(error, RefusedByPeer) and error.status == 4 and "--send-only" in str(error)


def test_an_empty_input_for_a_send_only_node_is_delivered_at_once(clock: Clock) -> None:
    deaf, sender = Person(clock, 1, takes=False), Person(clock, 2)
    end(sender)
    run(Connection(sender, deaf))
    assert sender.link.sending.delivered and not sender.errors


def test_a_message_that_is_too_long_to_put_together_is_refused_and_stays_unacknowledged(clock: Clock) -> None:
    receiver, sender = Person(clock, 1, whole=True, max_message=300_000, input=Input.NONE), Person(clock, 2)
    connection = Connection(sender, receiver)
    run(connection)
    give(sender, b"short\n")
    sender.link.accept([Piece(Kind.BLOB, Flag.MORE, bytes(262144)), Piece(Kind.BLOB, 0, bytes(262144))])
    for _ in range(3):
        run(connection)
        clock.advance(0.03)
    [ours], [theirs] = receiver.errors, sender.errors
    assert isinstance(ours, MessageTooLong) and isinstance(theirs, RefusedByPeer) and "position 6" in str(theirs)
    assert receiver.sink.output == b"short\n" and sender.link.sending.undelivered == 2 * 262144
    assert receiver.facts().progress is Progress.BROKEN


def test_a_message_longer_than_the_window_is_put_together(clock: Clock) -> None:
    receiver, sender = Person(clock, 1, whole=True, input=Input.NONE), Person(clock, 2)
    connection = Connection(sender, receiver)
    run(connection)
    parts = [bytes([number]) * 262144 for number in range(40)]
    sender.link.accept([Piece(Kind.BLOB, Flag.MORE if number < 39 else 0, part) for number, part in enumerate(parts)])
    for _ in range(5):
        run(connection)
        clock.advance(0.03)
    assert receiver.sink.output == b"".join(parts) and sender.link.sending.undelivered == 0


def test_in_a_hub_one_bad_sender_does_not_hurt_the_others(clock: Clock) -> None:
    hub = Person(clock, 1, hub=True, input=Input.NONE, whole=True, max_message=300_000)
    bad, good = Person(clock, 2), Person(clock, 3)
    connections = [Connection(bad, hub), Connection(good, hub)]
    run(*connections)
    bad.link.accept([Piece(Kind.BLOB, Flag.MORE, bytes(262144)), Piece(Kind.BLOB, 0, bytes(262144))])
    give(good, b"good\n")
    run(*connections)
    assert hub.sink.output == b"good\n" and not hub.errors and hub.node.missing
    assert isinstance(bad.errors[0], RefusedByPeer)


# A peer that is not one of ours -------------------------------------------------------------------------------------------------


class Stranger:
    """Speaks to a person in bytes."""

    def __init__(self, person: Person, *, dialled: bool = False) -> None:
        self.connection = Connection.__new__(Connection)
        self.connection.whole = True
        self.connection.wires = [Wire(self.connection, 0), Wire(self.connection, 1)]
        self.heard, self.wire = self.connection.wires
        self.wire.protocol = person.protocol(dialler=dialled)
        self.wire.protocol.makeConnection(self.wire)  # type: ignore[arg-type]

    def say(self, data: bytes) -> bytes:
        """Say something; what it heard so far."""
        self.wire.incoming += data
        self.wire.deliver(2**30)
        self.wire.drained()
        return bytes(self.heard.incoming)


HELLO = Hello(node=b"n" * 16, stream=b"s" * 16, name="strange", input=Input.FINITE)


@pytest.mark.parametrize("size", [1, 2**30])
def test_what_is_no_mysocket_hears_one_line_of_text(clock: Clock, size: int) -> None:
    stranger = Stranger(Person(clock, 1))
    for at in range(0, 14, size):
        heard = stranger.say(b"GET / HTTP/1.0"[at : at + size])
    assert heard.startswith(b"mysocket: this port speaks") and heard.endswith(b"\r\n") and not stranger.wire.open


def test_one_who_says_nothing_hears_nothing_and_is_closed(clock: Clock) -> None:
    stranger = Stranger(Person(clock, 1))
    clock.advance(HANDSHAKE_TIME - 0.1)
    assert stranger.wire.open
    clock.advance(0.2)
    assert not stranger.wire.open and not stranger.heard.incoming
    assert not clock.getDelayedCalls()


def test_a_slow_loris_has_ten_seconds(clock: Clock) -> None:
    stranger = Stranger(Person(clock, 1))
    for byte in MAGIC + encode(HELLO)[:20]:
        if stranger.wire.open:
            stranger.say(bytes([byte]))
            clock.advance(1)
    assert not stranger.wire.open and not stranger.heard.incoming


def test_another_version_is_refused_with_a_reason(clock: Clock) -> None:
    person = Person(clock, 1)
    heard = Stranger(person).say(MAGIC + encode(Hello(versions=(9,), node=b"n" * 16, stream=b"s" * 16)))
    assert heard.startswith(MAGIC) and heard[len(MAGIC) + 4 :].startswith(b"\x09\x00\x03")
    assert not person.errors and any("version 9" in text for text in person.said)


def test_a_dialler_told_of_another_version_ends_with_4(clock: Clock) -> None:
    for answer, kind in (
        (encode(Hello(versions=(9,), node=b"n" * 16, stream=b"s" * 16)), VersionMismatch),
        (encode(Bye(Reason.VERSION, "this side speaks version 9")), RefusedByPeer),
    ):
        person = Person(clock, 1)
        stranger = Stranger(person, dialled=True)
        assert stranger.wire.protocol is not None
        person.node.strangers.ready(stranger.wire.protocol.session).addErrback(lambda failure: None)
        stranger.say(MAGIC + answer)
        [error] = person.errors
        assert isinstance(error, kind) and error.status == 4


def linked_stranger(person: Person, **fields: object) -> Stranger:
    stranger = Stranger(person)
    stranger.say(MAGIC + encode(Hello(**{**{f: getattr(HELLO, f) for f in HELLO.__slots__}, **fields})))
    assert person.link.linked
    return stranger


def is_closing(person: Person) -> bool:
    return all(carrier.session.is_over for carrier in person.link.connections)


@pytest.mark.parametrize(
    ("resume", "words"),
    [
        (lambda link: Resume(link.sending.spool.stream, 1, 0, 100), "other data before position 1"),
        (lambda link: Resume(link.sending.spool.stream, 5, 12345, 100), "other data before position 5"),
        (lambda link: Resume(link.sending.spool.stream, 500, 0, 100), "only 5 was ever sent"),
    ],
)
def test_a_resume_that_does_not_fit_is_state_loss(clock: Clock, resume: Callable[..., Resume], words: str) -> None:
    person = Person(clock, 1)
    give(person, b"data\n")
    stranger = linked_stranger(person)
    heard = stranger.say(encode(resume(person.link)))
    [error] = person.errors
    assert isinstance(error, StateLoss) and error.status == 5 and words in str(error)
    assert encode(Bye(Reason.STATE_LOSS, error.text))[5:] in heard


def test_a_durable_receiver_that_lost_its_state_stops_the_sender(clock: Clock) -> None:
    person = Person(clock, 1)
    give(person, b"data\n")
    stranger = linked_stranger(person, durable=True)
    spool = person.link.sending.spool
    stranger.say(encode(Resume(spool.stream, NONE, 0, 100)))
    stranger.say(encode(Ack(5, 100)))
    stranger.wire.die(ConnectionError())
    give(person, b"more\n")
    again = linked_stranger(person, durable=True)
    again.say(encode(Resume(spool.stream, NONE, 0, 100)))
    [error] = person.errors
    assert isinstance(error, StateLoss) and "up to position 5" in str(error)


def test_what_waits_for_a_durable_peer_is_not_sent_to_another(clock: Clock) -> None:
    person = Person(clock, 1)
    give(person, b"data\n")
    linked_stranger(person, durable=True).wire.die(ConnectionError())
    Stranger(person).say(MAGIC + encode(Hello(node=b"other".ljust(16), stream=b"s" * 16)))
    [error] = person.errors
    assert isinstance(error, AnotherPeer) and error.status == 2
    assert b"n".hex() * 16 in str(error) and b"other".hex() in str(error)


@pytest.mark.parametrize(
    "frames",
    [
        [Attach(b"s" * 16), Start(7, 7), Start(7, 7)],
        [Start(0, 0)],
        [Attach(b"s" * 16), Start(0, 0), HELLO],
    ],
)
def test_a_peer_that_breaks_the_grammar_is_closed_with_a_reason(clock: Clock, frames: list[Attach | Start | Hello]) -> None:
    person = Person(clock, 1)
    stranger = linked_stranger(person)
    for frame in frames:
        heard = stranger.say(encode(frame))
    assert b"\x09\x00\x02" in heard and is_closing(person) and not person.errors


def test_a_batch_with_a_wrong_checksum_is_not_taken(clock: Clock) -> None:
    person = Person(clock, 1)
    stranger = linked_stranger(person)
    stranger.say(encode(Attach(b"s" * 16)))
    stranger.say(encode(Start(0, 0)) + encode(Batch(0, Kind.LINES, 0, 1, b"evil\n")))
    assert person.sink.output == b"" and any("checksum" in text for text in person.said) and is_closing(person)


def test_a_gap_is_not_taken(clock: Clock) -> None:
    person = Person(clock, 1)
    stranger = linked_stranger(person)
    stranger.say(encode(Attach(b"s" * 16)))
    stranger.say(encode(Start(0, 0)) + encode(Batch(3, Kind.LINES, 0, 1, b"evil\n")))
    assert person.sink.output == b"" and any("where 0 was next" in text for text in person.said)


def test_an_ack_for_what_was_never_sent_is_a_protocol_error(clock: Clock) -> None:
    person = Person(clock, 1)
    give(person, b"data\n")
    stranger = linked_stranger(person)
    stranger.say(encode(Resume(person.link.sending.spool.stream, NONE, 0, 100)) + encode(Ack(3, 100)))
    assert person.link.sending.undelivered == 5 and is_closing(person)


def test_a_peer_that_asks_and_never_reads_is_dropped(clock: Clock) -> None:
    person = Person(clock, 1)
    stranger = linked_stranger(person)
    stranger.wire.drained = lambda: None  # type: ignore[method-assign]
    pings = encode(Ping(1)) * 1000
    for _ in range(100):
        stranger.say(pings)
    assert not stranger.wire.open and len(stranger.heard.incoming) < 2**20


def test_a_hub_forgets_who_never_sent_anything(clock: Clock) -> None:
    hub = Person(clock, 1, hub=True, input=Input.NONE)
    shake_hands(Person(clock, 2), hub).cut()
    connection = shake_hands(Person(clock, 3), hub)
    connection.cut()
    run(connection)
    assert len(hub.node.links) == 1


def test_what_comes_after_the_last_word_is_not_taken(clock: Clock) -> None:
    """It could not be acknowledged any more: the next run would get it again."""
    receiver, sender = Person(clock, 1, input=Input.NONE), Person(clock, 2)
    connection = shake_hands(sender, receiver)
    give(sender, b"one\n")
    run(connection)
    receiver.node.leave("SIGTERM")
    give(sender, b"two\n")
    run(connection)
    assert receiver.sink.output == b"one\n" and sender.link.sending.undelivered == 4


def test_a_finite_peer_that_comes_back_as_another_without_input_has_left_its_stream_open(clock: Clock) -> None:
    person, old = Person(clock, 1), Person(clock, 2)
    first = shake_hands(old, person)
    give(old, b"half\n")
    run(first)
    first.cut()
    run(first)
    shake_hands(Person(clock, 3, input=Input.NONE), person)
    assert person.node.missing and any("broken off at position 5" in text for text in person.said)


def test_what_is_not_taken_is_not_waited_for(clock: Clock) -> None:
    """With --send-only a peer's pipe may stay open for ever."""
    sender, idle = Person(clock, 1, takes=False), Person(clock, 2)
    connection = shake_hands(sender, idle)
    give(sender, b"for you\n")
    end(sender)
    for _ in range(3):
        run(connection)
        clock.advance(0.03)
    assert sender.facts().input is Input.NONE and sender.facts().told


def test_an_end_mark_that_was_not_needed_leaves_no_last_word_to_wait_for(clock: Clock) -> None:
    deaf, sender = Person(clock, 1, takes=False), Person(clock, 2)
    end(sender)
    shake_hands(sender, deaf)
    assert sender.link.sending.delivered and sender.facts().told


def test_a_hub_forgets_senders_that_were_broken_off_but_not_that_they_were(clock: Clock) -> None:
    hub = Person(clock, 1, hub=True, input=Input.NONE)
    for seed in range(2, 30):
        sender = Person(clock, seed)
        connection = shake_hands(sender, hub)
        give(sender, b"half\n")
        run(connection)
        sender.node.leave("SIGINT")
        run(connection)
    assert not hub.node.links and hub.node.missing and hub.node.window() == 8 * 2**20
    assert [facts.progress for facts in hub.node] == [Progress.BROKEN]


def test_a_failed_output_is_said_even_by_one_who_has_nothing_to_send(clock: Clock) -> None:
    receiver, sender = Person(clock, 1, input=Input.NONE), Person(clock, 2)
    connection = shake_hands(sender, receiver)
    receiver.node.leave("no space left", Reason.OUTPUT)
    run(connection)
    assert any("left: no space left" in text for text in sender.said)
    assert len([text for text in sender.said if "left" in text]) == 1


def test_a_person_who_leaves_with_everything_delivered_is_done(clock: Clock) -> None:
    person, receiver = Person(clock, 1, input=Input.OPEN), Person(clock, 2, input=Input.NONE)
    connection = shake_hands(person, receiver)
    give(person, b"hello\n")
    for _ in range(3):
        run(connection)
        clock.advance(0.03)
    person.node.leave("SIGINT")
    run(connection)
    assert receiver.facts().progress is Progress.DONE and not receiver.node.missing


@pytest.mark.parametrize("input", [Input.OPEN, Input.FINITE])
def test_both_end_at_once_and_the_peer_is_gone_before_it_has_heard_of_ours(clock: Clock, input: Input) -> None:
    """A person does not wait for a peer that has finished and left; a pipe does: status 0 says that its end has arrived."""
    person, peer = Person(clock, 1, input=input), Person(clock, 2)
    connection = shake_hands(person, peer)
    give(person, b"hello\n")
    give(peer, b"and back\n")
    end(peer)
    for _ in range(3):
        run(connection)
        clock.advance(0.03)
    assert peer.facts().told and person.facts().progress is Progress.DONE
    person.link.end_input(wanted=input is Input.FINITE)
    assert not person.link.sending.delivered  # its end mark is on the way
    connection.cut()
    run(connection)
    assert person.link.sending.delivered is (input is Input.OPEN)


def test_text_from_a_peer_is_shown_on_one_line_and_escaped(clock: Clock) -> None:
    person = Person(clock, 1)
    stranger = linked_stranger(person, name="evil\n\x1b[2Jname")
    stranger.say(encode(Bye(Reason.LEFT, "bye\n\x1b]0;x\x07")))
    assert person.said and not any(character in text for text in person.said for character in "\n\x1b\x07")


def test_what_happens_to_links_is_told_with_who_it_was(clock: Clock) -> None:
    person = Person(clock, 1, hub=True, input=Input.NONE)
    stranger = linked_stranger(person, name="evil\n\x1b[2Jname")
    stranger.say(encode(Bye(Reason.LEFT, "bye\n" + "x" * 200)))
    linked, left = (text for text in person.said if isinstance(text, Notice))
    assert (linked.event, left.event) == ("linked", "left")
    assert linked.fields["peer"] == "evil\\x0a\\x1b[2Jname" and set(linked.fields) == {"peer", "address", "node"}
    reason = left.fields["reason"]
    assert isinstance(reason, str) and reason.startswith("bye\\x0axxx") and len(reason) <= 128


def test_peers_that_come_and_go_do_not_fill_a_log(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "LINES", 50)
    hub = Person(clock, 1, hub=True, input=Input.NONE)
    for number in range(2, 102):
        shake_hands(Person(clock, number), hub)
    assert len(hub.said) == 50
    clock.advance(words.INTERVAL)
    shake_hands(Person(clock, 1_000), hub)
    (summary,) = (text for text in hub.said if text == "50 more lines about links were left out")
    assert isinstance(summary, Notice) and summary.event == "left_out" and hub.said[-1].startswith("linked with ")


def test_those_who_come_and_go_do_not_hide_that_data_is_missing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "LINES", 10)
    hub = Person(clock, 1, hub=True, input=Input.NONE)
    for number in range(2, 22):
        shake_hands(Person(clock, number), hub)
    (link, *_) = hub.node.links.values()
    for _ in range(20):
        hub.node.fail(link, StateLoss("the positions do not match"))
    assert sum("the positions do not match" in text for text in hub.said) == 10 and len(hub.said) == 20


def test_who_is_turned_away_because_another_is_linked_is_told_seldom(clock: Clock) -> None:
    person = Person(clock, 1)
    shake_hands(Person(clock, 2), person)
    for number in range(3, 40):
        shake_hands(Person(clock, number), person)
    told = [text for text in person.said if isinstance(text, Notice) and text.event == "rejected"]
    assert len(told) == 1 and told[0].fields["reason"] == "busy"


def test_a_name_is_escaped_where_a_lost_stream_is_told(clock: Clock) -> None:
    receiver = Person(clock, 1, input=Input.NONE)
    sender = Person(clock, 2, name="evil\n\x1b[2Jname")
    connection = shake_hands(sender, receiver)
    give(sender, b"one\n")
    run(connection)
    connection.cut()
    run(connection)
    shake_hands(Person(clock, 3, name="evil\n\x1b[2Jname"), receiver)
    (told,) = (text for text in receiver.said if "was broken off at position" in text)
    assert "the stream of evil\\x0a\\x1b[2Jname was" in told
