"""The client's side of the control socket: find the service, and talk with it. Blocks; needs nothing but the standard library.

Rules

1. A service is found by its spool, by its port, or because it is the only one that runs. No guess is made among several.
2. One that is found but says nothing is a service all the same: it is waited for, :data:`PATIENCE` seconds, and then named.
3. What was said is never lost in the middle of a line: what the system did not take at once waits in the connection.
4. While we wait to speak we listen, within bounds: two that only speak would wait for each other for ever.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Self

from mysocket.control.places import IN_SPOOL, Place, Unusable, connect, entered, names, peer, run_time_places
from mysocket.control.protocol import VERSION, Greeting, Line, LineReader, Malformed, encode
from mysocket.errors import FAILED, NoService, OtherControl, ServiceGone, ServiceSays, SeveralServices

#: Seconds in which a service has to greet.
PATIENCE = 5.0
#: Bytes that are read at once, and lines that are read ahead while we wait to speak.
READ = 256 * 1024
AHEAD = 256
#: Seconds between two looks for a service that has gone.
PAUSE = 0.1


class Connection:
    """A connection to a service, from its greeting on. A context manager: it is closed at the end.

    For a loop of one's own: :meth:`fileno` is readable when :meth:`take` has something to do, and :attr:`unsaid` tells whether
    to wait until it is writable, and call :meth:`flush`.

    :ivar greeting: who the service is.
    :ivar path: where its socket is.
    :ivar pid: its process, as the kernel says; 0 if it cannot be seen from here.
    """

    greeting: Greeting

    def __init__(self, connection: socket.socket, path: str) -> None:
        self.path = path
        self.pid = peer(connection).pid
        self._socket = connection
        self._reader = LineReader()
        self._heard: deque[Line] = deque()
        self._out = bytearray()
        self._gone: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection. May be called again."""
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    # Blocking -------------------------------------------------------------------------------------------------------------------

    def say(self, line: Line, timeout: float | None = None) -> None:
        """Say a line; returns when the system has it.

        :raises ServiceGone: the connection is lost. What the service has said before can still be heard.
        :raises TimeoutError: the service has not read for ``timeout`` seconds; the rest of the line is said with the next one.
        """
        self.put(line)
        while self.unsaid:
            self._wait(select.POLLIN if len(self._heard) < AHEAD else 0, timeout)
            self._fill(AHEAD)
            self.flush()

    def hear(self, timeout: float | None = None) -> Line:
        """The next line.

        :param timeout: seconds until :class:`TimeoutError`; 0: only what has come already.
        :raises ServiceSays: it is an error.
        :raises ServiceGone: there is none, and the connection is lost.
        :raises Malformed: it is no line.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._fill(1)
            if self._heard:
                return self._checked(self._heard.popleft())
            if self._gone is not None:
                raise self._gone
            if self._out:
                with suppress(ServiceGone):
                    self.flush()
            self._wait(select.POLLIN, None if deadline is None else max(0.0, deadline - time.monotonic()))

    def _wait(self, events: int, timeout: float | None) -> None:
        poll = select.poll()
        poll.register(self._socket, events | (select.POLLOUT if self._out else 0))
        if not poll.poll(None if timeout is None else timeout * 1000):
            raise TimeoutError("the service has not answered in time")

    # Not blocking ---------------------------------------------------------------------------------------------------------------

    @property
    def unsaid(self) -> bool:
        """Something waits to be said."""
        return bool(self._out)

    def put(self, line: Line) -> None:
        """Say a line as far as that is possible now; the rest is for :meth:`flush`. Errors as for :meth:`say`."""
        self._out += encode(line)
        self.flush()

    def flush(self) -> None:
        """Say what waits to be said, as far as that is possible now."""
        while self._out:
            if self._gone is not None:
                self._out.clear()
                raise self._gone
            try:
                sent = self._socket.send(self._out, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError as problem:
                self._out.clear()
                # The service may have said why before it closed.
                raise self._lost(problem.strerror or str(problem)) from None
            del self._out[:sent]

    def take(self) -> Iterator[Line]:
        """The lines that have come. When there are no more, and the connection is lost, errors as for :meth:`hear`."""
        while True:
            try:
                yield self.hear(0)
            except TimeoutError:
                return

    def _fill(self, most: int) -> None:
        """Read what has come, until ``most`` lines wait to be heard."""
        while self._gone is None and len(self._heard) < most:
            try:
                data = self._socket.recv(READ)
                if not data:
                    self._gone = self._lost("without a word")
                    return
                self._heard.extend(self._reader.feed(data))
            except BlockingIOError:
                return
            except OSError as problem:
                self._gone = self._lost(problem.strerror or str(problem))
            except Malformed as problem:
                self._gone = problem

    def _lost(self, how: str) -> ServiceGone:
        return ServiceGone(how, pid=self.pid)

    def _checked(self, line: Line) -> Line:
        text, status = line.get("error"), line.get("status")
        if not isinstance(text, str):
            return line
        known = isinstance(status, int) and not isinstance(status, bool) and 0 < status < 256
        raise ServiceSays(_printable(text), pid=self.pid, status=status if known and isinstance(status, int) else FAILED)

    # The greeting ---------------------------------------------------------------------------------------------------------------

    def greet(self, line: Line) -> None:
        """The first line.

        :raises OtherControl: the service speaks another version.
        :raises Malformed: it is no greeting.
        """
        spoken = line.get("mysocket")
        if isinstance(spoken, int) and spoken != VERSION:
            who = f"process {self.pid}, MySocket {_printable(str(line.get('version', '?')), 32)}"
            raise OtherControl(who, where=self.path, theirs=spoken, ours=VERSION)
        self.greeting = Greeting.read(line)


def _printable(text: str, limit: int = 1024) -> str:
    if text.isascii() and text.isprintable() and len(text) <= limit:
        return text
    from mysocket.ends.escape import one_line

    return one_line(text, limit)


# Finding ------------------------------------------------------------------------------------------------------------------------


class _Search:
    """What a look at some places has found, and what it has not."""

    def __init__(self) -> None:
        self.undo = ExitStack()
        self.found: list[Connection] = []
        #: Places, and why nothing was found there.
        self.told: list[str] = []
        #: Connections that nobody greets on.
        self.silent: list[Connection] = []
        self.wrong: list[Exception] = []

    def look(self, place: Place, only: str | None = None) -> list[Connection]:
        """Connect to the sockets in a directory, or to the one of that name."""
        made: list[Connection] = []
        try:
            with entered(place) as directory:
                for name in names(directory) if only is None else [only]:
                    where = f"{place.path.rstrip('/')}/{name}"
                    try:
                        connection = self.undo.enter_context(Connection(connect(directory, name), where))
                    except Unusable as problem:
                        self.told.append(f"{where}: {problem}")
                    else:
                        made.append(connection)
                if only is None and not made:
                    self.told.append(f"{place.path}: no service listens there")
        except Unusable as problem:
            self.told.append(f"{place.path}: {problem}")
        return made

    def greet(self, waiting: list[Connection], patience: float) -> None:
        """Hear the greetings, of all at the same time."""
        deadline = time.monotonic() + patience
        poll = select.poll()
        left = {connection.fileno(): connection for connection in waiting}
        for fd in left:
            poll.register(fd, select.POLLIN)
        while left:
            for fd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                connection = left[fd]
                try:
                    connection.greet(connection.hear(0))
                except TimeoutError:
                    continue  # half a line
                except ServiceGone:
                    self.told.append(f"{connection.path}: its service is just leaving")
                except Malformed as problem:
                    self.told.append(f"{connection.path}: what answers is no service ({problem.text})")
                except (ServiceSays, OtherControl) as problem:
                    self.told.append(f"{connection.path}: {problem}")
                    self.wrong.append(problem)
                else:
                    self._keep(connection)
                poll.unregister(fd)
                del left[fd]
            if time.monotonic() >= deadline:
                break
        self.found.sort(key=waiting.index)
        self.silent = list(left.values())
        for connection in self.silent:
            self.told.append(f"{connection.path}: process {connection.pid} does not answer")

    def _keep(self, connection: Connection) -> None:
        """One that listens in two places is one."""
        one = (connection.greeting.pid, connection.greeting.node)
        if all((other.greeting.pid, other.greeting.node) != one for other in self.found):
            self.found.append(connection)

    def take(self, connection: Connection) -> Connection:
        """This one is it; the others are closed."""
        kept = self.undo.pop_all()
        for other in [*self.found, *self.silent]:
            if other is not connection:
                other.close()
        del kept
        return connection


def find(
    port: int | str | None = None,
    spool: str | None = None,
    *,
    patience: float = PATIENCE,
    places: list[Place] | None = None,
) -> Connection:
    """The service that is meant: the one with this spool, the one on this port, or the only one.

    :param port: as its ``--port`` says: a number, or an endpoint string.
    :param patience: seconds to wait for those that do not greet.
    :param places: run-time directories to look into, instead of the user's.
    :raises MySocketError: :class:`NoService`, :class:`SeveralServices`, or why the one that is meant cannot be talked to.
    """
    search = _Search()
    with search.undo:
        if spool is not None:
            made = search.look(Place(spool.rstrip("/") or "/", None), IN_SPOOL)
        else:
            if places is None:
                places = run_time_places(os.environ, os.geteuid())
            made = [connection for place in places for connection in search.look(place)]
        search.greet(made, patience)
        fitting = [one for one in search.found if port is None or one.greeting.port == port]
        # One that does not answer may be the one that is meant, unless something names that.
        unknown = search.silent if port is None else []
        if len(fitting) == 1 and not unknown:
            return search.take(fitting[0])
        if fitting:
            silent = [f"process {one.pid} at {one.path}, which does not answer" for one in unknown]
            raise SeveralServices("; ".join([*map(describe, fitting), *silent]))
        if len(search.wrong) == 1 and not search.found and not search.silent:
            raise search.wrong[0]
        others = [f"another one runs: {describe(one)}" for one in search.found]
        which = [f" on port {port}" * (port is not None), f" on the spool {spool}" * (spool is not None)]
        raise NoService("; ".join([*others, *search.told]), which="".join(which))


def describe(connection: Connection) -> str:
    """A service, for people who have to choose."""
    greeting = connection.greeting
    parts = [f"process {greeting.pid}"]
    parts += [f"--port {_printable(str(greeting.port))}"] if greeting.port is not None else []
    parts += [f"--peer {_printable(greeting.peer)}"] if greeting.peer is not None else []
    parts += [f"--spool {_printable(greeting.spool)}"] if greeting.spool is not None else []
    return " ".join(parts)


def again(
    connection: Connection, wait: float | None, *, places: list[Place] | None = None, wake: int | None = None
) -> Connection:
    """The service of a connection that was lost, when it is there again: with the same spool, or else the same node.

    :param wait: seconds until :class:`TimeoutError`; None: for ever.
    :param wake: a descriptor; when it is readable, :class:`InterruptedError` ends the search.
    :raises ServiceGone: it has ended and had no spool: then it is no more.
    """
    lost = connection.greeting
    deadline = None if wait is None else time.monotonic() + wait
    connection.close()
    pause = select.poll()
    if wake is not None:
        pause.register(wake, select.POLLIN)
    while True:
        alive = lost.spool is not None or _is_alive(connection.pid)
        left = PATIENCE if deadline is None else max(0.0, min(PATIENCE, deadline - time.monotonic()))
        found = _find_again(lost, left, places)
        if found is not None:
            return found
        if not alive:
            raise ServiceGone("its process has ended", pid=connection.pid)
        if deadline is not None and time.monotonic() + PAUSE > deadline:
            raise TimeoutError("the service has not come back in time")
        if pause.poll(PAUSE * 1000):
            raise InterruptedError


def _find_again(lost: Greeting, patience: float, places: list[Place] | None) -> Connection | None:
    search = _Search()
    with search.undo:
        made = search.look(Place(lost.spool, None), IN_SPOOL) if lost.spool is not None else []
        if not made:
            known = run_time_places(os.environ, os.geteuid()) if places is None else places
            made = [found for place in known for found in search.look(place)]
        search.greet(made, patience)
        for found in search.found:
            if found.greeting.node == lost.node or (lost.spool is not None and found.greeting.spool == lost.spool):
                return search.take(found)
    return None


def _is_alive(pid: int) -> bool:
    """Does the process run? One that cannot be seen from here may."""
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
