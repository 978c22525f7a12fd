"""What a link takes from its peer: batch to sink, then commit, then acknowledge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol as Interface

from mysocket.core.batch import Assembler, Batch
from mysocket.core.ending import Progress
from mysocket.core.inbox import BrokenOff, Inbox
from mysocket.core.session import Session
from mysocket.core.wire import Attach, Hello, Input, Start
from mysocket.ends.sink import Origin
from mysocket.errors import MySocketError, RemoteProtocolError


class Sink(Interface):
    """Where a link puts what it receives."""

    #: Parts of long messages must be put together first.
    whole: bool

    def write(self, block: Batch, origin: Origin) -> None:
        """Take a batch, or with :attr:`whole` a block of whole messages; call ``origin.written(block.end)`` when it is safe,
        in the order of the blocks.

        :raises MessageTooLong: it holds a message that is larger than the sink puts together.
        """


class Receiving:
    """The peer's stream on its way to the sink.

    :param sink: takes what is received, or None with ``--send-only``.
    :param budget: gives the bytes that may be granted to the peer.
    :param max_message: the largest message in bytes that is put together for the sink.
    """

    def __init__(self, sink: Sink | None, budget: Callable[[], int], max_message: int) -> None:
        self.inbox = Inbox()
        #: Data of the peer is known to be missing.
        self.broken = False
        #: The peer said BYE(done), or its stream will never go on.
        self.over = False
        self._sink = sink
        self._budget = budget
        self._assembler = Assembler(max_message) if sink is not None and sink.whole else None
        self._waiting: tuple[Session, Attach] | None = None
        self._refused: tuple[bytes, MySocketError] | None = None

    @property
    def takes(self) -> bool:
        """Is anything taken at all?"""
        return self._sink is not None

    def replaced_by(self, stream: bytes) -> bool:
        """The peer is there with ``stream``: True if another, which it sent before, is open and so will never go on."""
        if self.inbox.stream in (None, stream) or self.progress is not Progress.OPEN or self.broken:
            return False
        self.broken = True
        return True

    @property
    def progress(self) -> Progress:
        """How far the peer's stream has come."""
        if self.over:
            return Progress.BROKEN if self.broken else Progress.DONE
        if not self.inbox.taken:
            return Progress.EMPTY
        done = self.inbox.at_end and self.inbox.committed == self.inbox.taken
        return Progress.AT_END if done else Progress.OPEN

    def attach(self, session: Session, frame: Attach) -> Session | None:
        """ATTACH has come: answer it.

        :return: the connection that the stream was on, if it is another: close it.
        """
        if self._sink is None:
            raise RemoteProtocolError("a stream for a node that takes none")
        if self._refused is not None and self._refused[0] == frame.stream:
            raise self._refused[1]
        if frame.stream != self.inbox.stream and not self._nothing_in_sink:
            # Another stream waits until the sink has the one before: positions of the two must not meet.
            self._waiting = (session, frame)
            return None
        return self.inbox.attach(session, frame.stream, self.window())

    def start(self, session: Session, frame: Start) -> BrokenOff | None:
        """START has come.

        :return: the stream that this one replaces, if that was broken off.
        """
        broken = self.inbox.start(session, frame)
        self.broken = self.broken or broken is not None
        if self._assembler is not None and self.inbox.taken == self.inbox.committed:
            self._assembler.clear()
        self.over = False
        return broken

    def take(self, session: Session, batch: Batch, origin: Origin) -> None:
        """A batch has come.

        :raises MessageTooLong: it belongs to a message that is larger than what is put together.
        """
        if self._sink is None or not self.inbox.carries(session) or not self.inbox.take(batch):
            return
        block: Batch | None = batch
        if self._assembler is not None:
            block = self._assembler.feed(batch)
        if block is not None:
            self._sink.write(block, origin)

    def written(self, position: int) -> tuple[Session, Attach] | None:
        """The sink has all before ``position``.

        :return: an ATTACH that had to wait for that, and its session.
        """
        self.inbox.commit(position)
        if self._waiting is None or not self._nothing_in_sink:
            return None
        waiting, self._waiting = self._waiting, None
        return waiting

    def done(self, session: Session) -> bool:
        """BYE(done) has come; True if it counts on this connection."""
        if self.inbox.carries(session) or self.inbox.nothing_taken:
            self.over = True
            return True
        return False

    def peer_left(self, peer: Hello) -> None:
        """A peer left before the END. If it holds its stream in memory, that is broken off for good."""
        if peer.durable or self.over or self.inbox.at_end:
            return
        if self.inbox.taken or peer.input is Input.FINITE:
            self.broken = self.over = True
            self._forget_parts()

    def give_up(self, error: MySocketError) -> None:
        """The stream cannot be taken any further, now or later: what was taken beyond what is committed is lost to us."""
        self.broken = self.over = True
        self._forget_parts()
        if self.inbox.stream is not None:
            self._refused = (self.inbox.stream, error)

    def _forget_parts(self) -> None:
        if self._assembler is not None:
            self._assembler.clear()

    def window(self) -> int:
        """Bytes to grant beyond what is committed.

        The parts of a long message are held on top of the budget, or a message longer than that would never end.
        """
        return self._budget() + self._held

    def acknowledge(self, now: float, *, at_once: bool = False) -> None:
        """Send the ACK that is due; with ``at_once`` also one that could wait."""
        window = self.window()
        due = self.inbox.ack_due(window, now)
        if due is not None and (at_once or due <= now):
            self.inbox.acknowledge(window, now)

    def ack_due(self, now: float) -> float | None:
        """When the next ACK is due."""
        return self.inbox.ack_due(self.window(), now)

    @property
    def _held(self) -> int:
        return self._assembler.held if self._assembler is not None else 0

    @property
    def _nothing_in_sink(self) -> bool:
        return self.inbox.committed + self._held == self.inbox.taken
