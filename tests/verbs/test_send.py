"""`mysocket send`: what arrives, what is said, and the status, with a service, without one, and with one that misbehaves."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket import failpoints
from mysocket.cli import main
from mysocket.control import client, sender
from mysocket.control.places import Place
from mysocket.control.protocol import Line, error_line
from mysocket.core.batch import MAX_PAYLOAD, Flag, Kind, Piece
from mysocket.options import MAX_SPOOL
from mysocket.spool import direct
from mysocket.spool.lock import open_directory
from mysocket.spool.store import FILES, Store
from mysocket.verbs import pieces, send
from tests.support.control import Drop, FakeService, Kept
from tests.support.processes import MYSOCKET, ROOT, at_terminal, mysocket

Capture = pytest.CaptureFixture[str]
Temporary = pytest.TempPathFactory
Put = Callable[[bytes], None]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    found = Place(str(tmp_path / "mysocket"), str(tmp_path))
    monkeypatch.setattr(client, "run_time_places", lambda *_: [found])
    return found


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """The directory of a service's spool, for its socket only."""
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def stdin(tmp_path: Path) -> Iterator[Put]:
    """Puts these bytes before stdin."""
    kept = os.dup(0)

    def put(data: bytes) -> None:
        (tmp_path / "stdin").write_bytes(data)
        fd = os.open(tmp_path / "stdin", os.O_RDONLY)
        os.dup2(fd, 0)
        os.close(fd)

    yield put
    os.dup2(kept, 0)
    os.close(kept)


@pytest.fixture
def untouched() -> Iterator[None]:
    """stdin is a pipe in which something waits, and stays."""
    kept, (read, write) = os.dup(0), os.pipe()
    os.dup2(read, 0)
    os.write(write, b"stays\n")
    yield
    os.close(write)
    assert os.read(0, 100) == b"stays\n"
    os.dup2(kept, 0)
    os.close(kept)
    os.close(read)


def once(act: Callable[[Line], None], when: Callable[[Line], bool]) -> Callable[[Line, int], None]:
    """A hook that acts on the first line that is meant."""
    left = [True]

    def hook(line: Line, count: int) -> None:
        if left and when(line):
            left.clear()
            act(line)

    return hook


def drop(line: Line) -> None:
    raise Drop


# With a service ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (["hello"], Piece(Kind.LINES, 0, b"hello\n")),
        (["hello", "big", "world"], Piece(Kind.LINES, 0, b"hello big world\n")),
        (["-0", "a", "b"], Piece(Kind.LINES, Flag.NUL, b"a b\0")),
        (["--whole", "a"], Piece(Kind.BLOB, 0, b"a")),
        (["--stream", "a"], Piece(Kind.BLOB, Flag.CHUNK, b"a")),
        ([""], Piece(Kind.LINES, 0, b"\n")),
        (["--", "-x", "--port"], Piece(Kind.LINES, 0, b"-x --port\n")),
        (["-"], Piece(Kind.LINES, 0, b"-\n")),
        (["two\nlines"], Piece(Kind.LINES, 0, b"two\nlines\n")),
        ([os.fsdecode(b"\xff\xfe\x00"[:2] + "é".encode())], Piece(Kind.LINES, 0, b"\xff\xfe\xc3\xa9\n")),
        (["\x01" * 1000], Piece(Kind.LINES, 0, b"\x01" * 1000 + b"\n")),
    ],
)
def test_the_words_are_one_message(place: Place, untouched: None, words: list[str], piece: Piece, capfd: Capture) -> None:
    with FakeService(place) as service:
        assert main(["send", *words]) == 0
        service.wait_heard(lambda lines: {"confirm": True} in lines)
        assert service.kept.pieces == [piece]
    assert capfd.readouterr() == ("", "")


def test_options_may_follow_the_words(place: Place) -> None:
    with FakeService(place, name="1-a", port=1, node="a"), FakeService(place, name="2-b", port=2, node="b") as service:
        assert main(["send", "hello", "-p", "2", "world"]) == 0
        assert service.kept.stream == b"hello world\n"


def test_a_long_message_is_accepted_all_at_once(place: Place) -> None:
    words = ["x" * 1000] * 600
    answers: list[int] = []
    with FakeService(place) as service:
        service._after = lambda: answers.append(len(service.kept.stream))
        assert main(["send", *words]) == 0
    assert answers == [600 * 1001]
    assert service.kept.stream == " ".join(words).encode() + b"\n"


