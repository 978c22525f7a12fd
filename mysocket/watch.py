"""Watches what leaving depends on, and leaves: the one user of :mod:`mysocket.core.ending`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from mysocket.core.ending import Facts, Own, PeerFacts, Policy, Verdict, verdict
from mysocket.ends.seldom import Seldom
from mysocket.errors import MySocketError
from mysocket.logs import cleaned
from mysocket.notices import Notice, failure, notice


class Subject(Interface):
    """What is watched: a node with its links, or raw connections."""

    def own(self) -> Own:
        """The state of the own input."""

    def undelivered(self) -> int:
        """Bytes of messages that were given and are not acknowledged."""

    def undelivered_text(self) -> str:
        """The same for people: how many messages, how many bytes."""

    def kept(self) -> bool:
        """What is not delivered is kept on disk."""

    def peers(self) -> Iterable[PeerFacts]:
        """Every peer that was ever linked."""

    def alone_since(self) -> float | None:
        """Since when nobody is there, in seconds; None while somebody is."""

    def missing(self) -> bool:
        """Data is known to be missing."""


class Voice:
    """What is said to people, and to programs that read the log: one event a line, by ``write``.

    The text is a plain sentence, or a notice (:mod:`mysocket.notices`), which knows what has happened and how serious it is.
    Which of the methods is called decides whether it is said.

    :param write: takes a line without its end.
    """

    def __init__(self, write: Callable[[Notice], object], *, quiet: bool = False, verbose: bool = False) -> None:
        self._write = write
        self._quiet = quiet
        self._verbose = verbose

    def tell(self, text: str) -> None:
        """Something the user may want to know; an error is said in any case."""
        told = cleaned(text, "info")
        if not self._quiet or told.level == "error":
            self._write(told)

    def detail(self, text: str) -> None:
        """Something for ``-v``."""
        if self._verbose:
            self._write(cleaned(text, "debug"))

    def complain(self, text: str) -> None:
        """Something the user must know."""
        self._write(cleaned(text, "warn"))


class Watch:
    """Asks the table of endings after every change, and at the times the table names.

    :param stop_input: called when a signal wants no more input.
    """

    def __init__(
        self,
        subject: Subject,
        policy: Policy,
        *,
        clock: IReactorTime,
        voice: Voice,
        stop_input: Callable[[], None] = lambda: None,
    ) -> None:
        self.voice = voice
        #: Fires once, with the verdict that says to leave.
        self.verdict: Deferred[Verdict] = Deferred()
        #: The error that ends the program, if one does.
        self.error: MySocketError | None = None
        #: What an attempt that has failed need not say: it is seen elsewhere.
        self.seen_elsewhere: tuple[type[MySocketError], ...] = ()
        self._subject = subject
        self._policy = policy
        self._clock = clock
        self._stop_input = stop_input
        self._delivered_at: float | None = None
        self._interrupts = 0
        self._terminated = False
        self._over = False
        self._soon: IDelayedCall | None = None
        self._later: IDelayedCall | None = None
        self._seldom = Seldom(clock)

    # What happens ---------------------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Something has happened on which leaving may depend. The table is asked in the next turn of the reactor."""
        if self._soon is None and not self._over:
            self._soon = self._clock.callLater(0, self._consider)

    def tell(self, text: str) -> None:
        """Something the user may want to know."""
        self.voice.tell(text)

    def report(self, error: MySocketError) -> None:
        """An attempt failed and will be made again: say so, but not at every attempt, and not while somebody is there."""
        if self._over or self.error is not None:
            return
        text = notice("unreachable", str(error), error=type(error).__name__)
        if self._subject.alone_since() is None or isinstance(error, self.seen_elsewhere):
            self.voice.detail(text)
        elif self._seldom.due(text):
            self.voice.tell(text.saying(f"{text.rstrip('.')}. Trying again."))

    def fail(self, error: MySocketError) -> None:
        """An error that ends the program."""
        if self.error is None:
            self.error = error
            self.voice.complain(failure(error))
            self.changed()

    def interrupt(self) -> None:
        """SIGINT."""
        self._interrupts += 1
        self._stop_input()
        if self._subject.undelivered() and self._interrupts == 1 and not self._subject.kept():
            waiting = self._subject.undelivered_text()
            self.voice.complain(f"{waiting} not delivered yet; waiting for that. Interrupt again to leave without.")
        self.changed()

    def terminate(self) -> None:
        """SIGTERM."""
        self._terminated = True
        self.changed()

    # The table ------------------------------------------------------------------------------------------------------------------

    def facts(self) -> Facts:
        """All that leaving depends on, now."""
        now, own = self._clock.seconds(), self._subject.own()
        if own is Own.DELIVERED and self._delivered_at is None:
            self._delivered_at = now
        return Facts(
            own=own,
            undelivered=self._subject.undelivered(),
            kept=self._subject.kept(),
            delivered_at=self._delivered_at,
            peers=self._subject.peers(),
            alone_since=self._subject.alone_since(),
            interrupts=self._interrupts,
            terminated=self._terminated,
            failure=self.error.status if self.error is not None else None,
            missing=self._subject.missing(),
        )

    def _consider(self) -> None:
        self._soon = None
        if self._later is not None and self._later.active():
            self._later.cancel()
        self._later = None
        if self._over:
            return
        now = self._clock.seconds()
        found = verdict(self.facts(), self._policy, now)
        if found.status is not None:
            self.stop()
            self.verdict.callback(found)
        elif found.ask_at is not None:
            self._later = self._clock.callLater(max(0.0, found.ask_at - now), self.changed)

    def stop(self) -> None:
        """Ask no more."""
        self._over = True
        for call in (self._soon, self._later):
            if call is not None and call.active():
                call.cancel()
        self._soon = self._later = None
