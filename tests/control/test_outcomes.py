"""What became of requests: kept as long as somebody may ask, and no longer."""

from __future__ import annotations

import pytest

from mysocket.control import outcomes
from mysocket.control.outcomes import KEPT, TOGETHER, Outcome, Outcomes
from mysocket.core.batch import Kind, Piece
from tests.control.bench import Kept, OwnLog

PIECE = [Piece(Kind.LINES, 0, b"hello\n")]


def id_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


class Room:
    def __init__(self, kept: Kept | None = None, now: float = 0.0) -> None:
        self.kept = kept if kept is not None else Kept()
        self.log = OwnLog(self.kept)
        self.now = now
        self.outcomes = Outcomes(self.log, self.kept.bookmarks, lambda: self.now)


def test_nothing_is_known_of_a_new_id() -> None:
    room = Room()
    assert room.outcomes.find(id_of(1)) == Outcome(0, 0, False, 0.0)
    assert room.outcomes.is_committed(id_of(1)) and room.outcomes.is_delivered(id_of(1))


def test_an_outcome_is_in_the_commit_of_its_batch() -> None:
    room = Room(now=5.0)
    room.outcomes.accept(id_of(1), PIECE, ended=False)
    assert not room.outcomes.is_committed(id_of(1)) and room.kept.bookmarks == {}
    room.log.commit()
    assert room.outcomes.is_committed(id_of(1)) and not room.outcomes.is_delivered(id_of(1))
    assert Room(room.kept, 6.0).outcomes.find(id_of(1)) == Outcome(6, 6, False, 5.0)


def test_an_end_is_committed_alone() -> None:
    room = Room()
    done: list[bool] = []
    room.outcomes.finish(id_of(1), lambda: done.append(room.outcomes.is_committed(id_of(1))))
    assert not room.outcomes.is_committed(id_of(1)) and not done
    room.log.commit()
    assert done == [True]
    assert Room(room.kept).outcomes.find(id_of(1)).ended


def test_what_is_known_to_the_client_is_forgotten_in_company() -> None:
    room = Room()
    for number in range(TOGETHER):
        room.outcomes.accept(id_of(number), PIECE, ended=True)
    room.log.settle()
    for number in range(TOGETHER - 1):
        room.outcomes.forget(id_of(number))
    room.outcomes.forget(id_of(0))
    room.outcomes.forget(id_of(1000))
    room.log.settle()
    assert len(room.kept.bookmarks) == TOGETHER
    room.outcomes.forget(id_of(TOGETHER - 1))
    room.log.settle()
    assert room.kept.bookmarks == {}


def test_the_rest_is_forgotten_in_the_end() -> None:
    room = Room()
    room.outcomes.accept(id_of(1), PIECE, ended=True)
    room.outcomes.forget(id_of(1))
    room.outcomes.close()
    room.log.settle()
    assert room.kept.bookmarks == {}


def test_a_week_later_nobody_asks() -> None:
    room = Room()
    for number in range(3):
        room.now = float(number)
        room.outcomes.accept(id_of(number), PIECE, ended=True)
    room.log.settle()
    room.kept.bookmarks["another thing"] = b"which is not ours"
    later = Room(room.kept, KEPT + 1.5)
    assert [later.outcomes.find(id_of(number)).accepted for number in range(3)] == [0, 0, 6]
    # And while it runs.
    later.now = KEPT + 2.5
    later.outcomes.accept(id_of(9), PIECE, ended=True)
    assert later.outcomes.find(id_of(2)).accepted == 0
    later.log.settle()
    assert list(later.kept.bookmarks) == ["another thing", "send:" + id_of(9).hex()]


def test_what_clients_leave_behind_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "MOST", 100)
    room = Room()
    for number in range(1000):
        room.now += 1
        room.outcomes.accept(id_of(number), PIECE, ended=True)
        # One that goes on is not the oldest.
        room.outcomes.accept(id_of(5000), PIECE, ended=False)
    room.log.settle()
    assert len(room.outcomes._known) == 100 and len(room.kept.bookmarks) <= 101
    assert room.outcomes.find(id_of(5000)).accepted == 6000 and room.outcomes.find(id_of(999)).accepted == 6
    assert room.outcomes.find(id_of(0)).accepted == 0
