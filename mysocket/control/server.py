"""The control socket of a service: who may talk, how much, and how long. What is asked and answered is in questions.py.

Rules

1. Only processes of our own user are listened to; the kernel says whose they are.
2. Whatever one client does ends its own connection at the worst: it is told why, and the others go on.
3. What a client asks for waits in its socket while it does not read the answers, or waits for one: nothing piles up here.
4. Long lines come in from a few clients at a time; the others wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.interfaces import IAddress, IDelayedCall, IHalfCloseableProtocol, IPushProducer, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mysocket.control.places import peer
from mysocket.control.protocol import Line, LineReader, Malformed, decode, encode, error_line
from mysocket.control.questions import Client, Desk, answer
from mysocket.control.taking import Floor, Taking
from mysocket.control.turns import Turns
from mysocket.control.viewing import Viewing
from mysocket.ends.rounds import Rounds
from mysocket.errors import FAILED, USAGE, MySocketError

#: Connections at a time; more are told so.
MAX_CLIENTS = 256
#: Seconds in which a client goes on with a message that it has begun, if others wait for it.
MESSAGE_TIME = 30.0
#: Seconds in which a client reads what it has asked for, but for the rows of the inbox: those it may take slowly.
READ_TIME = 60.0
#: Seconds that a client has for its first question.
QUESTION_TIME = 30.0
#: A line of more bytes than this is a long one; it has to end within so many seconds, and so many clients may be in one.
LONG_LINE, LINE_TIME, LONG_LINES = 64 * 1024, 30.0, 4
#: Clients for whom rows of the inbox are fetched at a time.
FETCHING = 4


class Due(NamedTuple):
    """Something that has to happen within so many seconds; with another ``at`` it is another thing.

    :param why: what did not, for the client; or nothing, for one that would not read it.
    :param for_others: it only has to while others wait for it.
    """

    seconds: float
    why: str
    at: int = 0
    for_others: bool = False


@implementer(IPushProducer, IHalfCloseableProtocol)
class ControlProtocol(Protocol):
    """One client."""

    factory: ControlFactory

    def __init__(self) -> None:
        self._reader = LineReader()
        self._busy = self._paused = self._stopped = self._ending = self._deaf = False
        self._asked = False
        self._due: Due | None = None
        self._timer: IDelayedCall | None = None
        self.taking: Taking | None = None
        self.viewing: Viewing | None = None
        self.pid = 0

    @property
    def house(self) -> ControlFactory:
        return self.factory

    # The connection -------------------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport: Any = self.transport
        transport.registerProducer(self, True)
        who = peer(transport.getHandle())
        self.pid = who.pid
        if who.uid != os.geteuid():
            self.end(f"this service belongs to user {os.geteuid()}, and takes nobody else's word (you are {who.uid})", USAGE)
        elif len(self.factory.clients) >= MAX_CLIENTS:
            self.end(f"{MAX_CLIENTS} other clients are connected; try again when some have gone")
        else:
            self.factory.clients.add(self)
            self.say(self.factory.desk.greeting.line())
            self.settle()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._ending = True
        self._expect(None)
        self.factory.clients.discard(self)
        self._leave()

    def readConnectionLost(self) -> None:
        """The client says no more. What it has asked for is still answered (nc -N)."""
        self._deaf = True
        self.settle()

    def writeConnectionLost(self) -> None:
        """The client hears no more."""
        transport: Any = self.transport
        transport.abortConnection()

    def _leave(self) -> None:
        self._reader = LineReader()
        self.factory.long_lines.leave(self)
        if self.taking is not None:
            taking, self.taking = self.taking, None
            self.factory.taken.pop(taking.id, None)
            taking.close()
        if self.viewing is not None:
            if self.viewing.name is not None:
                self.factory.attached.pop(self.viewing.name, None)
            self.viewing.close()
            self.viewing = None

    def end(self, text: str, status: int = FAILED) -> None:
        """Say why, and close the connection."""
        if not self._ending:
            self._ending = True
            self._leave()
            self.say(error_line(text, status))
            self._close()

    def let_go(self) -> None:
        """Close the connection; what was said before gets there."""
        self._ending = True
        self._leave()
        self._close()

    def _close(self) -> None:
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.loseConnection()
        # What is not read by then stays unread.
        self._expect(Due(READ_TIME, ""))

    def say(self, line: Line) -> None:
        transport: Any = self.transport
        transport.write(encode(line))

    # What has to come next ------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Read the client, or let it wait; and see that it does not keep others waiting. Called after everything that happens."""
        if self._ending:
            return
        if self._deaf and not self._busy and (self.taking is None or not self.taking.answers):
            self.let_go()
            return
        transport: Any = self.transport
        long = self._reader.held >= LONG_LINE
        # One that does not read is not read: or its answers would pile up.
        stopped = not self._hears or self.taking is not None and not self.taking.is_welcome(much=long)
        if stopped or not long:
            self.factory.long_lines.leave(self)
        else:
            stopped = not self.factory.long_lines.ask(self)
        if stopped != self._stopped:
            self._stopped = stopped
            if stopped:
                transport.pauseProducing()
            else:
                transport.resumeProducing()
        self._expect(self._next())

    def _next(self) -> Due | None:
        if self._paused and self.viewing is None:
            return Due(READ_TIME, "")
        if not self._asked:
            return Due(QUESTION_TIME, "nothing was asked")
        if self.factory.long_lines.has(self):
            return Due(LINE_TIME, "a long line that had begun did not end")
        if self.taking is not None and self.taking.wants_more and not self._stopped:
            return Due(MESSAGE_TIME, "a message that had begun did not go on", self.taking.received, for_others=True)
        return None

    def _expect(self, due: Due | None) -> None:
        """What has to happen, or the connection ends; None: nothing has to."""
        if due == self._due:
            return
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._due, self._timer = due, None
        if due is not None:
            self._timer = self.factory.clock.callLater(due.seconds, self._too_late, due)

    def _too_late(self, due: Due) -> None:
        self._timer = None
        transport: Any = self.transport
        if due.for_others and not self.factory.floor.is_crowded:
            self._due = None
            self.settle()
        elif due.why:
            self.end(f"{due.why} for {due.seconds:g} s")
        else:
            transport.abortConnection()

    def pauseProducing(self) -> None:
        """The client does not read."""
        if self._paused or self._ending:
            return
        self._paused = True
        if self.viewing is not None:
            self.viewing.pause()
        self.settle()

    def resumeProducing(self) -> None:
        self._paused = False
        if self.viewing is not None:
            self.viewing.resume()
        self._answer()

    def stopProducing(self) -> None:
        """The connection is gone; :meth:`connectionLost` comes."""

    def granted(self) -> None:
        """Its long line may go on."""
        self.settle()

    # Questions ------------------------------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._ending:
            return
        try:
            self._reader.add(data)
        except Malformed as error:
            self.end(str(error))
            return
        self._answer()

    def _answer(self) -> None:
        def hear() -> None:
            while self._hears and (line := self._reader.take()) is not None:
                self._hear(decode(line))
            if self.taking is not None:
                self.taking.go_on()

        self._try(hear)

    @property
    def _hears(self) -> bool:
        """Is the next line to be heard now? A viewer says what it has read, whatever it has not."""
        if self._ending or self._busy or self._paused and self.viewing is None:
            return False
        return self.taking is None or self.taking.is_welcome(much=False)

    def _try(self, what: Callable[[], None]) -> None:
        """Do it; what fails ends this connection."""
        try:
            what()
        except MySocketError as error:
            self.end(str(error), error.status)
        self.settle()

    def go_on(self) -> None:
        """The own stream has come further, or has room."""
        self._answer()

    def tell(self, line: Line) -> None:
        """A request has come further."""
        self.say(line)
        self.settle()

    def _hear(self, line: Line) -> None:
        if self.taking is not None:
            self.taking.hear(line)
        elif self.viewing is not None:
            self.viewing.hear(line)
        else:
            self._asked = True
            answer(self, line)

    def later(self) -> Callable[[Line], None]:
        """The answer comes later; the next question waits for it."""
        self._busy = True

        def answered(line: Line) -> None:
            if not self._ending:
                self._busy = False
                self.say(line)
                self._answer()

        return answered


class ControlFactory(Factory):
    """The clients of a service."""

    noisy = False

    def __init__(self, desk: Desk, clock: IReactorTime) -> None:
        self.desk = desk
        self.clock = clock
        self.clients: set[ControlProtocol] = set()
        #: By the id of the request, and by the name of the consumer.
        self.taken: dict[bytes, Client] = {}
        self.attached: dict[str, Client] = {}
        #: To be called when the own stream has come further, or has room, or there is room for what clients bring.
        self.progress = Rounds(self._go_on)
        self.floor = Floor()
        self.floor.held.on_room = self.progress
        #: Who is in a long line.
        self.long_lines = Turns(LONG_LINES)
        #: For whom rows of the inbox are fetched.
        self.fetching = Turns(FETCHING)

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        client = ControlProtocol()
        client.factory = self
        return client

    def _go_on(self) -> None:
        for client in list(self.taken.values()):
            client.go_on()

    def pid_of(self, name: str) -> int | None:
        """The process that is attached as that consumer."""
        client = self.attached.get(name)
        return client.pid if client is not None else None

    def close(self) -> None:
        """Let everybody go: what is not answered yet, the next service that runs here answers."""
        for client in list(self.clients):
            client.let_go()
