"""The file of a :class:`~mysocket.inputs.follow.Follower` as a :class:`~mysocket.ends.intake.Source`.

It is read in another thread, which may wait for a disk, one portion after the other as long as the intake is not full. At the end
of a file that is followed it is looked at every INTERVAL, and sooner where the kernel says that something has happened
(inotify); while the intake is full only the name is looked at, so that no file is missed that has it for a while.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from typing import Protocol as Interface

from twisted.internet.interfaces import IDelayedCall, IReactorTime, IReadDescriptor
from twisted.internet.main import CONNECTION_DONE
from twisted.python.failure import Failure
from zope.interface import implementer

from mysocket.ends.intake import Intake
from mysocket.ends.rounds import Rounds
from mysocket.ends.worker import Outcome
from mysocket.errors import MySocketError
from mysocket.inputs.follow import Follower, Found
from mysocket.inputs.place import Place
from mysocket.spool.interface import Bookmark

T = TypeVar("T")

#: Seconds between two looks at a file that is followed.
INTERVAL = 0.25
#: Bytes of a portion, which is committed together.
PORTION = 256 * 1024


class Hand(Interface):
    """Who reads: :class:`mysocket.ends.worker.Worker`. What it is given it does one after the other."""

    def do(self, work: Callable[[], T], done: Callable[[Outcome[T]], None]) -> None:
        """Do ``work`` elsewhere, then call ``done`` here."""


class FileSource:
    """See the module.

    :param name: of its bookmark (:func:`mysocket.inputs.follow.bookmark_name`).
    :param hand: a thread of its own: a server of files that does not answer holds it up.
    :param failed: called if it cannot be read any more; it is stopped then.
    :param reactor: where to listen to the kernel, or None: not at all.
    """

    connections = 0

    def __init__(
        self,
        follower: Follower,
        intake: Intake,
        *,
        name: str,
        clock: IReactorTime,
        hand: Hand,
        failed: Callable[[MySocketError], None],
        reactor: Any = None,
    ) -> None:
        self._follower = follower
        self._intake = intake
        self._name = name
        self._clock = clock
        self._hand = hand
        self._failed = failed
        self._reactor = reactor
        self._alarm: Alarm | None = None
        self._call: IDelayedCall | None = None
        self._asked = False  # the hand has something to do
        self._inode: int | None = None  # of the file whose place is known to the intake
        self._marking = False  # the intake has yet to keep a place, and gets nothing meanwhile
        self._go_on = Rounds(self._ask)
        self._started = self._stopped = False

    def start(self) -> None:
        """Begin to read, and go on as long as the intake is not full."""
        if self._started or self._stopped:
            return
        self._started = True
        self._intake.on_room = self._go_on
        if self._follower.follow and self._reactor is not None:
            self._alarm = open_alarm(self._reactor, self._follower.path, self._go_on)
        self._go_on()

    def stop(self) -> None:
        """Read no more, for good, and close what is open."""
        if self._stopped:
            return
        self._stopped = True
        self._rest()
        if self._alarm is not None:
            self._alarm.close()
        # It may be in use there at this moment: it is closed behind that.
        self._hand.do(self._follower.close, lambda outcome: None)

    def _ask(self) -> None:
        if self._asked or self._stopped:
            return
        self._rest()
        self._asked = True
        # Before the first line is read the place of the first file is kept: else a process that dies before it has given any
        # leaves no trace of it, and the next one would not look for it among the rotated ones.
        only_look = self._intake.full or self._marking or self._inode is None
        self._hand.do(self._follower.look if only_look else partial(self._follower.read, PORTION), self._answered)

    def _answered(self, outcome: Outcome[Found]) -> None:
        self._asked = False
        if self._stopped:
            return  # what was read is not given, so it is read again by the next process
        if outcome.error is not None:
            self.stop()
            self._failed(outcome.error)
            return
        found = outcome.value
        for text in found.losses:
            self._intake.complain(text)
        for text in found.news:
            self._intake.tell(text)
        self._take(found)
        if found.ended:
            self.stop()
            self._intake.end()
        elif found.pieces and not self._intake.full:
            self._go_on()
        else:
            self._wait()

    def _take(self, found: Found) -> None:
        if not found.place:
            return
        inode = Place.decode(found.place, self._follower.shown).inode
        fresh, self._inode = inode != self._inode, inode
        if found.pieces:
            self._intake.give(found.pieces, Bookmark(self._name, found.place))
        elif fresh and not self._marking:
            self._marking = True
            self._intake.mark(Bookmark(self._name, found.place), self._marked)

    def _marked(self) -> None:
        self._marking = False
        if not self._stopped:
            self._go_on()

    def _wait(self) -> None:
        if self._asked or self._stopped or self._go_on.again or not self._follower.follow:
            return  # a file that is not followed waits for room, or until its place is kept
        self._call = self._clock.callLater(INTERVAL, self._look)
        if self._alarm is not None and not self._intake.full:
            self._alarm.listen()

    def _look(self) -> None:
        self._call = None
        self._go_on()

    def _rest(self) -> None:
        """Wait for nothing."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        if self._alarm is not None:
            self._alarm.rest()


class _Gone(Exception):
    """The directory is watched no more."""


@implementer(IReadDescriptor)
class Alarm:
    """Calls when something happens to a name in its directory, by Twisted's inotify.

    It is a help, not a need: whatever goes wrong with it, it falls silent.

    :param call: called while it listens, at most once each time.
    """

    def __init__(self, reactor: Any, notify: Any, name: bytes, call: Callable[[], None]) -> None:
        self._reactor = reactor
        self._notify = notify
        self._name = name
        self._call = call
        self._listening = self._heard = False

    def listen(self) -> None:
        """Call once when something has happened, also before."""
        if not self._listening and self._notify is not None:
            self._listening = True
            self._reactor.addReader(self)

    def rest(self) -> None:
        """Do not call."""
        if self._listening:
            self._listening = False
            self._reactor.removeReader(self)

    def close(self) -> None:
        """Never call again."""
        self.rest()
        notify, self._notify = self._notify, None
        if notify is not None:
            notify.connectionLost(Failure(CONNECTION_DONE))

    def happened(self, ignored: object, path: Any, mask: int) -> None:
        """To be called by Twisted."""
        from twisted.internet.inotify import IN_DELETE_SELF

        if mask & IN_DELETE_SELF:
            raise _Gone  # Twisted would close a descriptor that is closed here
        self._heard = self._heard or path.basename() == self._name

    def doRead(self) -> None:
        try:
            self._notify.doRead()
        except Exception:
            self.close()
        if self._heard:
            self._heard = False
            self.rest()
            self._call()

    def connectionLost(self, reason: Failure = Failure(CONNECTION_DONE)) -> None:
        self.close()

    def fileno(self) -> int:
        return -1 if self._notify is None else int(self._notify.fileno())

    def logPrefix(self) -> str:
        return "input"


def open_alarm(reactor: Any, path: str, call: Callable[[], None]) -> Alarm | None:
    """An alarm for what happens to the file, or None where there is none to be had."""
    notify = None
    try:
        from twisted.internet import inotify
        from twisted.python.filepath import FilePath

        real = os.path.realpath(os.fsencode(path))
        notify = inotify.INotify(reactor)
        alarm = Alarm(reactor, notify, os.path.basename(real), call)
        mask = inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_MOVED_FROM
        notify.watch(FilePath(os.path.dirname(real)), mask, callbacks=[alarm.happened])
        return alarm
    except Exception:  # another system, no such directory, too many of them: then it is looked at now and then
        if notify is not None:
            notify.connectionLost(Failure(CONNECTION_DONE))
        return None
