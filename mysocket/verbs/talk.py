"""A person at a running service: ``mysocket attach`` without ``--recv-only``. What is typed is sent, what arrives is shown.

Rules

1. A line that was read is sent, whatever becomes of the connection: it is one request with one id for the whole session, said
   again when the service is back. The session is not left before all of it is accepted, but by a signal.
2. EXIT and Ctrl-D end the session and never the service. EXIT is a word of a terminal's; in a pipe it is a line like others.
3. What waits to be accepted is bounded: more is read when the service takes more.
"""

from __future__ import annotations

import os
from contextlib import suppress

from mysocket.control.client import Connection, again, describe
from mysocket.control.protocol import WINDOW
from mysocket.control.request import Forgotten, Request
from mysocket.core.batch import LineCutter
from mysocket.ends.progress import size_text
from mysocket.errors import OK, MySocketError, OutcomeUnknown, ServiceGone, ServiceSays
from mysocket.verbs.inbox import Inbox, passed_text
from mysocket.verbs.rows import Form
from mysocket.verbs.waiting import IN, OUT, Signals, Stdout, Stopped, say

STDIN = 0
#: Bytes that are read at once.
READ = 64 * 1024
EXIT = b"EXIT"
LEAVING = "Type EXIT or Ctrl-D to leave; the service goes on."
#: Seconds that one attempt to find the service again may take, and between two of them.
ATTEMPT, PAUSE = 0.3, 0.2


class Typed:
    """Lines of stdin, cut into pieces.

    :ivar over: there is no more.
    """

    def __init__(self, request: Request) -> None:
        self.terminal = os.isatty(STDIN)
        self.over = False
        self._request = request
        self._cutter = LineCutter()
        self._line = b""

    def read(self) -> None:
        """Read once; stdin is ready."""
        try:
            data = os.read(STDIN, READ)
        except OSError:
            # The terminal was hung up.
            data = b""
        over = not data
        if self.terminal:
            data, over = self._up_to_exit(data, over)
        if data:
            self._request.give(self._cutter.feed(data))
        if over:
            self.over = True
            self._request.give(self._cutter.finish())
            self._request.finish()

    def _up_to_exit(self, data: bytes, over: bool) -> tuple[bytes, bool]:
        """What of it is messages, and whether the input is over with it. Half a line waits for its other half."""
        *lines, rest = (self._line + data).split(b"\n")
        self._line = b""
        if EXIT in lines:
            lines, rest, over = lines[: lines.index(EXIT)], b"", True
        if not over:
            self._line, rest = rest, b""
        return b"".join(line + b"\n" for line in lines) + rest, over


class Unmade(Connection):
    """Stands for one more connection to the service of ``other``, until :func:`again` makes it."""

    def __init__(self, other: Connection) -> None:
        self.greeting, self.path, self.pid = other.greeting, other.path, other.pid

    def close(self) -> None:
        """There is none."""


