"""One peer: sessions, the two halves, the spool and the ends; the one timer; the order of work at commit, which lives only here.

Order of work. Sending: a piece is appended to the spool before it is sent, and retired only by an ACK. Receiving: a batch goes to
the sink; when the sink has it, the position is committed; then it is acknowledged.

The ritual after everything that happens: :meth:`Link.settle` sends what is due and arms the timer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatchmethod
from typing import Protocol as Interface

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from mysocket.carriers.stream import StreamProtocol
from mysocket.core.batch import END, MAX_PAYLOAD, Assembler, Batch, Piece
from mysocket.core.ending import PeerFacts, Progress
from mysocket.core.inbox import Inbox
from mysocket.core.outbox import Outbox
from mysocket.core.session import Broken, Event, Session, Silent
from mysocket.core.wire import Ack, Attach, Bye, Hello, Input, Reason, Resume, Start
from mysocket.errors import (
    AnotherPeer,
    MessageTooLong,
    MySocketError,
    RefusedByPeer,
    RemoteProtocolError,
    StateLoss,
)
from mysocket.spool.interface import Spool

#: Bytes that one receiver grants beyond what it has committed.
WINDOW = 8 * 1024 * 1024
#: Parts and bytes that are handed to a carrier at once; the kernel takes at most 1024 parts (IOV_MAX).
PARTS = 256


#: Reasons in a BYE after which trying again is of no use.
FATAL: dict[int, type[MySocketError]] = {
    Reason.VERSION: RefusedByPeer,
    Reason.TOO_LONG: RefusedByPeer,
    Reason.REFUSED: RefusedByPeer,
    Reason.STATE_LOSS: StateLoss,
}


class Sink(Interface):
    """Where a link puts what it receives."""

    #: Parts of long messages must be put together first.
    whole: bool

    def write(self, block: Batch, origin: Link) -> None:
        """Take a batch, or with :attr:`whole` a block of whole messages; call ``origin.written(block.end)`` when it is safe,
        in the order of the blocks.

        :raises MessageTooLong: it holds a message that is larger than the sink puts together.
        """


class Company(Interface):
    """The node, as its links see it."""

    def changed(self) -> None:
        """Something has happened on which leaving may depend."""

    def window(self) -> int:
        """Bytes that one link may grant to its peer."""

    def tell(self, text: str) -> None:
        """Say something to the user."""

    def fail(self, link: Link, error: MySocketError) -> None:
        """The link cannot go on."""


class Link:
    """This node's relation to one peer.

    :param hello: what this node says of itself to this peer; its ``input`` says whether this link has something to send.
    :param sink: takes what is received, or None with ``--send-only``.
    :param max_message: the largest message in bytes that is put together for the sink.
    """

    def __init__(self, *, clock: IReactorTime, hello: Hello, spool: Spool, sink: Sink | None, company: Company, max_message: int) -> None:
        self.clock = clock
        self.hello = hello
        self.spool = spool
        self.outbox = Outbox(spool.stream, spool)
        self.inbox = Inbox()
        #: What the peer said of itself when it was linked last.
        self.peer: Hello | None = None
        self.peer_text = "the peer"
        #: No connection is up since then (seconds); None while one is.
        self.away_since: float | None = clock.seconds()
        #: Called when there is room for input again, and when an acknowledgement has come.
        self.on_room: Callable[[], None] = lambda: None
        self.on_acknowledged: Callable[[int], None] = lambda position: None
        self._sink = sink
        self._company = company
        self._assembler = Assembler(max_message) if sink is not None and sink.whole else None
        self._carriers: dict[Session, StreamProtocol] = {}
        self._ended = hello.input is Input.NONE
        self._end_mark = False  # an END was appended
        self._progress_end = False  # BYE(done), or the last word of a stream that will not go on
        self._broken = False
        self._settling = False
        self._timer: IDelayedCall | None = None
        self._leaving = False
        self._refusal_told = False
        self._attaching: tuple[StreamProtocol, Attach] | None = None

    # Facts ----------------------------------------------------------------------------------------------------------------------

    @property
    def linked(self) -> bool:
        """Is a connection up?"""
        return self.away_since is None

    @property
    def stream_id(self) -> bytes:
        """The id of the stream the peer sends, or nothing if it has sent none."""
        return self.inbox.stream or b""

    @property
    def connections(self) -> list[StreamProtocol]:
        return list(self._carriers.values())

    @property
    def room(self) -> int:
        """Bytes of input that may be accepted; not positive: wait for :attr:`on_room`."""
        return self.spool.room

    @property
    def undelivered(self) -> int:
        """Bytes of messages that are not acknowledged; an end mark is no message."""
        return max(0, self.outbox.unacknowledged - (len(END.payload) if self._end_mark else 0))

    @property
    def delivered(self) -> bool:
        """The own input has ended, and all of it is acknowledged."""
        return self._ended and not self.outbox.unacknowledged

    @property
    def broken(self) -> bool:
        """Data of the peer is known to be missing."""
        return self._broken

    def facts(self) -> PeerFacts | None:
        """What leaving depends on, once the peer was ever here."""
        if self.peer is None:
            return None
        if self._progress_end:
            progress = Progress.BROKEN if self._broken else Progress.DONE
        elif self.inbox.nothing_taken or not self.inbox.taken:
            progress = Progress.EMPTY
        else:
            done = self.inbox.at_end and self.inbox.committed == self.inbox.taken
            progress = Progress.AT_END if done else Progress.OPEN
        told = not self._end_mark or not self.delivered or self.outbox.said_done
        return PeerFacts(self.peer.input, progress, self.away_since, told)

    # Own input ------------------------------------------------------------------------------------------------------------------

    def accept(self, pieces: list[Piece]) -> int:
        """Take pieces of the own input; from here they are this link's to deliver.

        :return: the position behind them; :attr:`on_acknowledged` names it or a later one when they have arrived.
        """
        for piece in pieces:
            self.spool.append(piece)
        self._check_taker()
        self.settle()
        return self.spool.end

    def end_input(self, *, wanted: bool = True) -> None:
        """The own input has ended: send the end mark.

        Without ``wanted`` (a person who leaves) nobody waits for it when no message is left to deliver and the peer is not there.
        """
        if self._ended:
            return
        self._ended = True
        if wanted or self.outbox.unacknowledged or self.linked:
            self.spool.append(END)
            self._end_mark = True
        self._check_taker()
        self.settle()
        self._company.changed()

    def _check_taker(self) -> None:
        """A peer that takes nothing gets nothing: say so, once there is something for it."""
        if self.peer is None or self.peer.takes or self._refusal_told:
            return
        if self.undelivered:
            self._refusal_told = True
            error = RefusedByPeer("it only sends (--send-only) and takes no messages", peer=self.peer_text)
            if self.hello.input is Input.FINITE:
                self._company.fail(self, error)
            else:
                self._company.tell(str(error))
        elif self._ended and self.spool.end > self.spool.retired:
            self.spool.retire(self.spool.end)  # an end mark alone: nothing is kept from anybody

    # Connections ----------------------------------------------------------------------------------------------------------------

    def adopt(self, carrier: StreamProtocol, peer: Hello, text: str) -> None:
        """A session whose HELLO has come is this link's from now on. ``text`` names the peer for people.

        :raises AnotherPeer: messages wait for another node, which keeps its state on disk.
        """
        known = self.peer
        if known is not None and known.durable and known.node != peer.node and self.outbox.unacknowledged:
            raise AnotherPeer(ours=known.node.hex(), theirs=peer.node.hex())
        session = carrier.session
        if not session.is_open:
            session.greet(self.hello)
        carrier.owner = self
        first = not self._carriers
        self._carriers[session] = carrier
        self.peer, self.peer_text, self.away_since = peer, text, None
        if known is None or known.node != peer.node:
            self._progress_end = self._progress_end and self._broken
        if first:
            self._company.tell(f"linked with {text}")
        self._attach()
        self._check_taker()
        self._company.changed()

    def _attach(self) -> None:
        if self.outbox.session is not None or self.hello.input is Input.NONE or self.peer is None or not self.peer.takes:
            return
        for session in self._carriers:
            if not session.is_over:
                self.outbox.ask(session)
                return

    def connected(self, carrier: StreamProtocol) -> None:
        """Never: a link gets its connections by :meth:`adopt`."""

    def lost(self, carrier: StreamProtocol, reason: Failure) -> None:
        session = carrier.session
        if self._carriers.pop(session, None) is None:
            return
        self._detach(session)
        if not self._carriers:
            self.away_since = self.clock.seconds()
            if self._leaving:
                pass
            elif self._progress_end:
                self._company.tell(f"{self.peer_text} has left")
            else:
                waiting = f"; {self.undelivered} bytes wait to be acknowledged" if self.undelivered else ""
                self._company.tell(f"lost the connection to {self.peer_text} ({reason.getErrorMessage()}){waiting}")
        self.settle()
        self._company.changed()

    def _detach(self, session: Session) -> None:
        """The session carries nothing any more: its streams need another."""
        self.inbox.lost(session)
        if self.outbox.lost(session):
            self._attach()

    def challenge(self) -> None:
        """Somebody says to be the peer: if the one that is linked does not answer soon, it counts as gone."""
        for carrier in self.connections:
            carrier.challenge()
        self.settle()

    def _close(self, carrier: StreamProtocol, reason: Reason, text: str) -> None:
        carrier.close(reason, text)
        self._detach(carrier.session)

    # Events ---------------------------------------------------------------------------------------------------------------------

    def event(self, carrier: StreamProtocol, event: Event) -> None:
        if carrier.session.is_over and not isinstance(event, Broken | Bye):
            return
        try:
            self._on(event, carrier)
        except RemoteProtocolError as error:
            self._company.tell(str(error))
            self._close(carrier, Reason.PROTOCOL, error.text)
        except StateLoss as error:
            self._close(carrier, Reason.STATE_LOSS, error.text)
            self._company.fail(self, error)
        except MessageTooLong as error:
            self._broken = self._progress_end = True
            self._close(carrier, Reason.TOO_LONG, str(error))
            self._company.fail(self, error)

    @singledispatchmethod
    def _on(self, event: Event, carrier: StreamProtocol) -> None:
        """One small function for each kind of event."""

    @_on.register
    def _on_batch(self, batch: Batch, carrier: StreamProtocol) -> None:
        inbox = self.inbox
        if not inbox.carries(carrier.session) or not inbox.take(batch) or self._sink is None:
            return
        block: Batch | None = batch
        if self._assembler is not None:
            block = self._assembler.feed(batch)
        if block is not None:
            self._sink.write(block, self)

    @_on.register
    def _on_ack(self, ack: Ack, carrier: StreamProtocol) -> None:
        if self.outbox.acknowledged(carrier.session, ack):
            self.on_acknowledged(self.spool.retired)
            if self.spool.room > MAX_PAYLOAD:
                self.on_room()
            if not self.outbox.unacknowledged:
                self._company.changed()

    @_on.register
    def _on_attach(self, attach: Attach, carrier: StreamProtocol) -> None:
        if self._sink is None:
            raise RemoteProtocolError("a stream for a node that takes none")
        if attach.stream != self.inbox.stream and not self._nothing_in_sink:
            # Another stream waits until the sink has the one before: positions of the two must not meet.
            self._attaching = (carrier, attach)
            return
        before = self.inbox.attach(carrier.session, attach.stream, self._window())
        if before is not None and before in self._carriers:
            self._close(self._carriers[before], Reason.MOVED, "the stream is attached to another connection")

    @_on.register
    def _on_resume(self, resume: Resume, carrier: StreamProtocol) -> None:
        assert self.peer is not None
        if self.outbox.resume(carrier.session, resume, durable=self.peer.durable):
            self._company.tell(
                f"{self.peer_text} was restarted without the {self.spool.retired} bytes it had acknowledged; going on behind them"
            )

    @_on.register
    def _on_start(self, start: Start, carrier: StreamProtocol) -> None:
        fresh = self.inbox.stream is None
        broken = self.inbox.start(carrier.session, start)
        if broken is not None:
            self._broken = True
            self._company.tell(
                f"the stream of {self.peer_text} was broken off at position {broken.position}: data is missing; "
                f"a new one starts at {broken.new_position}"
            )
        elif fresh and start.position:
            self._company.tell(f"{self.peer_text} goes on at position {start.position}: what came before went to an earlier run")
        if self._assembler is not None and self.inbox.taken == self.inbox.committed:
            self._assembler.clear()
        self._progress_end = False

    @_on.register
    def _on_bye(self, bye: Bye, carrier: StreamProtocol) -> None:
        if bye.reason == Reason.DONE:
            if self.inbox.carries(carrier.session) or self.inbox.nothing_taken:
                self._progress_end = True
                self._company.changed()
            return
        carrier.session.is_over = True
        text = bye.text or f"reason {bye.reason}"
        error = FATAL.get(bye.reason)
        if bye.reason == Reason.LEFT:
            self._company.tell(f"{self.peer_text} left: {text}")
            self._peer_left()
        elif bye.reason not in (Reason.MOVED, Reason.LEFT) and error is None:
            self._company.tell(f"{self.peer_text} closed the connection: {text}")
        carrier.drop()
        self._detach(carrier.session)
        if error is not None:
            self._company.fail(self, error(text, peer=self.peer_text))

    def _peer_left(self) -> None:
        """A peer that holds its stream in memory left before the END: the stream is broken off for good."""
        if self.peer is None or self.peer.durable or self._progress_end or self.inbox.at_end:
            return
        if self.inbox.taken or self.peer.input is Input.FINITE:
            self._broken = self._progress_end = True

    @_on.register
    def _on_broken(self, broken: Broken, carrier: StreamProtocol) -> None:
        carrier.flush()
        if not isinstance(broken.error, Silent):
            self._company.tell(str(broken.error))
        carrier.finish()
        self._detach(carrier.session)
        if isinstance(broken.error, Silent):
            # What does not answer will not close its side either.
            carrier.abort()

    # The sink -------------------------------------------------------------------------------------------------------------------

    def written(self, position: int) -> None:
        """The sink has all before ``position``: commit, then acknowledge."""
        self.inbox.commit(position)
        if self._attaching is not None and self._nothing_in_sink:
            (carrier, attach), self._attaching = self._attaching, None
            self.event(carrier, attach)
        if self.inbox.at_end and position == self.inbox.taken:
            self._company.changed()
        self.settle()

    @property
    def _held(self) -> int:
        return self._assembler.held if self._assembler is not None else 0

    @property
    def _nothing_in_sink(self) -> bool:
        return self.inbox.committed + self._held == self.inbox.taken

    def _window(self) -> int:
        # The parts of a long message are held on top of the window, or a message longer than it would never end.
        return self._company.window() + self._held

    # Sending what is due --------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Send what is due on every connection, and arm the timer."""
        if self._settling:
            return
        self._settling = True
        try:
            now = self.clock.seconds()
            self._acknowledge(now)
            self._send()
            for carrier in self.connections:
                carrier.flush()
        finally:
            self._settling = False
        self._arm()

    def _acknowledge(self, now: float) -> None:
        window = self._window()
        due = self.inbox.ack_due(window, now)
        if due is not None and due <= now:
            self.inbox.acknowledge(window, now)

    def _send(self) -> None:
        session = self.outbox.session
        if session is None or not self.outbox.started:
            return
        carrier = self._carriers[session]
        if self.outbox.waiting and carrier.writable:
            size = parts = 0
            for batch in self.outbox.due():
                session.send(batch)
                size += len(batch.payload)
                parts += 2
                if size >= MAX_PAYLOAD or parts >= PARTS:
                    carrier.flush()
                    size = parts = 0
                    if not carrier.writable:
                        break
        if self.delivered and not self._leaving:
            if not self.outbox.said_done:
                self.outbox.say_done()
                self._company.changed()

    def _arm(self) -> None:
        deadlines = [session.next_deadline() for session in self._carriers if not session.is_over]
        due = self.inbox.ack_due(self._window(), self.clock.seconds())
        if due is not None:
            deadlines.append(due)
        if not deadlines:
            if self._timer is not None and self._timer.active():
                self._timer.cancel()
            self._timer = None
            return
        # The timer may fire early, never late: what was put off meanwhile is armed again then.
        at = min(deadlines)
        if self._timer is None or not self._timer.active():
            self._timer = self.clock.callLater(max(0.0, at - self.clock.seconds()), self._tick)
        elif at < self._timer.getTime():
            self._timer.reset(max(0.0, at - self.clock.seconds()))

    def _tick(self) -> None:
        self._timer = None
        for carrier in self.connections:
            carrier.tick()
        self.settle()

    # Leaving --------------------------------------------------------------------------------------------------------------------

    def leave(self, text: str) -> None:
        """Say the last word on every connection, and close our half of it."""
        self._leaving = True
        now = self.clock.seconds()
        if self.inbox.ack_due(self._window(), now) is not None:
            self.inbox.acknowledge(self._window(), now)
        for session, carrier in list(self._carriers.items()):
            if session.is_over:
                continue
            if not self.delivered:
                session.bye(Reason.LEFT, text)
            elif not (session is self.outbox.session and self.outbox.said_done):
                session.bye(Reason.DONE)
            carrier.finish()

    def abort(self) -> None:
        """Drop every connection."""
        for carrier in self.connections:
            carrier.abort()

