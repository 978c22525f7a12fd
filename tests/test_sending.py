"""The own input of a link: it does not run far ahead of a peer that keeps up, and is not held up by one that does not."""

from __future__ import annotations

from pathlib import Path

from mysocket.core.batch import MAX_PAYLOAD, Kind, Piece
from mysocket.core.wire import Input
from mysocket.sending import PAUSE, RUN_AHEAD, Sending
from tests.support.spools import close, opened, settle

BLOCK = Piece(Kind.LINES, 0, b"x" * (MAX_PAYLOAD - 1) + b"\n")


def test_the_input_pauses_when_it_runs_ahead_of_a_peer_that_takes_it(tmp_path: Path) -> None:
    spool = opened(tmp_path / "spool")
    sending = Sending(spool, Input.FINITE)
    rooms: list[int] = []
    sending.on_room = lambda: rooms.append(1)
    while spool.end <= RUN_AHEAD:
        sending.accept([BLOCK], 5.0)
        settle(spool)
    assert sending.room(5.0) > 0, "nobody takes it: it runs ahead as far as the spool goes"
    sending.outbox.started = True
    sending.accept([BLOCK], 5.0)
    settle(spool)
    assert sending.room(5.0) == 0 and sending.paused_until == 5.0 + PAUSE
    rooms.clear()
    sending.end_pause(5.0 + PAUSE / 2)
    assert not rooms
    sending.end_pause(5.0 + PAUSE)
    assert rooms and sending.paused_until is None and sending.room(5.0 + PAUSE) > 0
    sending.accept([BLOCK], 6.0)
    settle(spool)
    spool.retire(spool.end)
    settle(spool)
    assert sending.room(6.0) > 0, "the peer has caught up"
    close(spool)
