"""The control socket of a service: who may talk, and which question goes where.

Rules

1. Only processes of our own user are listened to; the kernel says whose they are.
2. Whatever one client does ends its own connection at the worst: it is told why, and the others go on.
3. What a client asks for waits in its socket while it does not read the answers: nothing piles up here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

from twisted.internet.interfaces import IAddress, IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mysocket.control.outcomes import Outcomes
from mysocket.control.places import peer
from mysocket.control.protocol import (
    REQUEST_SIZE,
    Greeting,
    Line,
    LineReader,
    Malformed,
    check_name,
    encode,
    error_line,
    number,
)
from mysocket.control.taking import Floor, Taking
from mysocket.control.viewing import Viewing
from mysocket.errors import FAILED, USAGE, MySocketError
from mysocket.spool.inbox import DiskInbox, Feed

#: Connections at a time; more are told so.
MAX_CLIENTS = 256
#: Seconds in which a client goes on with a message that it has begun: others may wait for it.
MESSAGE_TIME = 30.0
#: Seconds in which a client reads what it has asked for, but for the rows of the inbox: those it may take slowly.
READ_TIME = 60.0
#: Seconds that a client has for its first question.
QUESTION_TIME = 30.0


class Refused(MySocketError):
    """{text}."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.exit_status = status


class Desk(Interface):
    """The service, as its clients see it."""

    #: None: it takes nothing from its clients to send.
    outcomes: Outcomes | None
    #: What comes in; None: it takes nothing from its peers.
    feed: Feed | None
    #: Bytes of the longest message.
    max_message: int

    @property
    def greeting(self) -> Greeting:
        """Who the service is."""

    def status(self, done: Callable[[Line], None]) -> None:
        """Find out how the service is."""

    def stop(self) -> None:
        """Leave."""


