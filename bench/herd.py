"""Thousands of senders whose hub goes away and comes back, on a clock that is turned.

The senders are real: each has a :func:`mysocket.carriers.build.dialler` of its own, with its back-off and its ClientService. The
network, the kernel and the hub are a model:

* A connection to a hub whose process is gone is refused, and the attempt has failed a moment later. To one whose machine is gone
  there is no answer: the SYN is sent again 1, 3, 7 and 15 s after the first, and after 30 s the attempt has failed.
* The kernel keeps BACKLOG connections that were not accepted. A SYN beyond is dropped, and sent again as above. If there is room
  no more for the last packet of TCP's handshake, the sender takes the connection for made, and that is sent again too.
* HELLO comes with that last packet, or shortly after.
* The hub's process works in turns, as Twisted's reactor does. In each it accepts as many connections as Twisted's Port would,
  asks the real StrangerLimit about each, and reads the HELLO of those that it took before. All of this costs CPU time, and while
  it works, others wait.

What senders have to say when they are back is no part of it.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost, ConnectionRefusedError, TimeoutError
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from bench.clock import HeapClock
from mysocket.carriers import admission, build
from mysocket.core.session import HANDSHAKE_TIME
from mysocket.errors import ClosedWithoutWord, MySocketError

#: CPU seconds of the hub for a connection that it accepts (and closes, if there are too many), and for the rest of a handshake
#: with a sender that it knows. `python -m bench.storm --real` measures them: 60 µs, and both together 500 µs and more.
ACCEPT = 60e-6
HANDSHAKE = 440e-6
#: When an unanswered SYN is sent again: Linux, seconds after the first. Newer kernels are quicker at first.
SYN_AGAIN = (1.0, 3.0, 7.0, 15.0)
#: The same for what is sent on a connection that the other kernel had no room for.
DATA_AGAIN = (0.2, 0.6, 1.4, 3.0, 6.2)
#: Seconds after which an attempt that is refused has failed: Twisted's HostnameEndpoint waits so long for one more address.
REFUSING = 0.3
#: Seconds until a sender's process has seen that it is connected, and says HELLO.
WAKE = 0.001
#: Seconds after which a silent hub counts as gone: between two of what is said at least every 15 s, and 45.
SILENCE = (30.0, 45.0)

Policy = Callable[[Callable[[], float]], Callable[[int], float]]


@dataclass(frozen=True)
class Outage:
    """The hub is away for so long. ``silent``: nobody answers for it; else connections are refused."""

    name: str
    seconds: float
    silent: bool = False


RESTART = Outage("restart, 2 s", 2.0)
POWER_CUT = Outage("power cut, 60 s", 60.0, silent=True)
#: A minute and a half of it is played: by then every back-off is at its longest, and nothing changes any more.
HOUR = Outage("stopped, 1 h", 90.0)


@dataclass(frozen=True)
class Scene:
    """What is played."""

    outage: Outage
    senders: int = 10_000
    round_trip: float = 0.001
    #: All come from one address.
    one_address: bool = False
    strangers: int = admission.MAX_STRANGERS
    strangers_per_address: int = admission.MAX_STRANGERS_PER_ADDRESS
    backlog: int = build.BACKLOG
    seed: int = 1
    #: Played at most so long after the hub is back.
    patience: float = 600.0


@dataclass
class Story:
    """What happened. Times count from when the hub is back; seconds are numbered from there too."""

    attempts: Counter[int] = field(default_factory=Counter)
    refused: int = 0
    unanswered: int = 0
    dropped: int = 0
    turned_away: int = 0
    back: list[float] = field(default_factory=list)
    work: defaultdict[int, float] = field(default_factory=lambda: defaultdict(float))
    waits: list[float] = field(default_factory=list)
    senders: int = 0

    @property
    def peak(self) -> int:
        """Attempts in the worst second while the hub is up."""
        return max((number for second, number in self.attempts.items() if second >= 0), default=0)

    @property
    def peak_away(self) -> int:
        """The same while it is away."""
        return max((number for second, number in self.attempts.items() if second < 0), default=0)

    @property
    def busiest(self) -> float:
        """The share of a core that the hub needs in its worst second."""
        return max(self.work.values(), default=0.0)

    def share_back(self, share: float) -> float:
        """Seconds until so many of the senders are back; infinite if they are not."""
        needed = max(1, round(share * self.senders))
        return sorted(self.back)[needed - 1] if len(self.back) >= needed else float("inf")


class Hub:
    """The model of kernel and hub."""

    def __init__(self, clock: HeapClock, scene: Scene, story: Story) -> None:
        self.clock, self.scene, self.story = clock, scene, story
        self.back_at = 0.0
        self._limit = admission.StrangerLimit(scene.strangers, scene.strangers_per_address)
        self._queue: deque[Sender] = deque()
        self._unread: deque[Sender] = deque()
        self._accepts = 100  # twisted.internet.tcp.Port.numberAccepts
        self._busy = False
        self._waiting = False

    def dialled(self, sender: Sender) -> None:
        """A first SYN leaves the sender."""
        now, half = self.clock.seconds(), self.scene.round_trip / 2
        self.story.attempts[int((now - self.back_at) // 1)] += 1
        if now + half >= self.back_at:
            self.clock.callLater(half, self._syn, sender, 0)
        elif not self.scene.outage.silent:
            self.clock.callLater(max(REFUSING, 2 * half), self._refuse, sender)
        else:
            for turn, later in enumerate(SYN_AGAIN):
                if now + later + half >= self.back_at:
                    self.clock.callLater(later + half, self._syn, sender, turn + 1)
                    return
            self.clock.callLater(build.CONNECT_TIME, self._unanswered, sender)

    def _refuse(self, sender: Sender) -> None:
        self.story.refused += 1
        sender.failed(REFUSED)

    def _unanswered(self, sender: Sender) -> None:
        self.story.unanswered += 1
        sender.failed(UNANSWERED)

    @property
    def _full(self) -> bool:
        return len(self._queue) > self.scene.backlog  # so Linux compares

    def _syn(self, sender: Sender, turn: int) -> None:
        if not self._full:
            self.clock.callLater(self.scene.round_trip, self._ack, sender, 0)
            return
        self.story.dropped += 1
        before = SYN_AGAIN[turn - 1] if turn else 0.0
        if turn < len(SYN_AGAIN):
            self.clock.callLater(SYN_AGAIN[turn] - before, self._syn, sender, turn + 1)
        else:
            self.clock.callLater(build.CONNECT_TIME - before, self._unanswered, sender)

    def _ack(self, sender: Sender, turn: int) -> None:
        if not self._full:
            sender.speaks_at = self.clock.seconds() + WAKE
            self._queue.append(sender)
            if not self._busy:
                self._turn()
            return
        self.story.dropped += 1
        before = DATA_AGAIN[turn - 1] if turn else 0.0
        if turn < len(DATA_AGAIN):
            self.clock.callLater(DATA_AGAIN[turn] - before, self._ack, sender, turn + 1)
        else:
            self.clock.callLater(HANDSHAKE_TIME - before, self._unanswered, sender)

    def _turn(self) -> None:
        """One turn of the reactor."""
        now, half = self.clock.seconds(), self.scene.round_trip / 2
        readable = []
        while self._unread and self._unread[0].speaks_at <= now:
            readable.append(self._unread.popleft())
        work, accepted = 0.0, min(self._accepts, len(self._queue))
        for _ in range(accepted):
            sender = self._queue.popleft()
            work += ACCEPT
            if self._limit.enter(sender.host):
                self._unread.append(sender)
            else:
                self.story.turned_away += 1
                self.clock.callLater(work + half, sender.turned_away)
        self._accepts = self._accepts + 20 if accepted == self._accepts else max(1, accepted)
        for sender in readable:
            work += HANDSHAKE
            self._limit.leave(sender.host)
            self.clock.callLater(work + half, sender.welcome)
        self._count(now, work)
        self._busy = True
        self.clock.callLater(work, self._next_turn)

    def _next_turn(self) -> None:
        self._busy = False
        if self._queue or self._unread and self._unread[0].speaks_at <= self.clock.seconds():
            self._turn()
        elif self._unread and not self._waiting:
            self._waiting = True
            self.clock.callLater(self._unread[0].speaks_at - self.clock.seconds(), self._speak)

    def _speak(self) -> None:
        """Somebody who was accepted says HELLO."""
        self._waiting = False
        if not self._busy:
            self._next_turn()

    def _count(self, begun: float, work: float) -> None:
        at = begun - self.back_at
        while work > 0:
            part = min(work, int(at // 1) + 1 - at)
            self.story.work[int(at // 1)] += part
            at, work = at + max(part, 1e-9), work - part


REFUSED = ConnectionRefusedError()
UNANSWERED = TimeoutError()
LOST = Failure(ConnectionLost())
TURNED_AWAY = ClosedWithoutWord(peer="hub:9001", address="here")


class Sender:
    """One that dials the hub, by the real dialler; the endpoint of its dialler, too."""

    def __init__(self, hub: Hub, number: int, chance: Callable[[], float]) -> None:
        self.hub = hub
        self.host = "198.51.100.1" if hub.scene.one_address else f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        self.known = build.Attempts()
        #: When its HELLO is there.
        self.speaks_at = 0.0
        self._connecting: Deferred[Any] = Deferred()
        self._handshake: Deferred[None] = Deferred()
        self._protocol: Any = None
        self._factory: Any = None
        self.service = build.dialler(
            hub.clock,
            self,  # type: ignore[arg-type]
            "hub:9001",
            FACTORY,
            prepare=lambda protocol: self._handshake,
            report=_nothing,
            random=chance,
            attempts=self.known,
        )

    def link(self) -> None:
        """Be linked from the beginning."""
        self.connect = self._linked  # type: ignore[method-assign]
        self.service.startService()
        del self.connect

    def _linked(self, factory: Any) -> Deferred[Any]:
        self._factory, self._connecting, self._handshake = factory, Deferred(), Deferred()
        self._made()
        self._handshake.callback(None)
        return self._connecting

    def lose(self) -> None:
        """The connection is lost."""
        self._protocol.connectionLost(LOST)

    # What the dialler calls

    def connect(self, factory: Any) -> Deferred[Any]:
        self._factory, self._connecting, self._handshake = factory, Deferred(), Deferred()
        self.hub.dialled(self)
        return self._connecting

    # What the hub calls

    def failed(self, error: Exception) -> None:
        self._connecting.errback(Failure(error))

    def welcome(self) -> None:
        """A HELLO is the answer."""
        self.hub.story.back.append(self.hub.clock.seconds() - self.hub.back_at)
        self._made()
        self._handshake.callback(None)

    def turned_away(self) -> None:
        """The connection is closed without a word."""
        self._made()
        self._handshake.errback(TURNED_AWAY)

    def _made(self) -> None:
        self._protocol = self._factory.buildProtocol(None)
        self._connecting.callback(self._protocol)


FACTORY = Factory.forProtocol(Protocol)


def _nothing(error: MySocketError) -> None:
    """Reports of attempts are for people."""


def play(scene: Scene, policy: Policy | None = None) -> Story:
    """All senders are linked, the hub goes away, comes back, and in the end everybody is linked again.

    :param policy: instead of :func:`build.retry_policy`.
    """
    chance, clock, story = random.Random(scene.seed), HeapClock(), Story(senders=scene.senders)
    hub = Hub(clock, scene, story)
    chosen = build.retry_policy if policy is None else policy

    def counted(number: Callable[[], float]) -> Callable[[int], float]:
        back_off = chosen(number)

        def wait(attempt: int) -> float:
            seconds = back_off(attempt)
            story.waits.append(seconds)
            return seconds

        return wait

    with patch.object(build, "retry_policy", counted):
        senders = [Sender(hub, number, chance.random) for number in range(scene.senders)]
    for sender in senders:
        sender.link()
    hub.back_at = scene.outage.seconds
    for sender in senders:
        clock.callLater(chance.uniform(*SILENCE) if scene.outage.silent else 0.0, sender.lose)
    clock.run(hub.back_at + scene.patience, lambda: len(story.back) == scene.senders)
    return story