@pytest.mark.parametrize("options", [["--whole"], ["--stream"]])
def test_an_empty_text_without_an_end_is_nothing(place: Place, options: list[str], capfd: Capture) -> None:
    assert main(["send", *options, ""]) == 2
    assert "nothing to send" in capfd.readouterr().err


@pytest.mark.parametrize("cut", [[], ["-0"], ["--stream"], ["--whole"]])
@pytest.mark.parametrize(
    "data",
    [b"", b"one\n", b"one\ntwo", b"\0a\0b", b"x" * 1_000_000, b"x" * 300_000 + b"\n" + b"y\n" * 300_000, b"\xff\n" * 200_000],
)
def test_stdin_arrives_as_it_is(place: Place, stdin: Put, cut: list[str], data: bytes, capfd: Capture) -> None:
    stdin(data)
    with FakeService(place) as service:
        assert main(["send", *cut]) == 0
        assert service.kept.stream == data
        if cut == ["--whole"]:
            assert sum(not piece.flags & Flag.MORE for piece in service.kept.pieces) == bool(data)
    assert capfd.readouterr() == ("", "")


def test_delivered_waits_for_the_peer(place: Place) -> None:
    with FakeService(place) as service:
        assert main(["send", "--delivered", "hello"]) == 0
        service.wait_heard(lambda lines: {"confirm": True} in lines)
        assert {"deliver": True} in service.heard


def test_not_delivered_in_time_is_accepted_all_the_same(place: Place, capfd: Capture) -> None:
    with FakeService(place, delivers=False) as service:
        assert main(["send", "--delivered", "-w", "200ms", "hello"]) == 3
    err = capfd.readouterr().err
    assert "Not acknowledged by the peer within 0.2 s (-w). All of it is accepted" in err and "do not send it again" in err
    assert service.kept.stream == b"hello\n" and {"withdraw": True} not in service.heard


def test_verbose_says_who_has_it(place: Place, spool: Path, capfd: Capture) -> None:
    with FakeService(place), FakeService(spool):
        assert main(["send", "-v", "hello"]) == 0
        assert capfd.readouterr().err == f"mysocket: 6 bytes accepted by process {os.getpid()}, in memory; position 6\n"
        assert main(["send", "-v", "--delivered", "--spool", str(spool), "hello"]) == 0
        assert capfd.readouterr().err == "mysocket: 6 bytes acknowledged by the peer; position 6\n"


def test_a_full_spool_gives_3_and_nothing_is_half_accepted(place: Place, capfd: Capture) -> None:
    with FakeService(place) as service:
        service.full.set()
        began = time.monotonic()
        assert main(["send", "-w", "0.3", "hello"]) == 3
        assert 0.3 <= time.monotonic() - began < 5
    assert service.kept.stream == b""
    assert capfd.readouterr().err == "mysocket: Not accepted within 0.3 s (-w). Nothing of it is accepted.\n"


def test_what_is_accepted_at_the_last_moment_is_success(place: Place, capfd: Capture) -> None:
    service = FakeService(place)
    service.full.set()

    def hook(line: Line, count: int) -> Line | None:
        if "withdraw" in line:
            return {"withdrawn": True, "accepted": 6, "position": 6}
        return None

    service._on_line = hook
    with service:
        assert main(["send", "-w", "0.2", "hello"]) == 0
    assert capfd.readouterr() == ("", "")


def test_who_waits_is_told_what_for(place: Place, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "SILENCE", 0.1)
    service = FakeService(place)
    service.full.set()
    with service:
        assert main(["send", "-w", "0.5", "hello"]) == 3
        told, *rest = capfd.readouterr().err.splitlines()
        assert told.startswith("mysocket: the service takes no more now: it has no room") and len(rest) == 1
        assert main(["send", "--quiet", "-w", "0.3", "hello"]) == 3
        assert "takes no more" not in capfd.readouterr().err


