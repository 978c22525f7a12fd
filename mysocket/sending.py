"""The own input of a link: appended to the spool before it is sent, retired by ACK."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mysocket import failpoints
from mysocket.carriers.stream import StreamProtocol
from mysocket.core.batch import END, MAX_PAYLOAD, Piece
from mysocket.core.outbox import Outbox
from mysocket.core.session import Session
from mysocket.core.wire import Ack, Hello, Input, Resume
from mysocket.errors import AnotherPeer
from mysocket.metrics import Counters
from mysocket.spool.interface import Bookmark, Recipient, Spool

#: Parts that are handed to a carrier at once; the kernel takes at most 1024 (IOV_MAX).
PARTS = 256
#: With so many bytes waiting and a peer that takes them, the input pauses for so many seconds behind each read: what a fast peer
#: gets never has to be read from the disk again, and for a slow one the input still runs ahead, by 50 MB/s.
RUN_AHEAD = 16 * 1024 * 1024
PAUSE = 0.005


class Sending:
    """What a link has to send.

    :param input: what the own input is; with NONE nothing is ever sent.
    """

    def __init__(self, spool: Spool, input: Input, counters: Counters | None = None) -> None:
        self.spool = spool
        self.outbox = Outbox(spool)
        self.input = input
        #: The own input has ended.
        self.ended = input is Input.NONE
        #: What waits can be delivered to nobody: the peer, or this side, has lost its state.
        self.broken = False
        #: Called when more may be ready to be sent.
        self.on_ready: Callable[[], None] = lambda: None
        #: Called when there is room for input again, and with the position that is acknowledged.
        self.on_room: Callable[[], None] = lambda: None
        self.on_acknowledged: Callable[[int], None] = lambda position: None
        #: Called when more is committed or acknowledged, or there may be room.
        self.on_progress: Callable[[], None] = lambda: None
        self._counters = counters if counters is not None else Counters()
        # There is an end to speak of: an END was appended, or an earlier process left something to deliver.
        self._marked = bool(self.outbox.unacknowledged)
        # What waits was for the recipient: it was linked in this process, or it left something undone in an earlier one.
        self._bound = bool(self.outbox.unacknowledged)
        #: The input pauses until then (seconds), or not at all.
        self.paused_until: float | None = None
        self._sent_to = spool.retired  # what starts below was sent before, by this process
        self._mark_forgotten = False  # nobody waits for its acknowledgement
        spool.on_change = self._changed

    @property
    def undelivered(self) -> int:
        """Bytes of messages that are not acknowledged; an end mark is no message."""
        return max(0, self.outbox.unacknowledged - (len(END.payload) if self.spool.at_end_mark else 0))

    def undelivered_text(self) -> str:
        """How many messages and bytes that is, for people. Counts, so it is for the end, or for who asks."""
        return messages_text(self.spool.messages(), self.undelivered)

    @property
    def delivered(self) -> bool:
        """The own input has ended, and all of it is acknowledged."""
        return self.ended and (self._mark_forgotten or not self.outbox.unacknowledged)

    @property
    def told(self) -> bool:
        """There is nothing (more) to tell the peer: it has heard BYE(done), or need not."""
        return not self._marked or not self.delivered or self.outbox.said_done

    def accept(self, pieces: Sequence[Piece], now: float, bookmark: Bookmark | None = None, *, together: bool = False) -> None:
        """Take pieces of the own input; with a bookmark, or ``together``, they are committed together, and with it."""
        if bookmark is None and not together:
            for piece in pieces:
                self.spool.append(piece)
        else:
            self.spool.append_together(pieces, bookmark)
        if self.outbox.started and self.outbox.unacknowledged > RUN_AHEAD:
            self.paused_until = now + PAUSE

    def room(self, now: float) -> int:
        """Bytes of input that may be accepted now."""
        if self.paused_until is not None and now < self.paused_until and self.outbox.unacknowledged > RUN_AHEAD:
            return 0
        return self.spool.room

    def end_pause(self, now: float) -> None:
        """Let the input go on, if its pause is over."""
        if self.paused_until is not None and now >= self.paused_until:
            self.paused_until = None
            self._offer_room()
            self.on_progress()

    def end(self, *, mark: bool) -> None:
        """The own input has ended, with an end mark or, if nobody waits for one, without."""
        self.ended = True
        if mark:
            self.spool.append(END)
            self._marked = True

    def forget_end_mark(self) -> None:
        """An end mark alone need not be delivered to a peer that takes nothing, or of a person to one that has left.

        In a spool it stays: a peer that takes it later would miss what is retired, and call that a loss.
        """
        if self.ended and not self.undelivered:
            self._mark_forgotten = True
            self._marked = False

    def meet(self, peer: Hello) -> None:
        """The peer has said who it is.

        :raises AnotherPeer: messages wait for another node, which keeps its state on disk. One that lost its spool has a new id,
            but its place; what it misses shows in its RESUME.
        """
        known = self.spool.recipient
        if known is not None and known.node != peer.node and not (known.place and known.place == peer.place):
            if self._bound and self.outbox.unacknowledged:
                raise AnotherPeer(ours=known.node.hex(), theirs=peer.node.hex())
            self.spool.begin_here()
        if peer.durable and peer.takes:
            if known is None and self.spool.retired > self.spool.began:
                # What was acknowledged went to nodes that kept nothing; one that keeps it from now on has lost nothing.
                self.spool.begin_here()
            self._bound = True
            if known is None or known.node != peer.node:
                self.spool.remember(Recipient(peer.node, peer.place, peer.name))

    def attach(self, sessions: Iterable[Session], peer: Hello | None) -> None:
        """Attach the stream to the first session that is up, if it needs one and the peer takes it."""
        if self.outbox.session is not None or self.input is Input.NONE or peer is None or not peer.takes:
            return
        for session in sessions:
            if not session.is_over:
                self.outbox.ask(session, files=peer.files)
                return

    def resume(self, session: Session, frame: Resume, peer: Hello) -> bool:
        """RESUME has come; see :meth:`mysocket.core.outbox.Outbox.resume`."""
        return self.outbox.resume(session, frame, durable=peer.durable)

    def acknowledged(self, session: Session, frame: Ack) -> bool:
        """ACK has come. True if now everything is acknowledged."""
        if frame.position > self.spool.retired:
            failpoints.reach("S6")
        if not self.outbox.acknowledged(session, frame):
            return False
        self.on_acknowledged(self.spool.retired)
        self._offer_room()
        self.on_progress()
        return not self.outbox.unacknowledged

    def _changed(self) -> None:
        """The spool has committed, or fetched, something."""
        self._offer_room()
        self.on_ready()
        self.on_progress()

    def _offer_room(self) -> None:
        # A source that reads little by little costs more than one that waits for room for a batch.
        if self.spool.room > MAX_PAYLOAD:
            self.on_room()

    def send(self, carrier: StreamProtocol) -> None:
        """Send what is due on the connection the stream is attached to, as long as it takes it."""
        if not carrier.writable or not self.outbox.waiting:
            return
        size = parts = 0
        for batch in self.outbox.due():
            carrier.session.send(batch)
            size += len(batch.payload)
            parts += 2
            self._counters.batches_out += 1
            self._counters.bytes_out += len(batch.payload)
            if batch.start < self._sent_to:
                self._counters.batches_resent += 1
                self._counters.bytes_resent += len(batch.payload)
            else:
                self._sent_to = batch.end
            if size >= MAX_PAYLOAD or parts >= PARTS:
                carrier.flush()
                failpoints.reach("S5")
                size = parts = 0
                if not carrier.writable:
                    break
        if parts:
            carrier.flush()
            failpoints.reach("S5")

    def say_done(self) -> bool:
        """Say BYE(done) if it is time to, once for each attachment; True if it was said now."""
        if not self.delivered or self.outbox.said_done:
            return False
        self.outbox.say_done()
        return self.outbox.said_done


def messages_text(messages: int | None, size: int) -> str:
    """So many messages and bytes, for people; None: nobody has counted them."""
    if messages is None:
        return f"{size} bytes"
    return f"{messages} message{'s' * (messages != 1)} ({size} bytes)"
