"""One peer: its connections, the two halves, the one timer.

The order of work lives in the halves, :class:`~mysocket.sending.Sending` and :class:`~mysocket.receiving.Receiving`. Here is the
ritual after everything that happens: :meth:`Link.settle` sends what is due and arms the timer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from typing import Protocol as Interface

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from mysocket import failpoints
from mysocket.carriers.addresses import peer_text
from mysocket.carriers.stream import StreamProtocol
from mysocket.core.batch import Batch, Piece
from mysocket.core.ending import PeerFacts
from mysocket.core.session import Broken, Event, Session, Silent
from mysocket.core.wire import NONE, Ack, Attach, Bye, Hello, Input, Reason, Resume, Start
from mysocket.ends.escape import one_line
from mysocket.errors import (
    MessageTooLong,
    MySocketError,
    RefusedByPeer,
    RemoteProtocolError,
    StateLoss,
)
from mysocket.metrics import Counters
from mysocket.notices import Value, notice
from mysocket.receiving import Receiving
from mysocket.sending import Sending
from mysocket.spool.interface import Bookmark, Spool
from mysocket.spool.ledger import Entry

#: Reasons in a BYE after which trying again is of no use.
FATAL: dict[int, type[MySocketError]] = {
    Reason.VERSION: RefusedByPeer,
    Reason.TOO_LONG: RefusedByPeer,
    Reason.REFUSED: RefusedByPeer,
    Reason.STATE_LOSS: StateLoss,
}


class Company(Interface):
    """The node, as its links see it."""

    def changed(self, link: Link) -> None:
        """Something has happened on which leaving may depend."""

    def window(self) -> int:
        """Bytes that one link may grant to its peer."""

    def tell(self, text: str) -> None:
        """Say something to the user."""

    def fail(self, link: Link, error: MySocketError) -> None:
        """The link cannot go on."""

    def not_taken(self, link: Link, error: MySocketError) -> None:
        """There is something to send, and the peer takes nothing."""

    def broken_off(self, link: Link) -> None:
        """The peer's stream was broken off; what comes next is another."""

    def renew(self, link: Link, error: StateLoss) -> bool:
        """Positions do not match. True: the user accepts that, and the link goes on with a new stream."""


