"""The own input of a link: appended to the spool before it is sent, retired by ACK."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mysocket.carriers.stream import StreamProtocol
from mysocket.core.batch import END, MAX_PAYLOAD, Piece, count
from mysocket.core.outbox import Outbox
from mysocket.core.session import Session
from mysocket.core.wire import Ack, Hello, Input, Resume
from mysocket.spool.interface import Spool

#: Parts that are handed to a carrier at once; the kernel takes at most 1024 (IOV_MAX).
PARTS = 256


class Sending:
    """What a link has to send.

    :param input: what the own input is; with NONE nothing is ever sent.
    """

    def __init__(self, spool: Spool, input: Input) -> None:
        self.spool = spool
        self.outbox = Outbox(spool.stream, spool)
        self.input = input
        #: The own input has ended.
        self.ended = input is Input.NONE
        #: Called when there is room for input again, and with the position that is acknowledged.
        self.on_room: Callable[[], None] = lambda: None
        self.on_acknowledged: Callable[[int], None] = lambda position: None
        self._end_mark = False  # an END was appended

    @property
    def undelivered(self) -> int:
        """Bytes of messages that are not acknowledged; an end mark is no message."""
        return max(0, self.outbox.unacknowledged - (len(END.payload) if self._end_mark else 0))

    def undelivered_text(self) -> str:
        """How many messages and bytes that is, for people. Counts, so it is for the end, or for who asks."""
        messages, at = 0, self.spool.retired
        while at < self.spool.end:
            batch = self.spool.read(at)
            messages += count(batch)
            at = batch.end
        return f"{messages} message{'s' * (messages != 1)} ({self.undelivered} bytes)"

    @property
    def delivered(self) -> bool:
        """The own input has ended, and all of it is acknowledged."""
        return self.ended and not self.outbox.unacknowledged

    @property
    def told(self) -> bool:
        """There is nothing (more) to tell the peer: it has heard BYE(done), or need not."""
        return not self._end_mark or not self.delivered or self.outbox.said_done

    def accept(self, pieces: Iterable[Piece]) -> None:
        """Take pieces of the own input."""
        for piece in pieces:
            self.spool.append(piece)

    def end(self, *, mark: bool) -> None:
        """The own input has ended, with an end mark or, if nobody waits for one, without."""
        self.ended = True
        if mark:
            self.spool.append(END)
            self._end_mark = True

    def forget_end_mark(self) -> None:
        """An end mark alone need not be delivered to a peer that takes nothing."""
        if self.ended and not self.undelivered:
            self.spool.retire(self.spool.end)
            self._end_mark = False

    def attach(self, sessions: Iterable[Session], peer: Hello | None) -> None:
        """Attach the stream to the first session that is up, if it needs one and the peer takes it."""
        if self.outbox.session is not None or self.input is Input.NONE or peer is None or not peer.takes:
            return
        for session in sessions:
            if not session.is_over:
                self.outbox.ask(session)
                return

    def resume(self, session: Session, frame: Resume, peer: Hello) -> bool:
        """RESUME has come; see :meth:`mysocket.core.outbox.Outbox.resume`."""
        return self.outbox.resume(session, frame, durable=peer.durable)

    def acknowledged(self, session: Session, frame: Ack) -> bool:
        """ACK has come. True if now everything is acknowledged."""
        if not self.outbox.acknowledged(session, frame):
            return False
        self.on_acknowledged(self.spool.retired)
        if self.spool.room > MAX_PAYLOAD:
            self.on_room()
        return not self.outbox.unacknowledged

    def send(self, carrier: StreamProtocol) -> None:
        """Send what is due on the connection the stream is attached to, as long as it takes it."""
        if not carrier.writable or not self.outbox.waiting:
            return
        size = parts = 0
        for batch in self.outbox.due():
            carrier.session.send(batch)
            size += len(batch.payload)
            parts += 2
            if size >= MAX_PAYLOAD or parts >= PARTS:
                carrier.flush()
                size = parts = 0
                if not carrier.writable:
                    break

    def say_done(self) -> bool:
        """Say BYE(done) if it is time to, once for each attachment; True if it was said now."""
        if not self.delivered or self.outbox.said_done:
            return False
        self.outbox.say_done()
        return self.outbox.said_done
