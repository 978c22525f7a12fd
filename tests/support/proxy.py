"""A TCP proxy that reads along, and cuts with a reset where a test wants it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from mysocket.core.reader import FrameReader
from mysocket.core.wire import Frame


class CuttingProxy:
    """Joins everybody who connects to `port` with 127.0.0.1:`target`.

    :param cut_before: asked for each frame that comes from the target's side, before its bytes are passed on; true: both
        connections are reset instead, and the frame is lost.
    """

    def __init__(self, target: int, cut_before: Callable[[Frame], bool]) -> None:
        self.cuts = 0
        self.refuse = False
        self._target = target
        self._cut_before = cut_before
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuse:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            for run in (lambda c=client, s=server: self._there(c, s), lambda c=client, s=server: self._back(c, s)):
                thread = threading.Thread(target=run, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _there(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        reader = FrameReader()
        try:
            while data := server.recv(65536):
                frames: list[Frame] = []
                reader.feed(data, frames)
                if any(self._cut_before(frame) for frame in frames):
                    self.cuts += 1
                    for end in (client, server):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        end.shutdown(socket.SHUT_RD)
                        end.close()
                    return
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._open:
            end.close()
