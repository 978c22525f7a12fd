"""A service of a test: it speaks docs/control.md on a real socket, in threads, and misbehaves as it is told to."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from mysocket.control.places import IN_SPOOL, Listening, Place, listen, listen_at_run_time
from mysocket.control.protocol import WINDOW, Greeting, Line, LineReader, Malformed, encode, error_line, read_piece
from mysocket.core.batch import Flag, Piece

NODE = "0123456789abcdef0123456789abcdef"


class Kept:
    """What survives a restart of a service that has a spool."""

    def __init__(self) -> None:
        self.stream = bytearray()
        #: Pieces in the order they were accepted.
        self.pieces: list[Piece] = []
        #: Of each request: bytes accepted, and whether it has ended.
        self.requests: dict[str, tuple[int, bool]] = {}
        self.confirmed: list[str] = []


class Drop(Exception):
    """A hook raises it: close the connection without a word."""


class FakeService:
    """Listens from the beginning until :meth:`close`.

    :param at: a run-time directory, or the directory of a spool.
    :param on_line: called with each line before it is obeyed, and how many there were; may raise :class:`Drop`, or return what
        is said instead.
    :param after: called when pieces were accepted and not answered; may raise :class:`Drop`.

    :ivar full: while it is set, nothing is accepted.
    :ivar heard: all lines.
    """

    def __init__(
        self,
        at: Place | Path,
        *,
        name: str = "9000-x",
        port: int | str | None = 9000,
        peer: str | None = "hub:9001",
        node: str = NODE,
        pid: int | None = None,
        kept: Kept | None = None,
        greeting: bytes | None = None,
        on_line: Callable[[Line, int], Line | bytes | None] = lambda line, count: None,
        after: Callable[[], None] = lambda: None,
        delivers: bool = True,
    ) -> None:
        spool = str(at) if isinstance(at, Path) else None
        self.greeting = encode(Greeting("9.9", pid or os.getpid(), node, port, peer, spool, spool is not None).line())
        if greeting is not None:
            self.greeting = greeting
        self.kept = kept or Kept()
        self.full = threading.Event()
        self.heard: list[Line] = []
        self.said = threading.Condition()
        self._on_line = on_line
        self._after = after
        self._delivers = delivers
        self._durable = spool is not None
        self._listening = self._listen(at, name)
        self.path = self._listening.path
        self._stopping = threading.Event()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @staticmethod
    def _listen(at: Place | Path, name: str) -> Listening:
        if isinstance(at, Place):
            return listen_at_run_time(name, places=[at])
        directory = os.open(at, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return listen(directory, str(at), IN_SPOOL, held=True)
        finally:
            os.close(directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        # In this order: who waits for the one relies on the other.
        self._listening.remove()
        self._stopping.set()
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        self._listening.socket.close()

    def wait_heard(self, condition: Callable[[list[Line]], bool]) -> None:
        with self.said:
            assert self.said.wait_for(lambda: condition(self.heard), 10), self.heard

    def _accept(self) -> None:
        while not self._stopping.is_set():
            if select.select([self._listening.socket], [], [], 0.05)[0]:
                connection, _ = self._listening.socket.accept()
                connection.setblocking(True)
                self._connections.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        reader = LineReader()
        with connection:
            try:
                connection.sendall(self.greeting)
                talk = _Talk(self, connection)
                while data := connection.recv(1 << 18):
                    for line in reader.feed(data):
                        with self.said:
                            self.heard.append(line)
                            self.said.notify_all()
                        answer = self._on_line(line, len(self.heard))
                        if answer is not None:
                            connection.sendall(answer if isinstance(answer, bytes) else encode(answer))
                        else:
                            talk.obey(line)
            except Malformed as problem:
                connection.sendall(encode(error_line(str(problem))))
            except (Drop, OSError):
                pass


class _Talk:
    def __init__(self, service: FakeService, connection: socket.socket) -> None:
        self._service = service
        self._connection = connection
        self._id = ""
        self._parts: list[Piece] = []
        self._window = 0

    def say(self, line: Line) -> None:
        self._connection.sendall(encode(line))

    def obey(self, line: Line) -> None:
        service, kept = self._service, self._service.kept
        if "piece" in line:
            piece = read_piece(line)
            accepted, _ = kept.requests[self._id]
            begins = accepted + sum(len(part.payload) for part in self._parts)
            assert begins < self._window, "a piece beyond the window"
            self._parts.append(piece)
            if piece.flags & Flag.MORE or service.full.is_set():
                if not service.full.is_set():
                    self._window = begins + len(piece.payload) + WINDOW
                    self.say({"window": self._window})
                return
            self._commit()
        elif line.get("end"):
            if not service.full.is_set():
                assert not self._parts
                kept.requests[self._id] = (kept.requests[self._id][0], True)
                self.answer()
        elif line.get("deliver"):
            if service._delivers:
                self.say({"delivered": len(kept.stream)})
        elif line.get("withdraw"):
            self._parts.clear()
            self.say({"withdrawn": True, "accepted": kept.requests[self._id][0], "position": len(kept.stream)})
        elif line.get("confirm"):
            kept.confirmed.append(self._id)
            del kept.requests[self._id]
        elif line.get("do") == "send":
            self._id = line["id"]
            kept.requests.setdefault(self._id, (0, False))
            self.answer()
        elif line.get("do") == "stop":
            self.say({"stopping": True})
            raise Drop
        elif line.get("do") == "ack":
            self.say({"acked": line["position"]})
        elif line.get("do") == "forget":
            self.say({"forgotten": line["as"]})
        else:
            raise Malformed("nothing known")

    def _commit(self) -> None:
        kept = self._service.kept
        accepted, ended = kept.requests[self._id]
        for part in self._parts:
            accepted += len(part.payload)
            kept.stream += part.payload
            kept.pieces.append(part)
        kept.requests[self._id] = accepted, ended
        self._parts.clear()
        self._service._after()
        self.answer()

    def answer(self) -> None:
        accepted, ended = self._service.kept.requests[self._id]
        self._window = accepted + WINDOW
        position = len(self._service.kept.stream)
        self.say(
            {
                "accepted": accepted,
                "position": position,
                "window": self._window,
                "ended": ended,
                "durable": self._service._durable,
            }
        )
