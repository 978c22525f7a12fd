"""Sends an input to a service: moves it from its descriptor into a request, and the request to whoever answers for the service.

Rules

1. A connection that is lost is made anew, and the request asked again by its id. An error the service says is final.
2. The time limit counts while the service keeps us waiting, and from the beginning again whenever it has accepted more.
3. Whoever gives up says ``withdraw`` and listens for a moment: the answer tells what was accepted. If that is all, all is well.
4. A signal is noticed where we wait, nowhere else: neither a line nor what is known of the request is ever left half done.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from mysocket.control.client import Connection, again
from mysocket.control.places import Place
from mysocket.control.protocol import Malformed
from mysocket.control.request import Forgotten, Request
from mysocket.core.batch import MAX_PAYLOAD, Piece
from mysocket.errors import INTERRUPTED, REFUSED, TIME_LIMIT, MySocketError, OutcomeUnknown, ServiceGone, ServiceSays, Unsent

#: Seconds to listen for the answer to a withdrawal.
LAST_WORD = 1.0
#: Seconds to wait for a service that has gone, unless there is a time limit.
REUNION = 30.0
#: A connection that is lost again within so many seconds is a reason to wait for some, and none to say so once more.
SHORT, PAUSE = 1.0, 0.2
#: Seconds after which the user is told that the service takes nothing.
SILENCE = 5.0


class Input(Protocol):
    """Where pieces come from."""

    @property
    def ended(self) -> bool:
        """There are no more."""

    def fileno(self) -> int:
        """A descriptor that tells when there are some; not asked for when the input has ended."""

    def read(self) -> list[Piece]:
        """Those that are there now.

        :raises MySocketError: it cannot be read.
        """


class Transfers(Input, Protocol):
    """An input of files: what was said of one is not left without a last word.

    :ivar alone: it is one file, so that who refuses it has accepted nothing.
    """

    alone: bool

    def cancel(self, why: str, dropped: Iterable[Piece]) -> list[Piece]:
        """There are no more: what is to be said of what will not come, where those pieces were given and not said."""


class Interrupted(Exception):
    """The user wants to leave."""


class Sender:
    """Sends one request; :meth:`run` it once.

    :param wait: seconds that the service may keep us waiting; None: for ever.
    :param delivered: wait until the peer has acknowledged it.
    :param wake: a descriptor that is readable when the user wants to leave.
    :param tell: hears what a patient user should know.
    :param before: bytes of the input that were accepted elsewhere.
    :param places: run-time directories, instead of the user's.
    :param files: the source, if that is files.
    :param moved: hears how many bytes are accepted.
    """

    def __init__(
        self,
        connection: Connection,
        request: Request,
        source: Input,
        *,
        wait: float | None = None,
        delivered: bool = False,
        wake: int | None = None,
        tell: Callable[[str], None] = lambda text: None,
        before: int = 0,
        places: list[Place] | None = None,
        files: Transfers | None = None,
        moved: Callable[[int], None] = lambda accepted: None,
    ) -> None:
        self.connection = connection
        self._request = request
        self._source = source
        self._wait = wait
        self._delivered = delivered
        self._wake = wake
        self._tell = tell
        self._before = before
        self._places = places
        self._files = files
        self._moved = moved
        self._begun = self._asked = False  # on this connection
        self._stall_told = False
        self._over = self._cancelling = False
        self._back = float("-inf")  # when the service was found again
        self._deadline: float | None = None

    def run(self) -> None:
        """Send all of it.

        :raises MySocketError: what came between, and how much is accepted.
        """
        request = self._request
        try:
            self._progress()
            while not (self._over or (request.delivered if self._delivered else request.is_accepted)):
                self._step()
        except TimeoutError:
            self._withdraw("the sender has given up")
            if not request.is_safe or self._delivered:
                what = "acknowledged by the peer" if request.is_safe else "accepted"
                raise self._failed(f"Not {what} within {self._wait:g} s (-w).", TIME_LIMIT) from None
        except Interrupted:
            self._withdraw("the sender was interrupted")
            raise self._failed("Interrupted.", INTERRUPTED) from None
        except (ServiceGone, ServiceSays, Malformed, OutcomeUnknown) as problem:
            lost, refused = isinstance(problem, OutcomeUnknown), problem.status == REFUSED
            raise self._failed(str(problem), problem.status, lost=lost, refused=refused) from None
        except Forgotten as problem:
            why = (
                f"The service has lost what it had accepted: it knows of {problem.now} bytes, and had accepted {problem.before}."
            )
            raise self._failed(why, ServiceGone.status) from None
        except MySocketError as problem:  # of the input
            self._withdraw(problem.text)
            raise self._failed(str(problem), problem.status) from None
        self._confirm()

    def _step(self) -> None:
        """Say what may be said, wait, and hear what there is."""
        try:
            if not self._begun:
                self._begun, self._asked = True, False
                self.connection.put(self._request.begin())
            self._talk()
        except ServiceGone as lost:
            self._come_back(lost)

    def _talk(self) -> None:
        request, connection, source = self._request, self.connection, self._source
        for line in request.lines():
            connection.put(line)
        if self._delivered and request.is_accepted and not self._asked:
            self._asked = True
            connection.put({"deliver": True})
        wanted = not source.ended and request.unsaid < MAX_PAYLOAD
        # One that waits for our input has nothing to answer.
        idle = not source.ended and request.is_idle and not connection.unsaid
        stalls = not (wanted or idle or request.is_safe or self._stall_told)
        ready = self._poll(source.fileno() if wanted else None, None if idle else self._deadline, SILENCE if stalls else None)
        if not ready:
            self._stall_told = True
            self._tell("the service takes no more now: it has no room, or nobody has ever connected to it; waiting")
        if self._wake is not None and self._wake in ready:
            raise Interrupted
        if wanted and source.fileno() in ready:
            request.give(source.read())
            if idle:
                self._progress()
        if source.ended and not request.complete:
            request.finish()
        connection.flush()
        for line in connection.take():
            if request.hear(line):
                self._progress()

    def _poll(self, source: int | None, deadline: float | None, patience: float | None) -> set[int]:
        """What is ready; nothing, when ``patience`` (seconds) is over before the time limit."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN | (select.POLLOUT if self.connection.unsaid else 0))
        for fd in (source, self._wake):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        limits = [seconds for seconds in (left, patience) if seconds is not None]
        ready = {fd for fd, _ in poll.poll(min(limits) * 1000 if limits else None)}
        if not ready and left is not None and left == min(limits):
            raise TimeoutError
        return ready

    def _progress(self) -> None:
        self._moved(self._before + self._request.accepted)
        self._deadline = None if self._wait is None else time.monotonic() + self._wait

    def _come_back(self, lost: ServiceGone) -> None:
        """Find the service again, and ask what has become of the request.

        :raises ServiceSays: what it had said before it closed the connection.
        """
        request = self._request
        with suppress(ServiceGone):
            for line in self.connection.take():
                request.hear(line)
        if request.is_safe and not self._delivered:
            self._over = True
            return
        hasty = time.monotonic() < self._back + SHORT
        if not hasty:
            self._tell(f"{lost} Looking for it again")
        if request.is_idle:
            self._progress()
        wait = REUNION if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        try:
            if hasty:
                self._pause(min(PAUSE, wait))
            self.connection = again(self.connection, wait, places=self._places, wake=self._wake)
        except InterruptedError:
            raise Interrupted from None
        except TimeoutError:
            if self._deadline is not None:
                raise
            raise ServiceGone(f"and did not come back within {wait:g} s", pid=self.connection.pid) from None
        except ServiceGone:
            if request.is_known and not request.is_safe:
                raise
            raise OutcomeUnknown("what it had not delivered is lost", pid=self.connection.pid) from None
        self._begun = False
        self._back = time.monotonic()

    def _pause(self, seconds: float) -> None:
        poll = select.poll()
        if self._wake is not None:
            poll.register(self._wake, select.POLLIN)
        if poll.poll(seconds * 1000):
            raise InterruptedError

    # The end --------------------------------------------------------------------------------------------------------------------

    def _withdraw(self, why: str) -> None:
        """Give up, and hear how much was accepted all the same."""
        request, connection = self._request, self.connection
        if self._files is not None and not request.is_safe:
            self._cancel(self._files, why)
        deadline = time.monotonic() + LAST_WORD
        # Without an answer it is not known.
        with suppress(TimeoutError, MySocketError, Forgotten):
            if not request.is_safe:
                connection.put({"withdraw": True})
                while not request.withdrawn:
                    request.hear(connection.hear(max(0.0, deadline - time.monotonic())))

    def _cancel(self, files: Transfers, why: str) -> None:
        """Say that what was said of files will not go on; what was not said need not be."""
        request = self._request
        last = files.cancel(why, request.drop())
        if not last:
            return
        self._cancelling = True
        request.give(last)
        request.finish()
        self._deadline, self._wake = time.monotonic() + LAST_WORD, None
        with suppress(TimeoutError, MySocketError, Forgotten):
            while not request.is_accepted:
                self._talk()

    def _failed(self, why: str, status: int, *, lost: bool = False, refused: bool = False) -> Unsent:
        """Why not all of it was sent, and how much was."""
        request = self._request
        accepted = self._before + request.accepted
        if self._files is not None and (self._cancelling or not request.is_safe):
            text = self._left(accepted, refused)
        elif request.is_safe and lost:
            text = "All of it was accepted; whether the peer has it nobody knows"
        elif request.is_safe:
            text = "All of it is accepted, and the service goes on delivering it: do not send it again"
        elif request.is_known and accepted:
            text = f"Of the input {accepted} bytes are accepted; the rest can be given again (tail -c +{accepted + 1})"
        elif request.is_known:
            text = "Nothing of it is accepted"
        elif accepted:
            text = f"Of the input {accepted} bytes are accepted; whether more of it is nobody knows"
        else:
            text = "Whether it is accepted nobody knows"
        return Unsent(text, why=why, status=status)

    def _left(self, accepted: int, refused: bool) -> str:
        """What is left of files that are given up."""
        if self._cancelling and self._request.is_safe:
            return "The transfer is cancelled, and the other side will be told so; to send the file, begin anew"
        if refused and not accepted and self._files is not None and self._files.alone:
            return "Nothing of it is accepted"
        if not self._request.is_known:
            return f"Of the transfer {accepted} bytes are accepted; whether more of it is nobody knows"
        if accepted:
            return f"Of the transfer {accepted} bytes are accepted, and the rest will not come; to send the file, begin anew"
        return "Nothing of it is accepted"

    def _confirm(self) -> None:
        """The outcome is known; else the service would remember it for a week."""
        with suppress(TimeoutError, ServiceGone, Malformed):
            self.connection.say({"confirm": True}, LAST_WORD)
