"""A service that says what a test lets it say, on a real control socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Self

from mysocket.control.protocol import Greeting, Line, LineReader, encode, pack
from mysocket.core.batch import Kind
from tests.support.processes import TIMEOUT

NODE = "cd" * 16
STREAM = "ab" * 16


class Client:
    """One connection, seen from the service."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT)
        self._socket = connection
        self._reader = LineReader()
        self._lines: list[Line] = []
        self._ended = False

    def say(self, *lines: Line) -> None:
        """Say lines, at once."""
        self._socket.sendall(b"".join(map(encode, lines)))

    def hear(self) -> Line:
        """The next line of the client."""
        while not self._lines:
            data = self._socket.recv(65536)
            assert data, "the client has closed the connection"
            self._lines += self._reader.feed(data)
        return self._lines.pop(0)

    def rest(self) -> list[Line]:
        """What the client says until it closes, or ends what it says; the connection is closed then."""
        found, self._lines = self._lines, []
        try:
            while data := self._socket.recv(65536):
                found += self._reader.feed(data)
        except ConnectionResetError:
            pass
        self.close()
        return found

    def quiet(self, seconds: float = 0.3) -> bool:
        """Nothing is said for a while: for what must not happen."""
        self._socket.settimeout(seconds)
        try:
            return not self._lines and not self._socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(TIMEOUT)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Service:
    """A context manager; ``stop`` and ``start`` are a restart."""

    def __init__(self, spool: Path, *, node: str = NODE, inbox: bool = True, name: str = "control") -> None:
        self.spool = spool
        self._path = spool / name
        spool.mkdir(mode=0o700, exist_ok=True)
        self.greeting = Greeting("0.4", os.getpid(), node, 9000, "hub:9001", str(spool.resolve()), inbox)
        self._clients: list[Client] = []
        self.start()

    def start(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        self._socket.bind(str(self._path))
        os.chmod(self._path, 0o600)
        self._socket.listen(8)

    def accept(self) -> Client:
        """The next client, greeted."""
        client = Client(self._socket.accept()[0])
        self._clients.append(client)
        client.say(self.greeting.line())
        return client

    def attached(self, position: int = 0, begin: int = 0, end: int = 10**6) -> Client:
        """The next client, which attaches; it is in ``asked`` how."""
        client = self.accept()
        self.asked = client.hear()
        client.say({"attached": self.asked["as"], "position": position, "begin": begin, "end": end, "durable": True})
        return client

    def stop(self) -> None:
        self._socket.close()
        for client in self._clients:
            client.close()
        self._clients = []
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def row(payload: bytes, *, at: int = 0, kind: Kind = Kind.LINES, flags: int = 0, **fields: Any) -> Line:
    """A line of the inbox."""
    position = fields.pop("stream_position", at + len(payload))
    known = {"at": at, "stream": STREAM, "stream_position": position, "peer": "hosta", "time": 1760000000.25}
    return {**known, "kind": int(kind), "flags": int(flags), **pack(payload), **fields}