def test_a_service_that_hangs_is_given_up(place: Place, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "LAST_WORD", 0.1)
    with FakeService(place, on_line=lambda line, count: b""):
        assert main(["send", "-w", "0.2", "hello"]) == 3
    assert capfd.readouterr().err == "mysocket: Not accepted within 0.2 s (-w). Nothing of it is accepted.\n"
    with FakeService(place, on_line=lambda line, count: None if "do" in line else b""):
        assert main(["send", "-w", "0.2", "hello"]) == 3
    assert capfd.readouterr().err == "mysocket: Not accepted within 0.2 s (-w). Whether it is accepted nobody knows.\n"


def test_the_limit_counts_from_the_last_progress(place: Place, stdin: Put) -> None:
    stdin(b"x\n" * MAX_PAYLOAD)
    with FakeService(place, after=lambda: time.sleep(0.15)) as service:
        assert main(["send", "-w", "0.4"]) == 0
    assert len(service.kept.stream) == 2 * MAX_PAYLOAD


def test_an_input_that_rests_is_no_fault_of_the_service(place: Place, tmp_path: Path) -> None:
    read, write = os.pipe()
    kept = os.dup(0)
    os.dup2(read, 0)

    def type_slowly() -> None:
        for _ in range(3):
            time.sleep(0.2)
            os.write(write, b"a\n")
        os.close(write)

    thread = threading.Thread(target=type_slowly)
    thread.start()
    try:
        with FakeService(place) as service:
            assert main(["send", "-w", "0.15"]) == 0
            assert service.kept.stream == b"a\na\na\n" and len(service.kept.pieces) == 3
    finally:
        thread.join()
        os.dup2(kept, 0)
        os.close(kept)
        os.close(read)


@pytest.mark.parametrize("status", [1, 4, 74])
def test_an_error_of_the_service_is_final(place: Place, status: int, capfd: Capture) -> None:
    with FakeService(place, on_line=lambda line, count: error_line("it is stopping", status)):
        assert main(["send", "hello"]) == status
    assert f"The service (process {os.getpid()}) says: it is stopping. Nothing of it is accepted." in capfd.readouterr().err


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\n",
        b"[]\n",
        {"accepted": 9999, "position": 1, "window": 5},
        {"accepted": 0, "position": -1, "window": 5},
        {"accepted": 0, "position": 0, "window": "x"},
        {"ended": True},
        b"{" * 2_000_000,
    ],
)
def test_a_service_that_breaks_the_protocol(place: Place, answer: Line | bytes, capfd: Capture) -> None:
    with FakeService(place, on_line=lambda line, count: answer):
        assert main(["send", "hello"]) == 1
    assert "The control connection broke its protocol" in capfd.readouterr().err


# Lost connections -------------------------------------------------------------------------------------------------------------

