"""Which of the sockets that systemd passes on an endpoint string names, and what is said of those that do not fit."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from mysocket.carriers import activation
from mysocket.carriers.activation import Inherited, InheritedUnixPort, find
from mysocket.errors import USAGE, NotPassed

STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


@pytest.fixture(autouse=True)
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, socket.socket]]:
    """The sockets that were passed on, by their names: of two names there may be one more."""
    sockets = {
        "link": socket.create_server(("::1", 0), family=socket.AF_INET6),
        "four": socket.create_server(("127.0.0.1", 0)),
        "syslog": socket.socket(socket.AF_INET, DATAGRAM),
        "quiet": socket.socket(socket.AF_INET, STREAM),
        "log": socket.socket(socket.AF_UNIX, DATAGRAM),
        "odd:name": socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET),
    }
    # What is not blocking already would hide that nobody has made it so.
    for one in sockets.values():
        one.setblocking(True)
    monkeypatch.setattr(activation, "_descriptors", lambda reactor: [one.fileno() for one in sockets.values()])
    monkeypatch.setattr(activation, "_taken", set())
    yield sockets
    for one in sockets.values():
        one.close()


NAMES = {"LISTEN_FDNAMES": "link:four:syslog:quiet:log:odd:twice:twice"}


def look(text: str, kind: socket.SocketKind = STREAM) -> Inherited:
    return find(None, text, kind, NAMES)


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("systemd:index=0", STREAM, "link"),
        ("systemd:name=link", STREAM, "link"),
        ("systemd:domain=INET6:index=0", STREAM, "link"),
        ("systemd:index=1:domain=INET", STREAM, "four"),
        ("systemd:name=four", STREAM, "four"),
        ("systemd:name=syslog", DATAGRAM, "syslog"),
        ("systemd:index=2", DATAGRAM, "syslog"),
        ("systemd:domain=INET:name=syslog", DATAGRAM, "syslog"),
    ],
)
def test_what_is_named_is_found(text: str, kind: socket.SocketKind, name: str, passed: dict[str, socket.socket]) -> None:
    found = look(text, kind)
    assert found == (passed[name].fileno(), passed[name].family)
    assert not os.get_blocking(found.descriptor)


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("systemd:index=6", STREAM, r"no socket number 6 was passed; there are 6: index=0:name=link, index=1:name=four"),
        ("systemd:index=-1", STREAM, "no socket number -1"),
        ("systemd:index=", STREAM, "no socket number  was"),
        ("systemd:index=" + "9" * 5000, STREAM, "no socket number 9"),
        ("systemd:index=\u0661", STREAM, "no socket number"),
        ("systemd:name=other", STREAM, "no socket of that name"),
        ("systemd:name=", STREAM, "no socket of that name"),
        ("systemd:name=twice", STREAM, r"2 sockets have that name, and one is wanted: write index=N"),
        ("systemd:domain=INET:index=0", STREAM, r"its domain is INET6, not INET; write domain=INET6, or leave that out"),
        ("systemd:domain=inet6:index=0", STREAM, "its domain is INET6, not inet6"),
        ("systemd:domain=UNIX:name=syslog", DATAGRAM, "its domain is INET, not UNIX"),
        ("systemd:index=0:name=link", STREAM, "either index=N or name=NAME"),
        ("systemd:domain=INET6", STREAM, "either index=N or name=NAME"),
        ("systemd:", STREAM, "write systemd:index=N or systemd:name=NAME"),
        ("systemd:0", STREAM, "write systemd:index=N or systemd:name=NAME"),
        ("systemd:index=0:index=1", STREAM, "write systemd:index=N or systemd:name=NAME"),
        ("systemd:index=0:backlog=5", STREAM, "write systemd:index=N or systemd:name=NAME"),
        ("systemd:index=0", DATAGRAM, r"it is a stream socket \(ListenStream=\); connections are taken without --udp"),
        ("systemd:name=syslog", STREAM, r"it is a datagram socket \(ListenDatagram=\); datagrams are taken by --raw"),
        ("systemd:name=quiet", STREAM, "it does not listen: the .socket unit needs Accept=no"),
        ("systemd:name=log", DATAGRAM, "sockets of the domain UNIX cannot be used for that"),
        ("systemd:index=5", STREAM, "it is neither a stream nor a datagram socket"),
    ],
)
def test_what_does_not_fit_is_told_and_stays_free(text: str, kind: socket.SocketKind, words: str) -> None:
    with pytest.raises(NotPassed, match=words) as told:
        look(text, kind)
    assert told.value.status == USAGE and str(told.value).startswith("Cannot listen on systemd:")
    look("systemd:index=0")


@given(st.text(st.sampled_from(r"\:=0123indexamedo")))
def test_any_text_names_a_socket_or_is_refused(text: str) -> None:
    activation._taken.clear()
    try:
        look("systemd:" + text)
    except NotPassed:
        pass


def test_a_name_may_hold_a_colon_that_is_escaped() -> None:
    assert activation._words(r"systemd:name=a\:b\\c") == {"name": "a:b\\c"}


def test_a_socket_is_taken_once() -> None:
    look("systemd:index=0")
    with pytest.raises(NotPassed, match="is used already"):
        look("systemd:name=link")
    look("systemd:name=four")


def test_what_is_no_socket_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        monkeypatch.setattr(activation, "_descriptors", lambda reactor: [file.fileno(), 9999])
        for index in range(2):
            with pytest.raises(NotPassed, match="is no socket that can be used"):
                look(f"systemd:index={index}")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "no sockets were passed to this process; .*LISTEN_FDNAMES"),
        ({"LISTEN_PID": "1"}, r"passed its sockets to process 1, and this is process \d+: run twistd with -n"),
        ({"LISTEN_PID": "own"}, "no sockets were passed"),
    ],
)
def test_why_there_are_none(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], words: str) -> None:
    monkeypatch.setattr(activation, "_descriptors", lambda reactor: [])
    environ = {name: value.replace("own", str(os.getpid())) for name, value in environ.items()}
    with pytest.raises(NotPassed, match=words):
        find(None, "systemd:index=0", STREAM, environ)


def test_twisted_tells_what_it_has_read() -> None:
    """It has read the environment of this process when it was imported: there is nothing."""
    import importlib

    fresh = importlib.reload(activation)
    assert fresh._descriptors(Clock()) == []


# A Unix socket ------------------------------------------------------------------------------------------------------------------


class Reactor(Clock):
    """Readers, and connections that are adopted."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[object] = []
        self.addReader, self.removeReader = self.readers.append, self.readers.remove
        self.adopted = 0

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Factory) -> None:
        self.adopted += 1


def test_a_unix_socket_is_left_as_it_is(tmp_path: Path) -> None:
    path, reactor, factory = str(tmp_path / "link"), Reactor(), Factory()
    with socket.socket(socket.AF_UNIX) as kept, socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as later:
        kept.bind(path)
        os.chmod(path, 0o640)
        kept.listen()
        port = InheritedUnixPort(reactor, Inherited(kept.fileno(), socket.AF_UNIX), factory)
        kept.setblocking(False)
        port.startListening()
        client.connect(path)
        reactor.readers[0].doRead()  # type: ignore[attr-defined]
        assert reactor.adopted == 1 and port.getHost().name == path.encode()
        assert os.stat(path).st_mode & 0o777 == 0o640
        port.stopListening()
        port.stopListening()
        assert reactor.readers == [] and factory.numPorts == 0
        later.connect(path)
        assert re.search("link", kept.getsockname()) and kept.accept()
