"""What a client does when its service goes, and comes, and goes."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from mysocket.control import client
from mysocket.control.client import find
from mysocket.control.places import Place
from mysocket.control.protocol import Line
from mysocket.control.request import Request
from mysocket.control.sender import PAUSE, Sender
from mysocket.core.batch import Kind, Piece
from mysocket.errors import TIME_LIMIT, Unsent
from mysocket.verbs.pieces import Nothing
from tests.support.control import Drop, FakeService


def sender(place: Place, told: list[str], wait: float | None = None) -> Sender:
    request = Request(os.urandom(16))
    request.give([Piece(Kind.LINES, 0, b"hello\n")])
    request.finish()
    return Sender(find(places=[place]), request, Nothing(), wait=wait, tell=told.append, places=[place])


def drops(times: int, line: Line, count: int) -> None:
    if count <= times:
        raise Drop


@pytest.mark.parametrize("times", [1, 3])
def test_a_service_that_hangs_up_is_asked_again(tmp_path: Path, times: int) -> None:
    place, told = Place(str(tmp_path / "mysocket"), str(tmp_path)), []
    with FakeService(place, on_line=lambda line, count: drops(times, line, count)) as service:
        sender(place, told).run()
        assert service.kept.stream == b"hello\n"
    assert len(told) == 1 and "Looking for it again" in told[0]


def test_one_that_always_hangs_up_is_not_run_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE", 0.01)
    place, told = Place(str(tmp_path / "mysocket"), str(tmp_path)), []
    with FakeService(place, on_line=lambda line, count: drops(1 << 30, line, count)) as service:
        began = time.monotonic()
        with pytest.raises(Unsent) as failure:
            sender(place, told, 1.0).run()
        assert failure.value.status == TIME_LIMIT
        assert len(service.heard) <= 3 + (time.monotonic() - began) / PAUSE
    assert len(told) == 1


@pytest.mark.parametrize("times", [1, 2])
def test_one_that_is_killed_before_anything_was_asked_is_looked_for_as_well(tmp_path: Path, times: int) -> None:
    """It has greeted, and its connection is broken when the question is written."""

    class Broken(Request):
        left = times

        def begin(self) -> Line:
            if self.left:
                self.left -= 1
                one.connection._socket.shutdown(socket.SHUT_RDWR)
            return super().begin()

    place, told = Place(str(tmp_path / "mysocket"), str(tmp_path)), []
    with FakeService(place) as service:
        request = Broken(os.urandom(16))
        request.give([Piece(Kind.LINES, 0, b"hello\n")])
        request.finish()
        one = Sender(find(places=[place]), request, Nothing(), tell=told.append, places=[place])
        one.run()
        assert service.kept.stream == b"hello\n" and not request.left
    assert len(told) == 1 and "Looking for it again" in told[0]
