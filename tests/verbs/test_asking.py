"""`mysocket stop`, `ack` and `forget`."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from mysocket.cli import main
from mysocket.control import client
from mysocket.control.places import Place
from mysocket.control.protocol import Line, error_line
from mysocket.verbs import asking
from tests.support.control import Drop, FakeService

Capture = pytest.CaptureFixture[str]
VERBS = [["ack", "me", "7"], ["forget", "me"], ["stop"]]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    found = Place(str(tmp_path / "mysocket"), str(tmp_path))
    monkeypatch.setattr(client, "run_time_places", lambda *_: [found])
    return found


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["ack", "me", "7"], {"do": "ack", "as": "me", "position": 7}),
        (["forget", "me.too-1_"], {"do": "forget", "as": "me.too-1_"}),
        (["stop"], {"do": "stop"}),
    ],
)
def test_they_say_it_and_nothing_else(place: Place, words: list[str], line: Line, capfd: Capture) -> None:
    with FakeService(place) as service:
        assert main(words) == 0
        assert service.heard == [line]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("words", VERBS)
def test_the_spool_and_the_port_choose_the_service(place: Place, tmp_path: Path, words: list[str]) -> None:
    spool = tmp_path / "spool"
    spool.mkdir(mode=0o700)
    with FakeService(place, name="1-a", port=1, node="a") as one, FakeService(spool, node="b") as two:
        assert main([*words, "--port", "1"]) == 0
        assert main([*words, "--spool", str(spool)]) == 0
        assert len(one.heard) == len(two.heard) == 1


@pytest.mark.parametrize("words", VERBS)
def test_without_a_service(place: Place, words: list[str], capfd: Capture) -> None:
    assert main(words) == 1
    assert "No service was found" in capfd.readouterr().err


@pytest.mark.parametrize("words", VERBS)
def test_an_error_is_told_with_its_status(place: Place, words: list[str], capfd: Capture) -> None:
    with FakeService(place, on_line=lambda line, count: error_line("there is no consumer of that name", 2)):
        assert main(words) == 2
    assert "says: there is no consumer of that name." in capfd.readouterr().err


@pytest.mark.parametrize("words", VERBS)
def test_a_lost_connection_is_told(place: Place, words: list[str], capfd: Capture) -> None:
    def hook(line: Line, count: int) -> None:
        raise Drop

    with FakeService(place, on_line=hook):
        assert main(words) == 1
    assert "closed the connection (without a word)" in capfd.readouterr().err


@pytest.mark.parametrize("words", VERBS[:2])
def test_another_answer_is_told(place: Place, words: list[str], capfd: Capture) -> None:
    with FakeService(place, on_line=lambda line, count: {"what": 1}):
        assert main(words) == 1
    assert "an answer without" in capfd.readouterr().err


@pytest.mark.parametrize("words", VERBS[:2])
def test_one_that_hangs_is_given_up(place: Place, words: list[str], capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.1)
    with FakeService(place, on_line=lambda line, count: b""):
        assert main(words) == 3
    assert "has not answered within 0.1 s" in capfd.readouterr().err


def test_stop_waits_until_the_service_has_left(place: Place) -> None:
    left = threading.Event()

    def hook(line: Line, count: int) -> None:
        service_talks.set()
        time.sleep(0.2)
        left.set()

    service_talks = threading.Event()
    with FakeService(place, on_line=hook):
        assert main(["stop"]) == 0
        assert left.is_set()


@pytest.mark.parametrize(("answer", "what"), [(b"", "answered"), ({"stopping": True}, "left")])
def test_stop_waits_so_long_and_no_longer(place: Place, answer: Line | bytes, what: str, capfd: Capture) -> None:
    with FakeService(place, on_line=lambda line, count: answer):
        assert main(["stop", "-w", "200ms"]) == 3
    assert f"(process {os.getpid()}) has not {what} within 0.2 s" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ack"], "NAME POSITION is missing"),
        (["ack", "me"], "POSITION is missing"),
        (["ack", "me", "x"], "POSITION: 'x' is not a position"),
        (["ack", "me", "-1"], "unknown option -1"),
        (["ack", "me", str(2**63)], "is not a position"),
        (["ack", "me", "7", "8"], "'8' is one argument too many"),
        (["ack", "../me", "7"], "is no name of a consumer"),
        (["ack", "", "7"], "is no name of a consumer"),
        (["forget"], "NAME is missing"),
        (["forget", "x" * 65], "is no name of a consumer"),
        (["forget", "ä"], "is no name of a consumer"),
        (["stop", "now"], "'now' is one argument too many"),
        (["stop", "-w", "never"], "is not a length of time"),
        (["attach", "--from", "here"], "write oldest or now"),
        (["attach", "--ack", "yes"], "write auto or none"),
        (["attach", "--as", "a b"], "is no name of a consumer"),
        (["attach", "-J", "-T"], "exclude each other"),
        (["status", "x"], "one argument too many"),
    ],
)
def test_bad_command_lines(words: list[str], said: str, capfd: Capture) -> None:
    assert main(words) == 2
    assert said in capfd.readouterr().err


@pytest.mark.parametrize("verb", ["send", "stop", "ack", "forget", "attach", "status"])
def test_each_has_its_help(verb: str, capfd: Capture) -> None:
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    out = capfd.readouterr().out
    assert f"mysocket {verb}" in out and "--port PORT" in out and "--spool DIR" in out