@implementer(IPushProducer)
class ControlProtocol(Protocol):
    """One client."""

    factory: ControlFactory

    def __init__(self) -> None:
        self._reader = LineReader()
        self._waiting: list[Line] = []  # questions behind one whose answer is not there yet
        self._busy = False
        self._paused = False
        self._timer: IDelayedCall | None = None
        self.taking: Taking | None = None
        self.viewing: Viewing | None = None
        self._pid = 0

    # The connection -------------------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.registerProducer(self, True)
        who = peer(transport.getHandle())
        self._pid = who.pid
        if who.uid != os.geteuid():
            self.end(f"this service belongs to user {os.geteuid()}, and takes nobody else's word (you are {who.uid})", USAGE)
        elif len(self.factory.clients) >= MAX_CLIENTS:
            self.end(f"{MAX_CLIENTS} other clients are connected; try again when some have gone")
        else:
            self.factory.clients.add(self)
            self._say(self.factory.desk.greeting.line())
            self._expect(QUESTION_TIME, "nothing was asked")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._expect(None)
        self.factory.clients.discard(self)
        self._leave()

    def _leave(self) -> None:
        if self.taking is not None:
            self.factory.taken.pop(self.taking.id, None)
            self.taking.close()
            self.taking = None
        if self.viewing is not None:
            if self.viewing.name is not None:
                self.factory.attached.pop(self.viewing.name, None)
            self.viewing.close()
            self.viewing = None

    def end(self, text: str, status: int = FAILED) -> None:
        """Say why, and close the connection."""
        transport: Any = self.transport
        self._leave()
        self._waiting = []
        if not transport.disconnecting:
            self._say(error_line(text, status))
            transport.unregisterProducer()
            transport.loseConnection()
            # What is not read by then stays unread.
            self._expect(READ_TIME, "")

    def let_go(self) -> None:
        """Close the connection; what was said before gets there."""
        transport: Any = self.transport
        self._leave()
        transport.unregisterProducer()
        transport.loseConnection()

    def _say(self, line: Line) -> None:
        transport: Any = self.transport
        transport.write(encode(line))

    def _expect(self, seconds: float | None, why: str = "") -> None:
        """Something has to happen within so many seconds, or the connection ends; None: nothing has to."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if seconds is not None:
            self._timer = self.factory.clock.callLater(seconds, self._too_late, seconds, why)

    def _too_late(self, seconds: float, why: str) -> None:
        self._timer = None
        transport: Any = self.transport
        if transport.disconnecting or self._paused:
            transport.abortConnection()
        else:
            self.end(f"{why} for {seconds:g} s")

    def pauseProducing(self) -> None:
        """The client does not read."""
        transport: Any = self.transport
        self._paused = True
        if self.viewing is not None:
            self.viewing.pause()
        else:
            # It is not read either: or its answers would pile up.
            transport.pauseProducing()
            self._expect(READ_TIME, "")

    def resumeProducing(self) -> None:
        transport: Any = self.transport
        self._paused = False
        if self.viewing is not None:
            self.viewing.resume()
        else:
            self._expect(None)
            transport.resumeProducing()
            self._answer()

    def stopProducing(self) -> None:
        """The connection is gone; :meth:`connectionLost` comes."""

    # Questions ------------------------------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        if transport.disconnecting:
            return
        try:
            self._waiting += self._reader.feed(data)
        except Malformed as error:
            self.end(str(error))
            return
        self._answer()

    def _answer(self) -> None:
        try:
            while self._waiting and not self._busy and not self._paused:
                self._hear(self._waiting.pop(0))
            if self.taking is not None:
                self.taking.go_on()
                self._expect(*((MESSAGE_TIME, "a message that had begun did not go on") if self.taking.in_message else (None,)))
        except Refused as error:
            self.end(error.text, error.exit_status)
        except MySocketError as error:
            self.end(str(error), error.status)

    def _hear(self, line: Line) -> None:
        if self.taking is not None:
            self.taking.hear(line)
        elif self.viewing is not None:
            self.viewing.hear(line)
        else:
            question = line.get("do")
            answer = QUESTIONS.get(question) if isinstance(question, str) else None
            if answer is None:
                raise Malformed("a question that is not known here")
            self._expect(None)
            answer(self, line)

    def _later(self) -> Callable[[Line], None]:
        """The answer comes later; the next question waits for it."""
        self._busy = True

        def answered(line: Line) -> None:
            transport: Any = self.transport
            if self in self.factory.clients and not transport.disconnecting:
                self._busy = False
                self._say(line)
                self._answer()

        return answered

    def _status(self, line: Line) -> None:
        answer = self._later()
        self.factory.desk.status(lambda found: answer({"status": found}))

    def _stop(self, line: Line) -> None:
        self._say({"stopping": True})
        self.factory.desk.stop()

    def _send(self, line: Line) -> None:
        id, outcomes = line.get("id"), self.factory.desk.outcomes
        try:
            key = bytes.fromhex(id) if isinstance(id, str) else b""
        except ValueError:
            key = b""
        if len(key) != REQUEST_SIZE:
            raise Malformed(f"a send without an id of {REQUEST_SIZE} bytes in hexadecimal")
        if outcomes is None:
            raise Refused("this service only receives (--recv-only); there is nobody to send to", USAGE)
        before = self.factory.taken.get(key)
        if before is not None:
            before.end("the request goes on on another connection")
        self.factory.taken[key] = self
        self.taking = Taking(key, outcomes, self.factory.floor, self.factory.desk.max_message, self._say)

    def _attach(self, line: Line) -> None:
        feed, name, begin = self.factory.desk.feed, line.get("as"), line.get("from")
        if begin not in (None, "oldest", "now") or not isinstance(name, str | None):
            raise Malformed("an attach with a name or a beginning that is none")
        if feed is None:
            raise Refused("this service only sends (--send-only): nothing comes in", USAGE)
        if name is None:
            position = feed.begin if begin == "oldest" else feed.end
        else:
            inbox, name = self._inbox(), _name(line)
            other = self.factory.attached.get(name)
            if other is not None:
                raise Refused(f"consumer {name} is attached already, by process {other._pid}; give another --as NAME")
            position = inbox.join(name, now=begin == "now").position
            self.factory.attached[name] = self
        self.viewing = Viewing(feed, name, position, self._say)
        about: Line = {"attached": name, "position": position, "begin": feed.begin, "end": feed.end}
        self._say(about | {"durable": isinstance(feed, DiskInbox)})
        self.viewing.go_on()

    def _ack(self, line: Line) -> None:
        inbox, name, position = self._inbox(), _name(line), number(line, "position")
        consumer = inbox.consumers.get(name)
        if consumer is None:
            raise Refused(f"there is no consumer {name} here{_known(inbox)}")
        if position > inbox.end:
            raise Refused(f"position {position} is behind the end of the inbox, {inbox.end}", USAGE)
        answer = self._later()
        if position <= consumer.position:
            inbox.acknowledge(name, position, lambda: answer({"acked": consumer.position}))
            return

        def checked(is_boundary: bool) -> None:
            if not is_boundary:
                self.end(f"position {position} is not where a message ends: give the position of one", USAGE)
            elif name not in inbox.consumers:
                self.end(f"consumer {name} was forgotten")
            else:
                inbox.acknowledge(name, position, lambda: answer({"acked": max(position, inbox.consumers[name].position)}))

        inbox.check(position, checked)

    def _forget(self, line: Line) -> None:
        inbox, name = self._inbox(), _name(line)
        if name not in inbox.consumers:
            raise Refused(f"there is no consumer {name} here{_known(inbox)}")
        attached = self.factory.attached.get(name)
        if attached is not None:
            attached.end(f"consumer {name} was forgotten")
        answer = self._later()
        inbox.forget(name, lambda: answer({"forgotten": name}))

    def _inbox(self) -> DiskInbox:
        feed = self.factory.desk.feed
        if not isinstance(feed, DiskInbox):
            why = "it was started without --spool" if self.factory.desk.greeting.spool is None else "it was started with --output"
            raise Refused(f"this service keeps no inbox: {why}. So it has no consumers", USAGE)
        return feed


def _name(line: Line) -> str:
    name = line.get("as")
    try:
        return check_name(name if isinstance(name, str) else "")
    except ValueError as problem:
        raise Refused(str(problem), USAGE) from None


def _known(inbox: DiskInbox) -> str:
    known = ", ".join(sorted(inbox.consumers)[:20])
    return f"; known are {known}" if known else "; there are none yet"


#: What can be asked.
QUESTIONS: dict[str, Callable[[ControlProtocol, Line], None]] = {
    "ack": ControlProtocol._ack,
    "attach": ControlProtocol._attach,
    "forget": ControlProtocol._forget,
    "send": ControlProtocol._send,
    "status": ControlProtocol._status,
    "stop": ControlProtocol._stop,
}


class ControlFactory(Factory):
    """The clients of a service."""

    noisy = False

    def __init__(self, desk: Desk, clock: IReactorTime) -> None:
        self.desk = desk
        self.clock = clock
        self.clients: set[ControlProtocol] = set()
        #: By the id of the request, and by the name of the consumer.
        self.taken: dict[bytes, ControlProtocol] = {}
        self.attached: dict[str, ControlProtocol] = {}
        self.floor = Floor()

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        client = ControlProtocol()
        client.factory = self
        return client

    def progress(self) -> None:
        """The own stream has come further, or has room."""
        for client in list(self.taken.values()):
            if client.taking is not None:
                client.taking.go_on()

    def pid_of(self, name: str) -> int | None:
        """The process that is attached as that consumer."""
        client = self.attached.get(name)
        return client._pid if client is not None else None

    def close(self) -> None:
        """Let everybody go: what is not answered yet, the next service that runs here answers."""
        for client in list(self.clients):
            client.let_go()
