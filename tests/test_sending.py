"""The own input of a link, without a network: what is forgotten, and how far it runs ahead of its peer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mysocket.core.batch import END, MAX_PAYLOAD, Kind, Piece
from mysocket.core.wire import Hello, Input
from mysocket.sending import PAUSE, RUN_AHEAD, Sending
from mysocket.spool.memory import MemorySpool
from tests.support.spools import close, opened, read_all, settle

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


def test_an_end_mark_that_nobody_takes_is_kept_for_who_takes_it_later(tmp_path: Path) -> None:
    """What is retired counts as delivered: a durable peer that takes the stream later would seem to have lost it."""
    spool = opened(tmp_path / "spool")
    sending = Sending(spool, Input.FINITE)
    sending.end(mark=True)
    assert not sending.delivered
    sending.forget_end_mark()
    assert sending.delivered and sending.told and not sending.undelivered
    assert spool.retired <= spool.committed
    close(spool)
    spool = opened(tmp_path / "spool")
    assert (spool.began, spool.retired, spool.end) == (0, 0, 1)
    assert [batch.payload for batch in read_all(spool, 0)] == [END.payload]
    close(spool)


@pytest.mark.parametrize("durable", [False, True])
def test_a_peer_that_begins_to_keep_its_state_has_lost_nothing(tmp_path: Path, durable: bool) -> None:
    for spool in (MemorySpool(b"s" * 16), disk := opened(tmp_path / "spool")):
        sending = Sending(spool, Input.OPEN)
        sending.accept([BLOCK, BLOCK], 0.0)
        settle(spool)
        peer = Hello(node=b"1" * 16, stream=b"t" * 16, durable=durable)
        sending.meet(peer)
        read_all(spool, 0)
        spool.retire(MAX_PAYLOAD)
        sending.meet(replace(peer, node=b"2" * 16 if not durable else peer.node, durable=True))
        # Only who has kept it can lose it.
        assert spool.began == (0 if durable else MAX_PAYLOAD)
    settle(disk)
    close(disk)


def test_an_end_mark_behind_messages_is_not_forgotten(tmp_path: Path) -> None:
    for spool in (MemorySpool(b"s" * 16), disk := opened(tmp_path / "spool")):
        sending = Sending(spool, Input.FINITE)
        sending.accept([Piece(Kind.LINES, 0, b"x\n")], 0.0)
        sending.end(mark=True)
        sending.forget_end_mark()
        settle(spool)
        assert not sending.delivered and sending.undelivered == 2
    close(disk)