class Link:
    """This node's relation to one peer.

    :param key: what the node finds it by.
    :param hello: what this node says of itself to this peer; its ``input`` says whether this link has something to send.
    :param receiving: the peer's half.
    :param counters: count what passes.
    """

    def __init__(
        self,
        *,
        key: bytes,
        clock: IReactorTime,
        hello: Hello,
        spool: Spool,
        receiving: Receiving,
        company: Company,
        counters: Counters | None = None,
    ) -> None:
        self.key = key
        self.clock = clock
        self.hello = hello
        self.counters = counters if counters is not None else Counters()
        self.sending = Sending(spool, hello.input, self.counters)
        self.sending.on_ready = self._ready
        self.receiving = receiving
        #: What the peer said of itself when it was linked last.
        self.peer: Hello | None = None
        self.peer_text = "the peer"
        self._address = ""
        #: No connection is up since then (seconds); None while one is. And since when one is.
        self.away_since: float | None = clock.seconds()
        self.linked_since: float | None = None
        self._company = company
        self._carriers: dict[Session, StreamProtocol] = {}
        self._settling = self._reacting = False
        self._timer: IDelayedCall | None = None
        self._leaving = False
        self._refusal_told = self._file_told = False
        self._left_told = False
        self._waiting_resume: tuple[StreamProtocol, Resume] | None = None

    # Facts ----------------------------------------------------------------------------------------------------------------------

    @property
    def linked(self) -> bool:
        """Is a connection up?"""
        return self.away_since is None

    @property
    def is_left(self) -> bool:
        """Has the peer gone for good? It has said so, and keeps nothing on disk: there will be another."""
        said = self.receiving.over or self._left_told
        return not self.linked and said and self.peer is not None and not self.peer.durable

    @property
    def stream_id(self) -> bytes:
        """The id of the stream the peer sends, or nothing if it has sent none."""
        return self.receiving.inbox.stream or b""

    @property
    def connections(self) -> list[StreamProtocol]:
        """Those that are up."""
        return list(self._carriers.values())

    @property
    def repeats_until(self) -> int:
        """Messages up to this position may have been written by an earlier process."""
        return self.receiving.repeats_until

    def facts(self) -> PeerFacts | None:
        """What leaving depends on, once the peer was ever here."""
        if self.peer is None:
            return None
        # What is not taken is not waited for.
        input = self.peer.input if self.receiving.takes else Input.NONE
        return PeerFacts(input, self.receiving.progress, self.away_since, self.sending.told)

    # Own input ------------------------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Bytes of input that may be accepted; not positive: wait (:meth:`when_room`)."""
        return self.sending.room(self.clock.seconds())

    def when_room(self, call: Callable[[], None]) -> None:
        """Call ``call`` whenever there is room again."""
        self.sending.on_room = call

    def accept(self, pieces: Sequence[Piece], bookmark: Bookmark | None = None, *, together: bool = False) -> int:
        """Take pieces of the own input; from here they are this link's to deliver.

        :param bookmark: where the input stands behind them: they are committed together, and with it.
        :param together: the same without a bookmark: they come from an input that nobody can give again.
        :return: the position behind them; ``sending.on_acknowledged`` names it or a later one when they have arrived.
        """
        self.sending.accept(pieces, self.clock.seconds(), bookmark, together=together)
        self._check_taker()
        self.settle()
        return self.sending.spool.end

    def end_input(self, *, wanted: bool = True) -> None:
        """The own input has ended: send the end mark.

        Without ``wanted`` (a person who leaves) nobody waits for it when no message is left to deliver and the peer is not there.
        """
        if self.sending.ended:
            return
        self.sending.end(mark=wanted or self.linked or bool(self.sending.undelivered))
        self._check_taker()
        self.settle()
        self._company.changed(self)

    def _check_taker(self) -> None:
        """A peer that takes nothing gets nothing: say so, once there is something for it."""
        if self.peer is None or self.peer.takes or self._refusal_told:
            return
        if not self.sending.undelivered:
            self.sending.forget_end_mark()
            return
        self._refusal_told = True
        self._company.not_taken(self, RefusedByPeer("it only sends (--send-only) and takes no messages", peer=self.peer_text))

    def _check_file(self) -> None:
        """A file waits for a peer that takes files, and what is behind it, too: say so, once."""
        if self._file_told or self._leaving or not self.sending.outbox.at_file:
            return
        self._file_told = True
        why = "it takes no files (it was started without --download-dir), and one waits to be sent"
        self._company.not_taken(self, RefusedByPeer(why, peer=self.peer_text))

    # Connections ----------------------------------------------------------------------------------------------------------------

    def adopt(self, carrier: StreamProtocol, peer: Hello, text: str, earlier: Entry | None = None) -> None:
        """A session whose HELLO has come is this link's from now on.

        :param text: names the peer for people.
        :param earlier: a stream that came from this peer before this process began.
        :raises AnotherPeer: messages wait for another node, which keeps its state on disk.
        :raises StateLoss: the peer has lost its spool.
        """
        failpoints.reach("H1")
        self.sending.meet(peer)
        news = self.receiving.meet(peer, earlier)
        session = carrier.session
        if not session.is_open:
            session.greet(self.hello)
        carrier.owner = self
        session.on_round_trip = self.counters.round_trips.observe
        first = not self._carriers
        if not first:
            failpoints.reach("H2")
        self._carriers[session] = carrier
        if first and self.peer is not None:
            self.counters.reconnects += 1
        self.peer, self.peer_text, self.away_since = peer, text, None
        self._address = peer_text(carrier)
        self._left_told = False
        self._file_told = self._file_told and not peer.files
        self.counters.connections += 1
        if first:
            self.linked_since = self.clock.seconds()
            self._tell("linked", f"linked with {text}")
        if news is not None:
            self._tell("broken_off", news)
            self._company.broken_off(self)
        self._attach()
        self._check_taker()
        # This one may take what the one before did not.
        self.sending.on_progress()
        self._company.changed(self)

    def _attach(self) -> None:
        self.sending.attach(self._carriers, self.peer)

    def connected(self, carrier: StreamProtocol) -> None:
        """Never: a link gets its connections by :meth:`adopt`."""

    def lost(self, carrier: StreamProtocol, reason: Failure) -> None:
        if self._carriers.pop(carrier.session, None) is None:
            return
        self._detach(carrier.session)
        if not self._carriers:
            # A peer that fell silent is away since it was heard last.
            self.away_since = carrier.session.heard if carrier.session.fell_silent else self.clock.seconds()
            self.linked_since = None
            self._tell_lost(reason)
            self._give_up_mark()
        self.settle()
        self._company.changed(self)

    def _tell_lost(self, reason: Failure) -> None:
        if self._leaving or self._left_told:
            return
        if self.receiving.over:
            self._tell("left", f"{self.peer_text} has left")
            return
        undelivered = self.sending.undelivered
        waiting = f"; {undelivered} bytes wait to be acknowledged" if undelivered else ""
        why = reason.getErrorMessage()
        text = f"lost the connection to {self.peer_text} ({why}){waiting}"
        self._tell("lost", text, reason=why, undelivered=undelivered)

    def _tell(self, event: str, text: str, **fields: Value) -> None:
        """Something has happened between this node and the peer."""
        peer = self.peer
        name, node = (one_line(peer.name, 64), peer.node.hex()) if peer is not None else ("", "")
        self._company.tell(notice(event, text, peer=name, address=self._address, node=node, **fields))

    def _give_up_mark(self) -> None:
        """A person who leaves does not wait for a peer that has finished and left, only to tell it so."""
        if self.hello.input is Input.OPEN and (self.receiving.over or self._left_told):
            self.sending.forget_end_mark()

    def _detach(self, session: Session) -> None:
        """The session carries nothing any more: its streams need another."""
        self.receiving.inbox.lost(session)
        if self.sending.outbox.lost(session):
            self._attach()

    def _close(self, carrier: StreamProtocol, reason: Reason, text: str) -> None:
        carrier.close(reason, text)
        self._detach(carrier.session)

    def challenge(self) -> None:
        """Somebody says to be the peer: if the one that is linked does not answer soon, it counts as gone."""
        for carrier in self.connections:
            carrier.challenge()
        self.settle()

    # Events ---------------------------------------------------------------------------------------------------------------------

    def event(self, carrier: StreamProtocol, event: Event) -> None:
        if carrier.session.is_over and not isinstance(event, Broken | Bye):
            return
        self._reacting = True
        try:
            REACTIONS[type(event)](self, event, carrier)
        except RemoteProtocolError as error:
            self._tell("broken", str(error), reason=error.text)
            self._close(carrier, Reason.PROTOCOL, error.text)
        except StateLoss as error:
            self._left_told = True
            renewed = self._company.renew(self, error)
            self._close(carrier, Reason.LEFT if renewed else Reason.STATE_LOSS, error.text)
            if not renewed:
                self._end_streams()
                self._company.fail(self, error)
        except MessageTooLong as error:
            self.receiving.give_up(error)
            self.receiving.acknowledge(self.clock.seconds(), at_once=True)
            self._close(carrier, Reason.TOO_LONG, str(error))
            self._company.fail(self, error)
        finally:
            self._reacting = False

    def _on_batch(self, batch: Batch, carrier: StreamProtocol) -> None:
        if not self._leaving:
            # What is written now could not be acknowledged any more, and would come again.
            self.receiving.take(carrier.session, batch, self)

    def _on_ack(self, ack: Ack, carrier: StreamProtocol) -> None:
        if self.sending.acknowledged(carrier.session, ack):
            self._company.changed(self)

    def _on_attach(self, attach: Attach, carrier: StreamProtocol) -> None:
        before = self.receiving.attach(carrier.session, attach)
        if before is not None and before in self._carriers:
            self._close(self._carriers[before], Reason.MOVED, "the stream is attached to another connection")

    def _on_resume(self, resume: Resume, carrier: StreamProtocol) -> None:
        assert self.peer is not None
        spool = self.sending.spool
        if not spool.seek(spool.retired if resume.position == NONE else resume.position):
            self._waiting_resume = (carrier, resume)
            return
        if self.sending.resume(carrier.session, resume, self.peer) and not self.sending.delivered:
            position = self.sending.spool.retired
            text = f"{self.peer_text} was restarted without the {position} bytes it had acknowledged; going on behind them"
            self._tell("stream", text, position=position)

    def _on_start(self, start: Start, carrier: StreamProtocol) -> None:
        fresh = self.receiving.inbox.nothing_taken
        broken = self.receiving.start(carrier.session, start, self.peer)
        if broken is not None:
            text = (
                f"{self.peer_text} sends a new stream from position {broken.new_position}; "
                f"the one before it was broken off at {broken.position}"
            )
            self._tell("stream", text, position=broken.new_position)
            self._company.changed(self)
        elif fresh and start.position:
            text = f"{self.peer_text} goes on at position {start.position}: what came before went to an earlier run"
            self._tell("stream", text, position=start.position)

    def _on_bye(self, bye: Bye, carrier: StreamProtocol) -> None:
        if bye.reason == Reason.DONE:
            if self.receiving.done(carrier.session):
                if self.peer is not None:
                    self.receiving.finished(self.peer)
                self._company.changed(self)
            return
        carrier.session.is_over = True
        text = one_line(bye.text) or f"reason {bye.reason}"
        error = FATAL.get(bye.reason)
        if bye.reason in (Reason.LEFT, Reason.OUTPUT):
            if not self._left_told:
                self._left_told = True
                self._tell("left", f"{self.peer_text} left: {text}", reason=text)
            if self.peer is not None:
                self.receiving.peer_left(self.peer)
        elif bye.reason != Reason.MOVED and error is None:
            self._tell("closed", f"{self.peer_text} closed the connection: {text}", reason=text)
        carrier.drop()
        self._detach(carrier.session)
        if error is StateLoss:
            self._end_streams()
        if error is not None:
            told = f"{self.peer_text} says: {text}" if error is StateLoss else text
            self._company.fail(self, error(told, peer=self.peer_text))

    def _end_streams(self) -> None:
        """State was lost, here or there: nothing will come of either stream."""
        self.sending.broken = True
        self.receiving.lost_state()

    def _on_broken(self, broken: Broken, carrier: StreamProtocol) -> None:
        silent = isinstance(broken.error, Silent)
        self._tell("broken", str(broken.error), reason=broken.error.text)
        carrier.finish()
        self._detach(carrier.session)
        if silent:
            # What does not answer will not close its side either.
            carrier.abort()

    def _ready(self) -> None:
        """The spool has committed or fetched something."""
        waiting, self._waiting_resume = self._waiting_resume, None
        if waiting is not None and waiting[0].session is self.sending.outbox.session:
            self.event(*waiting)
        if not self._reacting:
            self.settle()

    def written(self, position: int, then: Callable[[], None] | None = None) -> None:
        """The sink has all before ``position``: commit, then acknowledge, and call ``then``."""

        def committed(position: int) -> None:
            self._committed(position)
            if then is not None:
                then()

        self.receiving.written(position, self.peer, committed)

    def failed(self, error: MySocketError) -> None:
        """The sink has found out that it cannot take what it was given."""
        self.receiving.give_up(error)
        self.receiving.acknowledge(self.clock.seconds(), at_once=True)
        self._left_told = True
        for carrier in self.connections:
            if isinstance(error, StateLoss):
                self._close(carrier, Reason.STATE_LOSS, error.text)
            else:
                self._close(carrier, Reason.TOO_LONG, str(error))
        if isinstance(error, StateLoss):
            self._end_streams()
        self._company.fail(self, error)
        self.settle()

    def _committed(self, position: int) -> None:
        waiting = self.receiving.committed(position)
        if waiting is not None and waiting[0] in self._carriers:
            self.event(self._carriers[waiting[0]], waiting[1])
        inbox = self.receiving.inbox
        if inbox.at_end and position == inbox.taken:
            self._company.changed(self)
        if not self._reacting:
            # Else whoever brought the event settles when all events of one read are handled.
            self.settle()

    # What is due ----------------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Send what is due on every connection, and arm the timer."""
        if self._settling:
            return
        self._settling = True
        try:
            self.receiving.acknowledge(self.clock.seconds())
            session = self.sending.outbox.session
            if session is not None:
                self.sending.send(self._carriers[session])
                self._check_file()
                if not self._leaving and self.sending.say_done():
                    self._company.changed(self)
            for carrier in self.connections:
                carrier.flush()
            self.counters.tick(self.clock.seconds())
        finally:
            self._settling = False
        self._arm()

    def _arm(self) -> None:
        now = self.clock.seconds()
        deadlines = [session.next_deadline() for session in self._carriers if not session.is_over]
        deadlines += [when for when in (self.receiving.ack_due(now), self.sending.paused_until) if when is not None]
        active = self._timer is not None and self._timer.active()
        if not deadlines:
            if active and self._timer is not None:
                self._timer.cancel()
            self._timer = None
            return
        # The timer may fire early, never late: what was put off meanwhile is armed again then.
        delay = max(0.0, min(deadlines) - now)
        if not active or self._timer is None:
            self._timer = self.clock.callLater(delay, self._tick)
        elif now + delay < self._timer.getTime():
            self._timer.reset(delay)

    def _tick(self) -> None:
        self._timer = None
        for carrier in self.connections:
            carrier.tick()
        self.sending.end_pause(self.clock.seconds())
        self.settle()

    # Leaving --------------------------------------------------------------------------------------------------------------------

    def leave(self, text: str, reason: Reason = Reason.LEFT) -> None:
        """Say the last word on every connection, and close our half of it.

        A person, or a service, whose words have all arrived is done whenever it leaves; a pipe or a file only at its end.
        """
        self._leaving = True
        self.receiving.acknowledge(self.clock.seconds(), at_once=True)
        outbox = self.sending.outbox
        done = self.sending.delivered or self.hello.input is Input.OPEN and not self.sending.undelivered
        for session, carrier in list(self._carriers.items()):
            if session.is_over:
                continue
            if not done or reason is Reason.OUTPUT:
                session.bye(reason, text)
            elif session is not outbox.session or not outbox.said_done:
                session.bye(Reason.DONE)
            carrier.finish()


#: What a link does on each kind of event.
REACTIONS: dict[type[Event], Callable[[Link, Any, StreamProtocol], None]] = {
    Ack: Link._on_ack,
    Attach: Link._on_attach,
    Batch: Link._on_batch,
    Broken: Link._on_broken,
    Bye: Link._on_bye,
    Resume: Link._on_resume,
    Start: Link._on_start,
}
