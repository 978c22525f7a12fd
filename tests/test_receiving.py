"""What a link takes from its peer, without a network."""

from __future__ import annotations

from typing import Any, cast

from mysocket.core.batch import END, Batch, Flag, Kind, Piece, chain
from mysocket.core.session import Session
from mysocket.core.wire import Attach, Resume, Start
from mysocket.ends.sink import Origin
from mysocket.receiving import Receiving


class WholeSink:
    """Takes blocks of whole messages, and keeps them."""

    whole = True
    repeats = False

    def __init__(self) -> None:
        self.blocks: list[Batch] = []

    def write(self, block: Batch, origin: Origin) -> None:
        self.blocks.append(block)
        origin.written(block.end)

    def agreed(self, *, cut: bool) -> None:
        pass


class Peer:
    """The session, and where blocks come from."""

    def __init__(self, receiving: Receiving) -> None:
        self.receiving = receiving
        self.committed: list[int] = []

    def resume(self, frame: Resume) -> None:
        pass

    def written(self, position: int) -> None:
        def committed(position: int) -> None:
            self.committed.append(position)
            self.receiving.committed(position)

        self.receiving.written(position, None, committed)

    def send(self, *pieces: Piece) -> None:
        session, me = cast(Session, self), cast(Any, self)
        self.receiving.attach(session, Attach(b"s" * 16))
        self.receiving.start(session, Start(0, 0), None)
        position = value = 0
        for kind, flags, payload in pieces:
            value = chain(payload, value)
            self.receiving.take(session, Batch(position, kind, flags, value, payload), me)
            position += len(payload)


def test_a_message_whose_input_ends_without_the_rest_is_not_lost() -> None:
    """Its sender was killed within it and came back with an empty input: what was accepted of it is delivered."""
    sink = WholeSink()
    receiving = Receiving(sink, lambda: 1 << 20, 1 << 20)
    peer = Peer(receiving)
    peer.send(Piece(Kind.LINES, Flag.MORE, b"be"), Piece(Kind.LINES, Flag.MORE, b"gun"), END)
    assert [(block.kind, bytes(block.payload)) for block in sink.blocks] == [(Kind.LINES, b"begun"), (Kind.END, END.payload)]
    assert peer.committed == [5, 6]
    assert receiving.inbox.at_end and receiving.inbox.committed == receiving.inbox.taken == 6
