"""The sending half of a link: one stream, what of it is unacknowledged, on which connection it is carried.

Rules (docs/protocol.md; each was put there by a counter-example)

1. A stream is attached to one connection at a time, chosen here: the first that is up. Another only when that one is seen dead.
2. Batches go out only after they are committed, after START, only on that connection, and only if they *start* below the window.
3. RESUME is not an acknowledgement and retires nothing. Only ACK retires.
4. A RESUME below what was retired, above what is there, or with another chain value is state loss: stop, name the positions.
5. To a peer that takes no files no FILE batch goes: in front of the first one the stream stops, and waits for a peer that does.
6. *None* from a receiver which keeps its state in memory means it was restarted: go on at the first unacknowledged position. From
   a durable one it means that it lost its state, if anything was retired.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol as Interface

from mysocket.core.batch import Batch, Kind
from mysocket.core.session import Session
from mysocket.core.wire import NONE, Ack, Reason, Resume, Start
from mysocket.errors import RemoteProtocolError, StateLoss


class Backlog(Interface):
    """What the sending half asks of the place where its batches wait."""

    #: The id of the stream, 16 bytes.
    stream: bytes
    #: Where the stream began: 0, or higher if it goes on in the place of another.
    began: int
    #: Everything before this position is acknowledged and gone.
    retired: int
    #: Everything before this position is safe, and may be sent.
    committed: int
    #: Where the next batch will start.
    end: int

    def read(self, position: int) -> Batch | None:
        """The batch that starts at ``position``, which is in [retired, committed), or None while it is being fetched."""

    def chain_at(self, position: int) -> int | None:
        """The chain value at ``position``, or None if no batch that is known starts or ends there."""

    def is_boundary(self, position: int) -> bool:
        """Can a batch end at ``position``, as far as is known at once?"""

    def retire(self, position: int) -> None:
        """Forget what ends at or before ``position``."""


class Outbox:
    """The sending half."""

    def __init__(self, backlog: Backlog) -> None:
        self.backlog = backlog
        #: The connection the stream is attached to, or None.
        self.session: Session | None = None
        #: START has gone: batches flow.
        self.started = False
        #: BYE(done) has gone, on the connection the stream is attached to.
        self.said_done = False
        self._next = 0
        self._window = 0
        self._files = False  # the peer takes them
        self._held: Batch | None = None  # a chunk of a file that was read, and is not for this peer

    @property
    def unacknowledged(self) -> int:
        """Bytes that were accepted and are not acknowledged."""
        return self.backlog.end - self.backlog.retired

    def ask(self, session: Session, *, files: bool = False) -> None:
        """Attach the stream to ``session``; there must be no other.

        :param files: the peer takes files.
        """
        self.session, self.started, self.said_done = session, False, False
        self._files, self._held = files, None
        session.attach(self.backlog.stream)

    def lost(self, session: Session) -> bool:
        """``session`` is dead. True if the stream was attached to it and needs another."""
        if session is not self.session:
            return False
        self.session, self.started = None, False
        return True

    def resume(self, session: Session, frame: Resume, *, durable: bool) -> bool:
        """Compare what the receiver has with what is here, and START.

        :param durable: whether the receiver keeps its state on disk.
        :return: True if the receiver was restarted and has missed what was retired.
        :raises StateLoss: what it has is not what was sent.
        """
        if session is not self.session or frame.stream != self.backlog.stream:
            raise RemoteProtocolError("RESUME for another stream")
        log = self.backlog
        restarted = frame.position == NONE and log.retired > log.began
        if frame.position == NONE:
            if restarted and durable:
                raise StateLoss(f"The peer lost its state: up to position {log.retired} was delivered before")
            position = log.retired
        else:
            position = frame.position
            if position < log.retired:
                raise StateLoss(f"The peer is at position {position}, but {log.retired} was acknowledged")
            if position > log.committed:
                raise StateLoss(f"The peer is at position {position}, but only {log.committed} was ever sent")
        here = log.chain_at(position)
        if here is None or frame.position != NONE and frame.chain != here:
            raise StateLoss(f"The peer has other data before position {position} than was sent from here")
        self._next, self._window, self._held = position, frame.window, None
        self.started = True
        session.start(Start(position, here))
        return restarted

    def acknowledged(self, session: Session, frame: Ack) -> bool:
        """Retire what ``frame`` acknowledges; True if it was anything."""
        if session is not self.session or not self.started:
            return False
        self._window = max(self._window, frame.window)
        log = self.backlog
        if frame.position <= log.retired:
            return False
        if frame.position > self._next or not log.is_boundary(frame.position):
            raise RemoteProtocolError(f"ACK {frame.position}, where {self._next} was sent")
        log.retire(frame.position)
        return True

    def due(self) -> Iterator[Batch]:
        """The batches that may be sent now, each counted as sent when it is taken."""
        while self.waiting:
            batch = self.backlog.read(self._next)
            if batch is None:
                return
            if batch.kind == Kind.FILE and not self._files:
                self._held = batch
                return
            self._next = batch.end
            yield batch

    @property
    def waiting(self) -> bool:
        """Is there anything that could be sent at once?"""
        return self.started and not self.at_file and self._next < self.backlog.committed and self._next < self._window

    @property
    def at_file(self) -> bool:
        """Has the stream come to a file, which the peer does not take?"""
        return self.started and self._held is not None

    def say_done(self) -> None:
        """Say BYE(done), once for each attachment; the input must have ended and all be acknowledged."""
        if self.session is not None and self.started and not self.said_done:
            self.said_done = True
            self.session.bye(Reason.DONE)
