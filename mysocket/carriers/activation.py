"""Sockets that systemd opened and passed on (sd_listen_fds(3)): which of them ``systemd:index=N`` or ``systemd:name=NAME`` is.

Who started this process keeps them open, so whoever connects while the process is restarted waits in the kernel and is not lost.
Twisted reads the environment and adopts what it can; here is what it leaves open:

1. What is wrong is told in a sentence, before anything is adopted.
2. The family is the socket's own. A ``domain=`` that says another is an error: Twisted would take every connection for one of
   that family, and lose it.
3. A Unix socket's file is systemd's: Twisted's port would change its mode, shut the socket down at the end and remove the file.
4. A socket is taken once. Its number may be another file's afterwards.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

from twisted.internet import endpoints
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IListeningPort
from zope.interface import implementer

from mysocket.carriers.acceptor import Acceptor
from mysocket.errors import NotPassed

PREFIX = "systemd:"
KINDS = {socket.SOCK_STREAM: "a stream socket (ListenStream=)", socket.SOCK_DGRAM: "a datagram socket (ListenDatagram=)"}
HINT = {
    socket.SOCK_STREAM: "connections are taken without --udp",
    socket.SOCK_DGRAM: "datagrams are taken by --raw --udp, or --input udp:systemd:…",
}

_taken: set[int] = set()


class Inherited(NamedTuple):
    """A socket that was passed on."""

    descriptor: int
    family: socket.AddressFamily


def is_inherited(text: str) -> bool:
    """Does the endpoint string name a socket that systemd passes on?"""
    return text.startswith(PREFIX)


def find(reactor: Any, text: str, kind: socket.SocketKind, environ: Mapping[str, str] = os.environ) -> Inherited:
    """The socket that an endpoint string names, non-blocking. It is the caller's to adopt and close.

    :param kind: what is needed, SOCK_STREAM or SOCK_DGRAM.
    :raises NotPassed: there is none, or it is of another kind.
    """
    words = _words(text)
    descriptors = _descriptors(reactor)
    if not descriptors:
        raise NotPassed(_why_none(environ), where=text)
    descriptor = descriptors[_index(text, words, len(descriptors), environ.get("LISTEN_FDNAMES", "").split(":"))]
    if descriptor in _taken:
        raise NotPassed("that socket is used already, for something else here", where=text)
    family = _judge(text, words.get("domain"), descriptor, kind)
    os.set_blocking(descriptor, False)
    _taken.add(descriptor)
    return Inherited(descriptor, family)


def _words(text: str) -> dict[str, str]:
    words: dict[str, str] = {}
    for part in re.split(r"(?<!\\):", text.removeprefix(PREFIX)):
        name, equals, value = part.partition("=")
        if not equals or name not in ("domain", "index", "name") or name in words:
            raise NotPassed("write systemd:index=N or systemd:name=NAME", where=text)
        words[name] = re.sub(r"\\(.)", r"\1", value)
    if ("index" in words) == ("name" in words):
        raise NotPassed("write either index=N or name=NAME", where=text)
    return words


def _descriptors(reactor: Any) -> list[int]:
    """Twisted has read the environment, once, and cleared it: it is asked."""
    found: list[int] = []
    while True:
        try:
            endpoint: Any = endpoints.serverFromString(reactor, f"systemd:domain=INET:index={len(found)}")
        except IndexError:
            return found
        found.append(endpoint.fileno)


def _why_none(environ: Mapping[str, str]) -> str:
    named = environ.get("LISTEN_PID")
    if named is not None and named != str(os.getpid()):
        return f"systemd passed its sockets to process {named}, and this is process {os.getpid()}: run twistd with -n"
    return (
        "no sockets were passed to this process; it has to be started by a .socket unit, or by something that sets LISTEN_PID, "
        "LISTEN_FDS and LISTEN_FDNAMES as systemd does (systemd-socket-activate: with --fdname)"
    )


def _index(text: str, words: Mapping[str, str], count: int, names: list[str]) -> int:
    have = f"there {'is' if count == 1 else 'are'} {count}: " + ", ".join(
        f"index={place}:name={name}" for place, name in enumerate(names)
    )
    if "index" in words:
        if not re.fullmatch("[0-9]{1,4}", words["index"]) or int(words["index"]) >= count:
            raise NotPassed(f"no socket number {words['index']} was passed; {have}", where=text)
        return int(words["index"])
    places = [place for place, name in enumerate(names) if name == words["name"]]
    if not places:
        raise NotPassed(f"no socket of that name was passed; {have}", where=text)
    if len(places) > 1:
        raise NotPassed(f"{len(places)} sockets have that name, and one is wanted: write index=N; {have}", where=text)
    return places[0]


def _judge(text: str, domain: str | None, descriptor: int, kind: socket.SocketKind) -> socket.AddressFamily:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as found:
            family, real = socket.AddressFamily(found.family), socket.SocketKind(found.type)
            listens = real != socket.SOCK_STREAM or found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except (OSError, ValueError) as problem:
        raise NotPassed(f"what was passed is no socket that can be used ({problem})", where=text) from None
    if real != kind:
        what = KINDS.get(real, "neither a stream nor a datagram socket")
        raise NotPassed(f"it is {what}; {HINT.get(real, 'it cannot be used')}", where=text)
    if not listens:
        raise NotPassed("it does not listen: the .socket unit needs Accept=no", where=text)
    name = family.name.removeprefix("AF_")
    if domain is not None and domain != name:
        raise NotPassed(f"its domain is {name}, not {domain}; write domain={name}, or leave that out", where=text)
    if family not in (socket.AF_INET, socket.AF_INET6) and (family != socket.AF_UNIX or kind != socket.SOCK_STREAM):
        raise NotPassed(f"sockets of the domain {name} cannot be used for that", where=text)
    return family


@implementer(IListeningPort)
class InheritedUnixPort:
    """A listening Unix socket that systemd made, and keeps."""

    def __init__(self, reactor: Any, inherited: Inherited, factory: Any) -> None:
        self._socket = socket.socket(fileno=os.dup(inherited.descriptor))
        self._address = self._socket.getsockname()
        self._factory = factory
        self._acceptor = Acceptor(reactor, self._socket, factory)
        self._listening = False

    def startListening(self) -> None:
        self._listening = True
        self._factory.doStart()
        self._acceptor.start()

    def stopListening(self) -> None:
        if self._listening:
            self._listening = False
            self._acceptor.stop()
            self._factory.doStop()

    def getHost(self) -> UNIXAddress:
        return UNIXAddress(self._address)
