"""Connections are taken, also after a time in which there was no descriptor for them."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from mysocket.carriers.acceptor import AT_ONCE, PAUSE, Acceptor


class Reactor(Clock):
    """Takes down what is adopted; fails as often as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []
        self.adopted: list[int] = []
        self.failures = 0

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    def adoptStreamConnection(self, fileno: int, family: int, factory: Factory) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.adopted.append(os.dup(fileno))


def test_no_descriptor_is_left_for_a_moment(tmp_path: Path) -> None:
    reactor = Reactor()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen(64)
        acceptor = Acceptor(reactor, listening, Factory())
        acceptor.start()
        clients = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(AT_ONCE + 4)]
        for client in clients:
            client.connect(str(tmp_path / "socket"))
        acceptor.doRead()
        assert len(reactor.adopted) == AT_ONCE
        reactor.failures = 1
        acceptor.doRead()
        assert reactor.readers == [] and len(reactor.adopted) == AT_ONCE
        reactor.advance(PAUSE)
        assert reactor.readers == [acceptor]
        acceptor.doRead()
        assert len(reactor.adopted) == AT_ONCE + 3
        acceptor.stop()
        assert reactor.readers == [] and not reactor.getDelayedCalls()
        for client in clients:
            client.close()
        for fd in reactor.adopted:
            os.close(fd)