MOMENTS: dict[str, Callable[[Line], bool]] = {
    "greeted": lambda line: line.get("do") == "send",
    "piece": lambda line: "piece" in line,
    "end": lambda line: "end" in line,
    "deliver": lambda line: "deliver" in line,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_lost_connection_is_made_anew_and_nothing_is_said_twice(place: Place, moment: str, capfd: Capture) -> None:
    with FakeService(place, on_line=once(drop, MOMENTS[moment])) as service:
        assert main(["send", "--delivered", "hello"]) == 0
        service.wait_heard(lambda lines: {"confirm": True} in lines)
        assert service.kept.stream == b"hello\n"
        assert len({line["id"] for line in service.heard if "id" in line}) == 1
    assert "Looking for it again" in capfd.readouterr().err


def test_accepted_and_not_answered_is_not_sent_again(place: Place) -> None:
    left = [1]

    def after() -> None:
        if left:
            left.clear()
            raise Drop

    with FakeService(place, after=after) as service:
        assert main(["send", "--quiet", "hello"]) == 0
        assert service.kept.stream == b"hello\n"


def test_connections_that_break_all_the_time(place: Place, stdin: Put) -> None:
    data = b"".join(b"%d\n" % number for number in range(300_000)) + b"z" * 700_000
    stdin(data)
    count = [0]

    def hook(line: Line, number: int) -> None:
        count[0] += 1
        if count[0] % 5 == 0:
            raise Drop

    with FakeService(place, on_line=hook) as service:
        assert main(["send", "--quiet"]) == 0
        assert service.kept.stream == data


def test_a_durable_service_may_restart_meanwhile(place: Place, spool: Path, capfd: Capture) -> None:
    kept, second = Kept(), []

    def restart(line: Line) -> None:
        threading.Thread(target=lambda: (first.close(), second.append(FakeService(spool, kept=kept, node="b2")))).start()
        time.sleep(0.05)
        raise Drop

    first = FakeService(spool, kept=kept, node="a1", on_line=once(restart, MOMENTS["piece"]))
    assert main(["send", "--spool", str(spool), "hello"]) == 0
    assert kept.stream == b"hello\n"
    second[0].close()


def test_a_service_that_does_not_come_back(place: Place, spool: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "REUNION", 0.3)

    def leave(line: Line) -> None:
        threading.Thread(target=service.close).start()
        service._stopping.wait()
        raise Drop

    # All is accepted, and only the answer to the end is missing: nothing is missing.
    service = FakeService(spool, on_line=once(leave, lambda line: "end" in line and bool(service.kept.stream)))
    assert main(["send", "--spool", str(spool), "hello"]) == 0
    capfd.readouterr()
    service = FakeService(spool, on_line=once(leave, lambda line: "deliver" in line))
    assert main(["send", "--delivered", "--spool", str(spool), "hello"]) == 1
    err = capfd.readouterr().err
    assert "did not come back within 0.3 s" in err and "All of it is accepted" in err
    service = FakeService(spool, on_line=once(leave, lambda line: "piece" in line))
    assert main(["send", "--spool", str(spool), "hello"]) == 1
    err = capfd.readouterr().err
    assert "did not come back within 0.3 s" in err and "Whether it is accepted nobody knows" in err
    service = FakeService(spool, on_line=once(leave, lambda line: "piece" in line))
    assert main(["send", "-w", "0.3", "--spool", str(spool), "hello"]) == 3
    assert "Whether it is accepted nobody knows" in capfd.readouterr().err


def test_a_service_in_memory_that_ended_leaves_the_outcome_unknown(place: Place, capfd: Capture) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    connections: list[client.Connection] = []
    real = client.Connection.greet

    def greet(self: client.Connection, line: Line) -> None:
        self.pid = ended.pid
        real(self, line)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client.Connection, "greet", greet)

        def leave(line: Line) -> None:
            threading.Thread(target=service.close).start()
            service._stopping.wait()
            raise Drop

        service = FakeService(place, on_line=once(leave, lambda line: "piece" in line))
        assert main(["send", "hello"]) == 1
    assert not connections
    err = capfd.readouterr().err
    assert "which kept what it had accepted in memory, has ended" in err and "Whether it is accepted nobody knows" in err


def test_a_service_that_has_forgotten(place: Place, capfd: Capture, stdin: Put) -> None:
    stdin(b"x\n" * MAX_PAYLOAD)
    kept = Kept()

    def forget(line: Line) -> None:
        kept.requests.clear()
        raise Drop

    with FakeService(place, kept=kept, on_line=once(forget, lambda line: "piece" in line and bool(kept.stream))):
        assert main(["send"]) == 1
    assert f"it knows of 0 bytes, and had accepted {MAX_PAYLOAD}" in capfd.readouterr().err


# Finding it -------------------------------------------------------------------------------------------------------------------


def test_without_a_service_the_places_are_named(place: Place, capfd: Capture) -> None:
    assert main(["send", "hello"]) == 1
    assert f"No service was found: {place.path}: it does not exist" in capfd.readouterr().err


def test_two_services_must_be_told_apart(place: Place, capfd: Capture) -> None:
    with FakeService(place, name="1-a", port=1, node="a"), FakeService(place, name="2-b", port=2, node="b"):
        assert main(["send", "hello"]) == 2
    err = capfd.readouterr().err
    assert "--port 1" in err and "--port 2" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nonsense"], "unknown option --nonsense"),
        (["-p"], "--port needs a value"),
        (["-p", "0", "x"], "out of range"),
        (["-p", "70000", "x"], "out of range"),
        (["-w", "x", "y"], "is not a length of time"),
        (["-w", "0", "y"], "is not a length of time"),
        (["--spool=", "y"], "is not a file name"),
        (["--whole", "--stream"], "exclude each other"),
        (["--whole", "-0"], "exclude each other"),
        (["--stream=1"], "takes no value"),
    ],
)
def test_bad_command_lines(words: list[str], said: str, capfd: Capture) -> None:
    assert main(["send", *words]) == 2
    assert said in capfd.readouterr().err


# stdin ------------------------------------------------------------------------------------------------------------------------


