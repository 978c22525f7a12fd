"""A service that other programs of the same user talk to: its control sockets, and what is behind them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

from twisted.internet.error import ReactorNotRunning

from mysocket._version import __version__
from mysocket.carriers.acceptor import Acceptor
from mysocket.control import places
from mysocket.control.outcomes import Outcomes
from mysocket.control.places import Listening
from mysocket.control.protocol import Greeting, Line
from mysocket.control.server import ControlFactory
from mysocket.core.wire import Input
from mysocket.errors import MySocketError, NoControlSocket
from mysocket.services.linked import LinkService
from mysocket.services.own import OwnOutlet
from mysocket.services.state import Backlog, state
from mysocket.spool.disk import DiskSpool

#: Names of sockets in the run-time directory: the port, and so many random bytes in hexadecimal.
NAME_BYTES = 4
#: Seconds in which the disk has to tell what waits on it, for those who only want to know.
SURVEY_TIME = 2.0


class OwnStream:
    """The :class:`~mysocket.control.outcomes.Outgoing` of a service."""

    def __init__(self, service: LinkService, spool: DiskSpool | None) -> None:
        self.durable = spool is not None
        #: Nothing more is taken.
        self.closed = False
        self._outlet = outlet = OwnOutlet(service, spool)
        self.accept, self.mark = outlet.accept, outlet.mark

    @property
    def retired(self) -> int:
        return log.retired if (log := self._outlet.stream) is not None else 0

    @property
    def committed(self) -> int:
        return log.committed if (log := self._outlet.stream) is not None else 0

    @property
    def end(self) -> int:
        return log.end if (log := self._outlet.stream) is not None else 0

    @property
    def room(self) -> int:
        log = self._outlet.stream
        return 0 if self.closed or log is None or log.in_message or self._outlet.closed else self._outlet.room

    def unmark(self, names: Collection[str]) -> None:
        self._outlet.unmark(*names)


class ServiceDesk:
    """The :class:`~mysocket.control.questions.Desk` of a service, and its :class:`~mysocket.services.linked.Reception`.

    :param random_bytes: ``os.urandom``.
    """

    def __init__(self, service: LinkService, spool: DiskSpool | None, random_bytes: Callable[[int], bytes]) -> None:
        self.feed = service.feed
        self.max_message = service.settings.max_message
        self.since = time.time()
        self._service = service
        self._spool = spool
        self._random = random_bytes
        self._own = OwnStream(service, spool)
        self.outcomes = Outcomes(self._own, spool.bookmarks if spool is not None else {}, time.time)
        self.factory = ControlFactory(self, service.reactor)
        service.on_progress = self.factory.progress
        self._listening: list[Listening] = []
        self._acceptors: list[Acceptor] = []

    @property
    def no_input(self) -> str | None:
        if self._service.node.character.input is Input.NONE:
            return "this service only receives (--recv-only): nothing can be handed to it"
        link = self._service.own_link
        if link is not None and link.sending.broken:
            return "this service, or its peer, has lost its state (its log has the positions): nothing can be delivered"
        if link is not None and link.sending.ended:
            return "the input of this service has ended: nothing more can be handed to it. It leaves when all is delivered"
        return None

    @property
    def no_files(self) -> str | None:
        link = self._service.own_link
        if link is None or not link.linked or link.peer is None or link.peer.files:
            return None
        why = "takes no files: it was started without --download-dir. Start it with one, then send the file again"
        return f"{link.peer_text} {why}"

    @property
    def greeting(self) -> Greeting:
        settings, ports = self._service.settings, self._service.port_numbers
        port: int | str | None = ports[0] if ports else settings.port
        if isinstance(port, str) and port.isdecimal():
            port = int(port)
        spool = os.path.realpath(self._spool.path) if self._spool is not None else None
        inbox = self._spool is not None and self._spool.inbox is not None
        return Greeting(__version__, os.getpid(), self._service.node.id.hex(), port, settings.peer, spool, inbox)

    # Reception ------------------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Listen in the spool, and in the run-time directory."""
        problems: list[MySocketError] = []
        tries: list[Callable[[], Listening]] = [self._listen_at_run_time]
        if self._spool is not None:
            tries.insert(0, partial(self._listen_in, self._spool))
        for listen in tries:
            try:
                listening = listen()
            except MySocketError as problem:
                problems.append(problem)
            else:
                self._listening.append(listening)
                acceptor = Acceptor(self._service.reactor, listening.socket, self.factory)
                self._acceptors.append(acceptor)
                acceptor.start()
        for one in problems:
            # Messages go on without: nobody who can write to a directory of ours, or could make it before us, is to stop them.
            self._service.watch.voice.complain(str(one))

    @staticmethod
    def _listen_in(spool: DiskSpool) -> Listening:
        try:
            return places.listen(spool.directory.fd, spool.path, places.IN_SPOOL, held=True)
        except places.Unusable as problem:
            raise NoControlSocket(f"{spool.path}: {problem}") from None

    def _listen_at_run_time(self) -> Listening:
        settings = self._service.settings
        port = settings.port if settings.port is not None and settings.port.isdecimal() else "service"
        return places.listen_at_run_time(f"{port if settings.port is not None else 'dial'}-{self._random(NAME_BYTES).hex()}")

    def close(self) -> None:
        self.outcomes.close()
        self._own.closed = True

    def leave(self) -> None:
        for acceptor in self._acceptors:
            acceptor.stop()
        for listening in self._listening:
            listening.remove()
        self._acceptors, self._listening = [], []
        self.factory.close()

    # Questions ------------------------------------------------------------------------------------------------------------------

    def status(self, done: Callable[[Line], None]) -> None:
        waiting = [done]

        def surveyed(messages: int | None, oldest: float | None) -> None:
            if waiting:
                waiting.pop()(state(self._service, self.greeting, self.since, Backlog(messages, oldest), self.factory.pid_of))
                if patience.active():
                    patience.cancel()

        # A disk that hangs is no reason to say nothing.
        patience = self._service.reactor.callLater(SURVEY_TIME, surveyed, None, None)
        if self._spool is not None:
            self._spool.survey(surveyed)
        else:
            log = self._service.own_stream
            surveyed(log.messages() if log is not None else 0, None)

    def stop(self) -> None:
        # As SIGTERM does; once the answer is on its way.
        self._service.reactor.callLater(0, self._stop)

    def _stop(self) -> None:
        with suppress(ReactorNotRunning):
            self._service.reactor.stop()