class Sender:
    """Says a request, on a connection that is made when there is something to say."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._connection: Connection | None = None
        self._confirmed = False

    @property
    def waiting(self) -> int:
        """Bytes that are not accepted yet."""
        return self._request.given - self._request.accepted

    @property
    def done(self) -> bool:
        """There is nothing more to be said or heard."""
        return self._request.complete and (self._request.given == 0 or self._confirmed)

    def wanted(self) -> dict[int, int]:
        """What a wait is to hear of."""
        connection = self._connection
        return {} if connection is None else {connection.fileno(): IN | (OUT if connection.unsaid else 0)}

    def pump(self, other: Connection) -> None:
        """Say and hear what can be.

        :param other: a connection to the same service.
        :raises MySocketError: what ended the connection.
        """
        request = self._request
        if self.done or not request.given:
            return
        if self._connection is None:
            try:
                self._connection = again(Unmade(other), ATTEMPT)
            except TimeoutError:
                raise ServiceGone("it lets nobody in", pid=other.pid) from None
            self._connection.put(request.begin())
        try:
            for line in self._connection.take():
                request.hear(line)
        except Forgotten as lost:
            text = f"{size_text(lost.before - lost.now)} that were typed here and accepted may be lost"
            raise OutcomeUnknown(text, pid=self._connection.pid) from None
        self._connection.flush()
        for line in request.lines():
            self._connection.put(line)
        if request.is_accepted:
            self._confirmed = True
            self._connection.put({"confirm": True})

    def lose(self) -> None:
        """The service has gone; what it had said before still counts."""
        if self._connection is not None:
            with suppress(MySocketError, Forgotten):
                for line in self._connection.take():
                    self._request.hear(line)
            self._connection.close()
            self._connection = None


def talk(connection: Connection, inbox: Inbox, form: Form, stdout: Stdout, signals: Signals) -> int:
    """The session; returns the exit status.

    :raises MySocketError: the service ends it, or is no more.
    """
    request = Request(os.urandom(16))
    session = Session(connection, inbox, form, stdout, Typed(request), Sender(request))
    try:
        while not session.over:
            session.step(signals)
        return OK
    except Stopped as signal:
        session.tell_waiting()
        return signal.status
    except MySocketError:
        session.tell_waiting()
        raise
    finally:
        session.close()


class Session:
    """One person, one service, over its restarts."""

    def __init__(self, connection: Connection, inbox: Inbox, form: Form, stdout: Stdout, typed: Typed, sender: Sender) -> None:
        self.sender = sender
        self._connection = connection
        self._inbox = inbox
        self._form = form
        self._stdout = stdout
        self._typed = typed
        self._attached = False
        self._gone = False
        self._greeted = False
        self._more = False

    @property
    def over(self) -> bool:
        """All that was typed is accepted, and no more comes."""
        if self._gone:
            # Nobody is there to be told that it was all.
            return self._typed.over and not self.sender.waiting
        return self.sender.done and not self._more

    def step(self, signals: Signals) -> None:
        """Wait, and do what there is to do."""
        wanted = dict(self._stdout.watched)
        if not self._typed.over and self.sender.waiting < WINDOW:
            wanted[STDIN] = IN
        timeout: float | None = PAUSE
        if not self._gone:
            wanted |= {**self.sender.wanted(), **(self._inbox.wanted() if self._attached else {})}
            timeout = 0 if self._more or not self._attached else None
        ready = signals.wait(wanted, timeout)
        self._stdout.check(ready)
        if STDIN in ready and STDIN in wanted:
            self._read()
        if self._gone:
            with suppress(TimeoutError, InterruptedError):
                self._connection = again(self._connection, ATTEMPT, wake=signals.fileno())
                self._gone = False
                say(f"the service is back (process {self._connection.pid})")
        if not self._gone:
            try:
                self._pump()
            except ServiceGone as problem:
                self._lose(problem)

    def _read(self) -> None:
        self._typed.read()
        if self._typed.over and self._gone and self.sender.waiting:
            say("waiting for the service to take what was typed; Ctrl-C leaves without")

    def _pump(self) -> None:
        if not self._attached:
            self._inbox.attach(self._connection)
            self._attached = True
        self._show()
        self.sender.pump(self._connection)

    def _show(self) -> None:
        try:
            self._more = self._inbox.pump(self._form, self._stdout)
        except ServiceSays as problem:
            if not self._inbox.is_view or self._inbox.kept is not None:
                raise
            # A service that only sends (--send-only).
            self._inbox.forgo()
            say(f"{problem} What is typed here is sent all the same.")
            self._greet(0)
        if self._inbox.kept is not None:
            self._greet(self._inbox.kept)
        if self._inbox.passed:
            say(passed_text(self._inbox))

    def tell_waiting(self) -> None:
        """Say what is given up."""
        if self.sender.waiting:
            say(f"{size_text(self.sender.waiting)} that were typed were not accepted yet, and may not be sent")

    def _lose(self, problem: ServiceGone) -> None:
        self.sender.lose()
        self._attached = self._more = False
        self._gone = True
        say(f"{problem} Waiting for it to come back; what you type is kept here and sent then.")

    def _greet(self, kept: int) -> None:
        greeted, self._greeted = self._greeted, True
        if self._typed.terminal and not greeted:
            say(f"attached to {describe(self._connection)}")
            if kept and self._inbox.is_view:
                say(f"{size_text(kept)} are kept that came before and are not shown; --from oldest shows them")
            say(LEAVING)

    def close(self) -> None:
        """End the connections."""
        self.sender.lose()
        self._inbox.leave()
        self._connection.close()
