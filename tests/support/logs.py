"""An application that writes a log which is rotated under it, and a collector of logs that appends whatever comes to it."""

from __future__ import annotations

import os
import random
import socket
import threading
from pathlib import Path


class Log:
    """Numbered lines, in writes that end anywhere.

    :param seed: of the lengths of lines and of writes.
    """

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.lines = 0
        self.whole = bytearray()
        self.rotations = 0
        self._chance = random.Random(seed)

    def write(self, count: int) -> None:
        """So many lines more."""
        numbers = range(self.lines, self.lines + count)
        text = b"".join(b"%08d %s\n" % (number, b"x" * self._chance.randrange(100)) for number in numbers)
        self.lines += count
        self.whole += text
        with self.path.open("ab", buffering=0) as file:
            while text:
                size = self._chance.randrange(1, 20_000)
                file.write(text[:size])
                text = text[size:]

    def rotate(self) -> None:
        """As logrotate does: app.log.1 becomes app.log.2, and so on, and app.log becomes app.log.1."""
        self.rotations += 1
        for number in range(self.rotations, 0, -1):
            before = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            os.rename(before, self.path.with_name(f"{self.path.name}.{number}"))


def first_times(data: bytes) -> bytes:
    """Whole lines in their order, those that came again left out."""
    found, seen = [], -1
    for line in data.splitlines(keepends=True):
        if line.endswith(b"\n") and int(line[:8]) > seen:
            found.append(line)
            seen = int(line[:8])
    return b"".join(found)


class LogCollector:
    """A plain server: what each connection brought, in the order in which they came."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.connections: list[bytearray] = []
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections.append(bytearray())
            self._open.append(connection)
            threading.Thread(target=self._read, args=(connection, self.connections[-1]), daemon=True).start()

    @staticmethod
    def _read(connection: socket.socket, into: bytearray) -> None:
        try:
            while data := connection.recv(1 << 18):
                into += data
        except OSError:
            pass  # it was reset

    def close(self) -> None:
        self._listening.close()
        for connection in self._open:
            connection.close()

    def data(self) -> bytes:
        """Everything, connection behind connection; half a line at the end of one is left out, for it comes again."""
        return b"".join(bytes(one)[: one.rfind(b"\n") + 1] for one in list(self.connections))
