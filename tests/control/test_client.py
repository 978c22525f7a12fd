"""Finding a service and talking with it, and what is said when that fails."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mysocket.control.client import AHEAD, Connection, again, find
from mysocket.control.places import Place, listen_at_run_time
from mysocket.control.protocol import Greeting, Line, Malformed, encode, error_line
from mysocket.errors import NoService, OtherControl, ServiceGone, ServiceSays, SeveralServices
from tests.support.control import NODE, FakeService
from tests.support.processes import ROOT


@pytest.fixture
def places(tmp_path: Path) -> list[Place]:
    return [Place(str(tmp_path / name / "mysocket"), str(tmp_path)) for name in ("a", "b") if (tmp_path / name).mkdir() is None]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def undo() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Pair:
    """A connection, and the other end of it in the hands of the test."""

    def __init__(self, undo: ExitStack) -> None:
        mine, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        mine.setblocking(False)
        undo.callback(self.other.close)
        self.connection = undo.enter_context(Connection(mine, "/somewhere"))


@pytest.fixture
def pair(undo: ExitStack) -> Pair:
    return Pair(undo)


# Finding ----------------------------------------------------------------------------------------------------------------------


def test_the_only_one_is_found(places: list[Place]) -> None:
    for place in places:
        with FakeService(place) as service, find(places=places) as connection:
            assert connection.greeting == Greeting("9.9", os.getpid(), NODE, 9000, "hub:9001", None, False)
            assert connection.path == service.path
            assert connection.pid == os.getpid()


@pytest.mark.parametrize("port", [9000, "tcp:9000:interface=lo", "unix:/run/it"])
def test_one_of_several_is_found_by_its_port(places: list[Place], port: int | str) -> None:
    with (
        FakeService(places[0], name="1-a", port=port, node="a1"),
        FakeService(places[0], name="2-b", port=7, node="b2"),
        FakeService(places[1], name="dial-c", port=None, node="c3"),
        find(port, places=places) as connection,
    ):
        assert connection.greeting.node == "a1"


def test_one_is_found_by_its_spool_whatever_else_runs(places: list[Place], spool: Path) -> None:
    with FakeService(places[0]), FakeService(spool, node="5b"), find(spool=f"{spool}/", places=places) as connection:
        assert connection.greeting.node == "5b"
        assert connection.greeting.spool == str(spool)


def test_one_that_listens_in_two_directories_is_one(places: list[Place]) -> None:
    with FakeService(places[0]), FakeService(places[1]), find(places=places) as connection:
        assert connection.greeting.port == 9000


def test_several_are_named_with_what_chooses_them(places: list[Place], spool: Path) -> None:
    greeting = encode(Greeting("9", 77, "b2", None, "hub:9001", "/var/s\x1b[2Jp", True).line())
    with FakeService(places[0], node="a1"), FakeService(places[0], name="dial-b", greeting=greeting):
        with pytest.raises(SeveralServices) as problem:
            find(places=places)
    text = str(problem.value)
    assert f"process {os.getpid()} --port 9000 --peer hub:9001; process 77 --peer hub:9001 --spool /var/s\\x1b[2Jp" in text
    assert problem.value.status == 2
    assert "--port PORT or --spool DIR" in text


def test_none_names_the_places(places: list[Place]) -> None:
    os.mkdir(places[1].path, 0o755)
    os.chmod(places[1].path, 0o755)
    with pytest.raises(NoService) as problem:
        find(places=places)
    assert f"{places[0].path}: it does not exist; {places[1].path}: it is open to others" in str(problem.value)
    assert problem.value.status == 1


def test_none_on_this_port_names_who_is_there(places: list[Place]) -> None:
    with FakeService(places[0]), pytest.raises(NoService) as problem:
        find(9001, places=places)
    assert f"on port 9001: another one runs: process {os.getpid()} --port 9000" in str(problem.value)


def test_none_on_this_spool(tmp_path: Path, spool: Path) -> None:
    with pytest.raises(NoService, match="spool/control: it does not exist"):
        find(spool=str(spool))
    with pytest.raises(NoService, match="none: it does not exist"):
        find(spool=str(tmp_path / "none"))
    (tmp_path / "link").symlink_to(spool)
    with FakeService(spool), pytest.raises(NoService, match="symbolic link"):
        find(spool=str(tmp_path / "link"))


def test_the_spool_with_another_port_is_not_taken(spool: Path) -> None:
    with FakeService(spool), pytest.raises(NoService, match="on port 1 on the spool"):
        find(1, str(spool))


def test_a_killed_one_is_told(spool: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(spool / "control"))
        listener.listen()
    with pytest.raises(NoService, match="nobody listens there: its service was killed"):
        find(spool=str(spool))


def test_a_hung_one_is_waited_for_and_named(places: list[Place]) -> None:
    hung = listen_at_run_time("9000-hung", places=places[:1])
    with hung.socket:
        began = time.monotonic()
        with pytest.raises(NoService, match=f"process {os.getpid()} does not answer"):
            find(places=places, patience=0.1)
        assert 0.1 <= time.monotonic() - began < 3
        with FakeService(places[1]):
            # It may be the one that is meant: no guess.
            with pytest.raises(SeveralServices, match="which does not answer"):
                find(places=places, patience=0.1)
            find(9000, places=places, patience=0.1).close()
    hung.remove()


def test_half_a_greeting_is_none(places: list[Place]) -> None:
    with FakeService(places[0], greeting=b'{"mysocket": 1'), pytest.raises(NoService, match="does not answer"):
        find(places=places, patience=0.1)


def test_a_greeting_may_come_in_pieces(places: list[Place]) -> None:
    listening = listen_at_run_time("9000-x", places=places[:1])

    def serve() -> None:
        listening.socket.setblocking(True)
        with listening.socket.accept()[0] as connection:
            for byte in encode(Greeting("1", 2, "3", None, None, None, False).line()):
                connection.send(bytes([byte]))
            connection.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with find(places=places) as connection:
        assert connection.greeting.node == "3"
    thread.join()
    listening.socket.close()
    listening.remove()


def test_another_version_is_told(places: list[Place]) -> None:
    with FakeService(places[0], greeting=b'{"mysocket": 2, "version": "77\\u001b"}\n'), pytest.raises(OtherControl) as problem:
        find(places=places)
    assert "speaks version 2 of the control language" in str(problem.value) and "77" in str(problem.value)
    assert "\x1b" not in str(problem.value)


@pytest.mark.parametrize(
    "greeting",
    [b"SSH-2.0\n", b"[]\n", b"{}\n", b'{"mysocket": 1}\n', b"\xff\n", b"x" * 2_000_000, b'{"mysocket": true, "pid": 1}\n'],
)
def test_what_is_no_service_is_told(places: list[Place], greeting: bytes) -> None:
    with FakeService(places[0], greeting=greeting), pytest.raises(NoService, match="what answers is no service"):
        find(places=places)


def test_a_service_that_refuses_says_why(places: list[Place]) -> None:
    greeting = encode(error_line("too many are here.\x1b", 2))
    with (
        FakeService(places[0], greeting=greeting),
        pytest.raises(ServiceSays, match=r"says: too many are here\.\\x1b") as problem,
    ):
        find(places=places)
    assert problem.value.status == 2


def test_one_that_is_just_leaving(places: list[Place]) -> None:
    listening = listen_at_run_time("9000-x", places=places[:1])

    def serve() -> None:
        listening.socket.setblocking(True)
        listening.socket.accept()[0].close()

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(NoService, match="just leaving"):
        find(places=places)
    thread.join()
    listening.socket.close()
    listening.remove()


def test_paths_that_are_no_utf8(tmp_path: Path) -> None:
    spool = tmp_path / os.fsdecode(b"sp\xff")
    spool.mkdir(mode=0o700)
    with FakeService(spool), find(spool=str(spool)) as connection:
        assert connection.greeting.spool == str(spool)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_service_of_somebody_else_is_not_talked_to(spool: Path) -> None:
    """The directory and the socket are ours; who listens is not. (So it is where a program has given up its rights.)"""
    code = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + "/control")
os.setuid(65534)
listener.listen()
print("ready", flush=True)
sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", code, str(spool)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdin is not None and other.stdout is not None
    try:
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(NoService, match="who listens there is user"):
            find(spool=str(spool))
    finally:
        other.communicate(timeout=10)


def test_nothing_is_left_open(places: list[Place], spool: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with FakeService(places[0], node="a"), FakeService(places[1], node="b", port=1), FakeService(spool):
        find(9000, places=places).close()
        find(spool=str(spool)).close()
        for wrong in ({"places": places}, {"port": 5, "places": places}):
            with pytest.raises((NoService, SeveralServices)):
                find(**wrong)
    assert len(os.listdir("/proc/self/fd")) == before


# Talking ----------------------------------------------------------------------------------------------------------------------


def test_lines_go_out_and_come_in(pair: Pair) -> None:
    pair.connection.say({"do": "this"})
    assert pair.other.recv(100) == b'{"do":"this"}\n'
    pair.other.sendall(b'{"a": 1}\n{"b"')
    assert pair.connection.hear(0) == {"a": 1}
    with pytest.raises(TimeoutError):
        pair.connection.hear(0)
    with pytest.raises(TimeoutError):
        pair.connection.hear(0.01)
    pair.other.sendall(b": 2}\n")
    assert pair.connection.hear() == {"b": 2}


def test_what_was_said_before_the_end_is_heard(pair: Pair) -> None:
    pair.other.sendall(b'{"a": 1}\n{"b": 2}\n')
    pair.other.close()
    with pytest.raises(ServiceGone):
        for _ in range(3):
            pair.connection.say({"do": "this"})
    heard = []
    with pytest.raises(ServiceGone):
        heard.extend(pair.connection.take())
        raise AssertionError
    assert pair.connection.unsaid is False
    assert heard == [] or heard == [{"a": 1}, {"b": 2}]


def test_take_gives_every_line_before_it_tells_the_end(pair: Pair) -> None:
    pair.other.sendall(b'{"a": 1}\n{"b": 2}\n')
    pair.other.close()
    lines: list[Line] = []
    with pytest.raises(ServiceGone):
        for line in pair.connection.take():
            lines.append(line)
    assert lines == [{"a": 1}, {"b": 2}]


def test_an_error_has_its_status(pair: Pair) -> None:
    pair.other.sendall(encode(error_line("the spool is full", 74)))
    with pytest.raises(ServiceSays, match=r"\(process \d+\) says: the spool is full\.") as problem:
        pair.connection.hear()
    assert problem.value.status == 74


@pytest.mark.parametrize("status", [0, 256, -1, True, "3", None])
def test_a_status_that_is_none_is_1(pair: Pair, status: object) -> None:
    pair.other.sendall(encode({"error": "no", "status": status}))
    with pytest.raises(ServiceSays) as problem:
        pair.connection.hear()
    assert problem.value.status == 1


@pytest.mark.parametrize("garbage", [b"nonsense\n", b"[1]\n", b"{" * 2_000_000, b"\xff\xfe\n", b"[" * 100_000 + b"\n"])
def test_garbage_ends_it(pair: Pair, garbage: bytes) -> None:
    def serve() -> None:
        try:
            pair.other.sendall(garbage)
        except OSError:
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(Malformed):
        pair.connection.hear(10)
    with pytest.raises(Malformed):
        pair.connection.hear(10)
    pair.connection.close()
    thread.join()


def test_one_that_does_not_read_is_given_up_and_the_line_is_not_torn(pair: Pair) -> None:
    line = {"text": "x" * 1_000_000}
    with pytest.raises(TimeoutError):
        pair.connection.say(line, 0.05)
    assert pair.connection.unsaid
    got = bytearray()

    def read() -> None:
        while got.count(b"\n") < 2:
            got.extend(pair.other.recv(1 << 20))

    thread = threading.Thread(target=read)
    thread.start()
    pair.connection.say({"next": 1}, 10)
    thread.join()
    assert got == encode(line) + encode({"next": 1})


def test_hearing_says_what_waits(pair: Pair) -> None:
    """A request that fills the socket is finished while its answer is waited for."""
    pair.connection.put({"text": "x" * 1_000_000})
    assert pair.connection.unsaid

    def serve() -> None:
        got = 0
        while got < 1_000_000:
            got += len(pair.other.recv(1 << 20))
        pair.other.sendall(b'{"ok": 1}\n')

    thread = threading.Thread(target=serve)
    thread.start()
    assert pair.connection.hear(10) == {"ok": 1}
    thread.join()


def test_two_that_speak_do_not_wait_for_each_other(pair: Pair) -> None:
    """The other end says much before it reads anything."""
    lines = AHEAD // 2

    def serve() -> None:
        for number in range(lines):
            pair.other.sendall(encode({"at": number, "text": "x" * 10_000}))
        got = 0
        while got < 1_000_000:
            got += len(pair.other.recv(1 << 20))

    thread = threading.Thread(target=serve)
    thread.start()
    pair.connection.say({"text": "x" * 1_000_000}, 10)
    assert [pair.connection.hear(10)["at"] for _ in range(lines)] == list(range(lines))
    thread.join()


def test_a_flood_is_not_read_ahead_without_end(pair: Pair) -> None:
    stop = threading.Event()
    pair.other.settimeout(0.05)

    def flood() -> None:
        while not stop.is_set():
            try:
                pair.other.sendall(b'{"at":1}\n' * 1000)
            except TimeoutError:
                pass

    thread = threading.Thread(target=flood)
    thread.start()
    with pytest.raises(TimeoutError):
        pair.connection.say({"text": "x" * 1_000_000}, 0.3)
    stop.set()
    thread.join()
    # What one read has brought, and no more.
    assert len(pair.connection._heard) < AHEAD + 256 * 1024 // 9 + 1


# Again ------------------------------------------------------------------------------------------------------------------------


def test_a_durable_one_is_found_again_by_its_spool(places: list[Place], spool: Path) -> None:
    with FakeService(spool, node="a1"):
        connection = find(spool=str(spool))
    with pytest.raises(TimeoutError):
        again(connection, 0.2, places=places)
    with FakeService(spool, node="b2"), again(connection, 5, places=places) as found:
        assert found.greeting.node == "b2"


def test_it_is_waited_for(places: list[Place], spool: Path) -> None:
    with FakeService(spool):
        connection = find(spool=str(spool))
    services = []
    timer = threading.Timer(0.2, lambda: services.append(FakeService(spool)))
    timer.start()
    again(connection, None, places=places).close()
    timer.join()
    services[0].close()


def test_one_of_the_same_spool_or_node_is_found_in_the_run_time_directory(places: list[Place], tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    greeting = encode(Greeting("1", os.getpid(), "a1", 9000, None, gone, True).line())
    with FakeService(places[0], greeting=greeting):
        connection = find(9000, places=places)
    with FakeService(places[0], node="other", port=5), FakeService(places[1], greeting=greeting):
        again(connection, 5, places=places).close()


def test_one_in_memory_is_found_again_only_as_the_same_node(places: list[Place]) -> None:
    with FakeService(places[0], node="a1"):
        connection = find(places=places)
        again(connection, 5, places=places).close()
    with FakeService(places[0], node="b2"), pytest.raises(TimeoutError):
        again(connection, 0.2, places=places)


def test_one_in_memory_whose_process_has_ended_is_not_waited_for(places: list[Place]) -> None:
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    with FakeService(places[0]):
        connection = find(places=places)
    connection.pid = ended.pid
    with pytest.raises(ServiceGone, match="its process has ended"):
        again(connection, None, places=places)


def test_the_search_can_be_interrupted(places: list[Place], spool: Path, undo: ExitStack) -> None:
    with FakeService(spool):
        connection = find(spool=str(spool))
    read, write = os.pipe()
    undo.callback(os.close, read)
    os.close(write)
    with pytest.raises(InterruptedError):
        again(connection, None, places=places, wake=read)


def test_the_client_imports_no_twisted_and_nothing_slow() -> None:
    code = "import sys, mysocket.control.client, mysocket.control.sender; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(eval(done.stdout))
    assert not loaded & {"twisted", "asyncio", "argparse", "subprocess", "lmdb", "ssl", "threading", "ipaddress"}
