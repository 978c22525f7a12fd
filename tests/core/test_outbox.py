"""The sending half and files: in front of a chunk the stream stops, for a peer that takes none."""

from __future__ import annotations

from typing import Any

import pytest

from mysocket.core.batch import Kind, Piece
from mysocket.core.outbox import Outbox
from mysocket.core.transfer import Chunk, Part
from mysocket.core.wire import NONE, Ack, Resume, Start
from mysocket.errors import RemoteProtocolError
from mysocket.spool.memory import MemorySpool

STREAM = b"s" * 16
FILE = Chunk(Part.OFFER, b"i" * 16, 5, text="a").piece()


class Connection:
    """What the sending half asks of a session."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def attach(self, stream: bytes) -> None:
        self.said.append(stream)

    def start(self, start: Start) -> None:
        self.said.append(start)


def line(text: bytes) -> Piece:
    return Piece(Kind.LINES, 0, text + b"\n")


def outbox(*pieces: Piece) -> Outbox:
    spool = MemorySpool(STREAM)
    for piece in pieces:
        spool.append(piece)
    return Outbox(spool)


def begin(box: Outbox, *, files: bool, position: int = NONE, window: int = 1 << 30) -> Any:
    session: Any = Connection()
    if box.session is not None:
        box.lost(box.session)
    box.ask(session, files=files)
    chain = 0 if position == NONE else box.backlog.chain_at(position)
    assert chain is not None
    box.resume(session, Resume(STREAM, position, chain, window), durable=False)
    return session


def sent(box: Outbox) -> list[bytes]:
    return [bytes(batch.payload) for batch in box.due()]


def test_the_stream_stops_in_front_of_a_file() -> None:
    box = outbox(line(b"before"), FILE, line(b"behind"))
    begin(box, files=False)
    assert box.waiting and not box.at_file
    assert sent(box) == [b"before\n"]
    assert box.at_file and not box.waiting and sent(box) == []


def test_nothing_of_the_file_counts_as_sent() -> None:
    box = outbox(line(b"before"), FILE)
    session = begin(box, files=False)
    sent(box)
    with pytest.raises(RemoteProtocolError):
        box.acknowledged(session, Ack(box.backlog.end, 1 << 30))
    assert box.acknowledged(session, Ack(7, 1 << 30))
    assert box.unacknowledged == len(FILE.payload) and box.at_file


def test_a_file_goes_to_a_peer_that_takes_files() -> None:
    box = outbox(line(b"before"), FILE, line(b"behind"))
    begin(box, files=True)
    assert sent(box) == [b"before\n", FILE.payload, b"behind\n"] and not box.at_file


@pytest.mark.parametrize("acknowledged", [0, 7])
def test_it_goes_on_by_itself_when_such_a_peer_comes(acknowledged: int) -> None:
    box = outbox(line(b"before"), FILE, line(b"behind"))
    session = begin(box, files=False)
    sent(box)
    if acknowledged:
        box.acknowledged(session, Ack(acknowledged, 1 << 30))
    begin(box, files=True, position=7)
    assert not box.at_file and box.waiting
    assert sent(box) == [FILE.payload, b"behind\n"]


def test_it_stops_again_where_the_next_peer_takes_none() -> None:
    box = outbox(FILE, line(b"behind"))
    begin(box, files=True)
    assert len(sent(box)) == 2
    begin(box, files=False, position=0)
    assert sent(box) == [] and box.at_file
    begin(box, files=False, position=len(FILE.payload))
    assert sent(box) == [b"behind\n"] and not box.at_file


def test_a_file_that_comes_later_stops_it_then() -> None:
    box = outbox(line(b"one"))
    begin(box, files=False)
    assert sent(box) == [b"one\n"] and not box.at_file
    box.backlog.append(line(b"two"))  # type: ignore[attr-defined]
    assert sent(box) == [b"two\n"]
    box.backlog.append(FILE)  # type: ignore[attr-defined]
    assert box.waiting and sent(box) == [] and box.at_file


def test_behind_the_window_nobody_knows_of_a_file() -> None:
    box = outbox(line(b"before"), FILE)
    session = begin(box, files=False, window=7)
    assert sent(box) == [b"before\n"] and not box.at_file
    box.acknowledged(session, Ack(7, 1 << 30))
    assert sent(box) == [] and box.at_file


def test_without_a_connection_it_stands_before_no_file() -> None:
    box = outbox(FILE)
    session = begin(box, files=False)
    assert sent(box) == [] and box.at_file
    box.lost(session)
    assert not box.at_file and not box.waiting