def test_a_stdin_that_cannot_be_read(place: Place, tmp_path: Path, capfd: Capture) -> None:
    kept, fd = os.dup(0), os.open(tmp_path, os.O_RDONLY)
    os.dup2(fd, 0)
    try:
        with FakeService(place):
            assert main(["send"]) == 1
        assert "Reading the input failed: Is a directory. Nothing of it is accepted." in capfd.readouterr().err
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(fd)


def test_a_stdin_that_fails_midway_says_how_much_is_accepted(
    place: Place, stdin: Put, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(b"0123\n" * 200_000)
    real, left = pieces.Stdin.read, [2]

    def read(self: pieces.Stdin) -> list[Piece]:
        left[0] -= 1
        if left[0] < 0:
            self._fd = 999
        return real(self)

    monkeypatch.setattr(pieces.Stdin, "read", read)
    with FakeService(place) as service:
        assert main(["send"]) == 1
    accepted = len(service.kept.stream)
    assert 0 < accepted < 1_000_000 and service.kept.stream.endswith(b"3\n")
    err = capfd.readouterr().err
    assert f"Of the input {accepted} bytes are accepted; the rest can be given again (tail -c +{accepted + 1})" in err


def test_a_closed_stdin_is_told_and_a_closed_stdout_is_not_missed(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o700)
    script = '"$0" -m mysocket send --spool "$1" <&-; echo $?; "$0" -m mysocket send --quiet --spool "$1" hello <&- >&-; echo $?'
    done = subprocess.run(["sh", "-c", script, MYSOCKET[0], str(tmp_path / "s")], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "2\n0\n"
    assert done.stderr == "mysocket: Cannot open stdin: it is closed; redirect it, or give TEXT.\n"


def test_at_a_terminal_it_says_what_it_waits_for(spool: Path) -> None:
    with FakeService(spool) as service, at_terminal("send", "--spool", spool) as program:
        program.wait_text("Ctrl-D ends it")
        program.type("hello\n")
        service.wait_heard(lambda lines: any("piece" in line for line in lines))
        program.type("\x04")
        program.wait_status(0)
        assert service.kept.stream == b"hello\n"


def test_ctrl_c_says_how_much_is_accepted(spool: Path) -> None:
    with FakeService(spool) as service, mysocket("send", "--spool", spool) as program:
        program.write(b"one\ntwo\nthr")
        service.wait_heard(lambda lines: any("piece" in line for line in lines))
        program.kill(signal.SIGINT)
        program.wait_status(130)
        assert program.stderr_text == (
            "mysocket: Interrupted. Of the input 8 bytes are accepted; the rest can be given again (tail -c +9).\n"
        )
        assert {"withdraw": True} in service.heard
        assert service.kept.stream == b"one\ntwo\n"


def test_ctrl_c_while_it_waits_for_room(spool: Path) -> None:
    with FakeService(spool) as service, mysocket("send", "--spool", spool, "hello") as program:
        service.full.set()
        service.wait_heard(lambda lines: any("piece" in line or "end" in line for line in lines))
        program.kill(signal.SIGINT)
        assert program.wait() in (0, 130)
        if not service.kept.stream:
            assert "Nothing of it is accepted" in program.stderr_text


# Without a service: into the spool --------------------------------------------------------------------------------------------


def stream_in(path: Path) -> bytes:
    directory = open_directory(str(path), role="spool", create=False, known=FILES)
    try:
        store = Store(directory, 0, readonly=True)
        found = b"".join(bytes(batch.payload) for batch, _, _ in store.batches(store.state().retired))
        store.close()
    finally:
        directory.close()
    return found


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    return tmp_path / "new spool"


def test_a_spool_without_a_service_keeps_it(empty: Path, untouched: None, capfd: Capture) -> None:
    assert main(["send", "--spool", str(empty), "hello", "world"]) == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert (
        err == f"mysocket: no service runs on {empty}: kept in the spool; the next service or mysocket --spool {empty} sends it\n"
    )
    assert main(["send", "--quiet", "--spool", str(empty), "again"]) == 0
    assert capfd.readouterr() == ("", "")
    assert stream_in(empty) == b"hello world\nagain\n"


@pytest.mark.parametrize("cut", [[], ["-0"], ["--stream"], ["--whole"]])
@pytest.mark.parametrize("data", [b"", b"a\nb", b"x" * 700_000, b"line\n" * 1_200_000])
def test_stdin_is_kept_as_it_is(empty: Path, stdin: Put, cut: list[str], data: bytes) -> None:
    stdin(data)
    assert main(["send", "--quiet", *cut, "--spool", str(empty)]) == 0
    assert not data or stream_in(empty) == data


def test_a_session_sends_what_was_kept(empty: Path, tmp_path: Path) -> None:
    assert main(["send", "--quiet", "--spool", str(empty), "hello"]) == 0
    with mysocket("-p", 0, "--recv-only") as receiver:
        port = receiver.listening_port()
        with mysocket("--spool", empty, "--peer", f"127.0.0.1:{port}", "--send-only", stdin=b"session\n") as session:
            session.wait_status(0)
            receiver.wait_output(b"hello\nsession\n")


def test_it_is_not_delivered_without_a_service(empty: Path, capfd: Capture) -> None:
    assert main(["send", "--delivered", "--spool", str(empty), "hello"]) == 2
    assert "nothing is delivered now" in capfd.readouterr().err
    assert not empty.exists()


def test_a_spool_that_a_session_holds(empty: Path, capfd: Capture) -> None:
    held = open_directory(str(empty), role="session", create=True, known=FILES)
    try:
        assert main(["send", "--spool", str(empty), "hello"]) == 2
    finally:
        held.close()
    assert f"is in use by process {os.getpid()} (session)" in capfd.readouterr().err


@pytest.mark.parametrize(("limit", "status"), [([], 1), (["-w", "0.1"], 3)])
def test_a_service_that_cannot_be_reached(
    empty: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch, limit: list[str], status: int
) -> None:
    monkeypatch.setattr(send, "PATIENCE", 0.2)
    held = open_directory(str(empty), role="service", create=True, known=FILES)
    try:
        assert main(["send", "--spool", str(empty), *limit, "hello"]) == status
    finally:
        held.close()
    err = capfd.readouterr().err
    assert ("Nothing of it is accepted" in err) == (status == 3)
    assert f"A service (process {os.getpid()}) holds the spool" in err and "control: it does not exist" in err
    assert os.listdir(empty) == ["lock"]


def test_a_service_that_is_just_starting_is_waited_for(empty: Path) -> None:
    held = open_directory(str(empty), role="service", create=True, known=FILES)
    services = []
    timer = threading.Timer(0.2, lambda: services.append(FakeService(empty)))
    timer.start()
    assert main(["send", "--spool", str(empty), "hello"]) == 0
    timer.join()
    assert services[0].kept.stream == b"hello\n"
    services[0].close()
    held.close()


def append(path: Path, *given: Piece, capacity: int = MAX_SPOOL) -> int:
    return direct.append(str(path), given, capacity=capacity, wall=lambda: 1.0, random_bytes=os.urandom)


def test_an_unfinished_message_is_left_to_a_session(empty: Path, capfd: Capture) -> None:
    append(empty, Piece(Kind.LINES, 0, b"a\n"), Piece(Kind.LINES, Flag.MORE, b"half"))
    assert main(["send", "--spool", str(empty), "hello"]) == 2
    assert "the last message in the spool" in capfd.readouterr().err
    assert stream_in(empty) == b"a\nhalf"


def test_a_full_spool_is_waited_for(empty: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "MAX_SPOOL", 1024**2)
    append(empty, *[Piece(Kind.LINES, 0, b"x" * 200_000 + b"\n")] * 5)
    assert main(["send", "-w", "0.3", "--spool", str(empty), "y" * 60_000]) == 3
    err = capfd.readouterr().err
    assert "is full; waiting for room" in err and "Not accepted within 0.3 s (-w)" in err and "Nothing of it is accepted" in err

    def retire() -> None:
        directory = open_directory(str(empty), role="spool", create=False, known=FILES)
        store = Store(directory, 1024**2)
        with store.changes() as changes:
            changes.retire(store.state().end)
            changes.commit()
        store.close()
        directory.close()

    timer = threading.Timer(0.3, retire)
    timer.start()
    assert main(["send", "--quiet", "--spool", str(empty), "y" * 60_000]) == 0
    timer.join()
    assert stream_in(empty) == b"y" * 60_000 + b"\n"


def test_a_message_larger_than_the_spool_never_fits(
    empty: Path, stdin: Put, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "MAX_SPOOL", 1024**2)
    stdin(b"x" * 2_000_000)
    assert main(["send", "--whole", "--spool", str(empty)]) == 2
    assert "holds 1048576 bytes at most" in capfd.readouterr().err


def test_a_service_that_takes_the_spool_meanwhile_gets_the_rest(empty: Path, capfd: Capture) -> None:
    """Of an input that is being typed, some goes into the spool, and what comes later to the service."""
    with mysocket("send", "-v", "--spool", empty) as program:
        program.write(b"one\n")
        while not (empty / "spool.mdb").exists() or stream_in(empty) != b"one\n":
            time.sleep(0.01)
        held = open_directory(str(empty), role="service", create=False, known=FILES)
        with FakeService(empty) as service:
            program.write(b"two\n")
            service.wait_heard(lambda lines: any("piece" in line for line in lines))
            program.write(b"three\n")
            program.close_stdin()
            program.wait_status(0)
            assert service.kept.stream == b"two\nthree\n"
        held.close()
    assert stream_in(empty) == b"one\n"


def test_ctrl_c_while_the_spool_is_given_to(empty: Path) -> None:
    with mysocket("send", "--spool", empty) as program:
        program.write(b"one\ntwo")
        while not (empty / "spool.mdb").exists() or stream_in(empty) != b"one\n":
            time.sleep(0.01)
        program.kill(signal.SIGINT)
        program.wait_status(130)
        assert "Interrupted. Of the input 4 bytes are accepted" in program.stderr_text
    assert stream_in(empty) == b"one\n"


@pytest.mark.parametrize("label", ["S1", "S3"])
def test_killed_in_the_midst_it_is_all_there_or_nothing(empty: Path, label: str) -> None:
    with mysocket("send", "--spool", empty, "hello", env={failpoints.VARIABLE: label}) as program:
        program.wait_status(-signal.SIGKILL)
    assert stream_in(empty) == (b"hello\n" if label == "S3" else b"")
    assert main(["send", "--quiet", "--spool", str(empty), "more"]) == 0


@pytest.mark.parametrize("wrong", ["file", "link", "strange", "parent", "open"])
def test_what_is_no_spool(tmp_path: Path, wrong: str, capfd: Capture) -> None:
    path = tmp_path / "it"
    match wrong:
        case "file":
            path.touch()
        case "link":
            path.symlink_to(tmp_path)
        case "strange":
            path.mkdir(mode=0o700)
            (path / "mine").touch()
        case "parent":
            path = tmp_path / "no" / "it"
        case "open":
            assert main(["send", "--quiet", "--spool", str(path), "x"]) == 0
            path.chmod(0o755)
    assert main(["send", "--spool", str(path), "hello"]) == 2
    assert str(path) in capfd.readouterr().err or wrong == "parent"


def test_a_damaged_spool(empty: Path, capfd: Capture) -> None:
    empty.mkdir(mode=0o700)
    (empty / "spool.mdb").write_bytes(b"\0" * 65536)
    (empty / "spool.mdb").chmod(0o600)
    assert main(["send", "--spool", str(empty), "hello"]) == 2
    assert "damaged" in capfd.readouterr().err


@given(st.lists(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=4), min_size=1, max_size=6))
def test_whatever_is_appended_is_one_stream_with_its_chain(tmp_path_factory: Temporary, groups: list[list[bytes]]) -> None:
    path = tmp_path_factory.mktemp("spools") / "one"
    for group in groups:
        append(path, *(Piece(Kind.BLOB, 0, payload) for payload in group))
    assert stream_in(path) == b"".join(payload for group in groups for payload in group)
    assert main(["spool", str(path), "--messages", "--json"]) == 0


# Speed ------------------------------------------------------------------------------------------------------------------------


def test_it_keeps_up_with_many_short_lines(place: Place, stdin: Put) -> None:
    """100,000 short lines in a second of processor time, the service of the test included, with room for slow machines."""
    data = b"0123456789 short\n" * 500_000
    stdin(data)
    with FakeService(place) as service:
        before = resource.getrusage(resource.RUSAGE_SELF)
        assert main(["send"]) == 0
        after = resource.getrusage(resource.RUSAGE_SELF)
    assert len(service.kept.stream) == len(data)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 5
