"""What a link takes from its peer: batch to sink; when it is safe there, commit; then acknowledge.

Without a ledger (no ``--spool``) what the sink has counts as committed at once.
"""

from __future__ import annotations

from collections.abc import Callable

from mysocket import failpoints
from mysocket.core.batch import MAX_PAYLOAD, Assembler, Batch, Flag, Kind
from mysocket.core.ending import Progress
from mysocket.core.inbox import BrokenOff, Inbox, Mark
from mysocket.core.session import Session
from mysocket.core.transfer import read_chunk
from mysocket.core.wire import Attach, Hello, Input, Start
from mysocket.ends.escape import one_line
from mysocket.ends.sink import Origin, Sink
from mysocket.ends.sorting import SortingSink
from mysocket.errors import MySocketError, RemoteProtocolError, StateLoss
from mysocket.metrics import Counters
from mysocket.spool.ledger import MAX_REPEAT, Entry, Ledger


class Receiving:
    """The peer's stream on its way to the sink.

    :param sink: takes what is received, or None with ``--send-only``.
    :param budget: gives the bytes that may be granted to the peer.
    :param max_message: the largest message in bytes that is put together for the sink.
    :param ledger: where positions are committed, or None: they end with this process.
    :param now: the time in seconds since the epoch.
    :param accept_loss: go on where the peer's state was lost.
    :param counters: count what comes.
    :param files: the sink takes chunks of files, too.
    """

    def __init__(
        self,
        sink: Sink | None,
        budget: Callable[[], int],
        max_message: int,
        *,
        ledger: Ledger | None = None,
        now: Callable[[], float] = lambda: 0.0,
        accept_loss: bool = False,
        counters: Counters | None = None,
        files: bool = False,
    ) -> None:
        self.inbox = Inbox()
        self._counters = counters if counters is not None else Counters()
        #: Messages up to this position may have been written by an earlier process.
        self.repeats_until = 0
        #: Data of the peer is known to be missing.
        self.broken = False
        #: The peer said BYE(done), or its stream will never go on.
        self.over = False
        self._sink = sink
        self._budget = budget
        self._ledger = ledger
        self._now = now
        self._accept_loss = accept_loss
        self._loss_accepted = False
        self._assembler = Assembler(max_message) if sink is not None and sink.whole else None
        self._files = files
        self._in_message = False  # what was taken last goes on
        self._waiting: tuple[Session, Attach] | None = None
        self._refused: tuple[bytes, MySocketError] | None = None

    @property
    def takes(self) -> bool:
        """Is anything taken at all?"""
        return self._sink is not None

    def meet(self, peer: Hello, earlier: Entry | None) -> str | None:
        """The peer has said who it is.

        :param earlier: a stream that came from this peer before this process began.
        :return: what to tell the user: a stream that it sent before is open, and so will never go on; or its loss is accepted.
        :raises StateLoss: it is durable, and so was what it sent before: it has lost its spool.
        """
        if earlier is not None and self.inbox.stream is None:
            self._restore(earlier)
        before = self.inbox.stream
        if before is None or before == peer.stream:
            return None
        entry = self._ledger.find(before) if self._ledger is not None else None
        position, name = self.inbox.taken, one_line(peer.name, 64)
        if entry is not None and entry.durable and peer.durable:
            if not self._accept_loss:
                raise StateLoss(
                    f"{name or 'The peer'} has lost its spool: its stream stood at position {position} here, and what it "
                    "sends now is another one; what waited there is lost"
                )
            self._loss_accepted = True
            return f"accepted: {name or 'the peer'} sends a new stream; the one before stood at position {position} here"
        if self.progress is not Progress.OPEN or self.broken or entry is not None and entry.durable:
            return None
        self.broken = True
        return f"the stream of {name or 'the peer'} was broken off at position {position}: data is missing"

    def _restore(self, entry: Entry) -> None:
        self.inbox.restore(entry.stream, entry.mark)
        if self._sink is not None and self._sink.repeats:
            self.repeats_until = entry.repeats_until

    def _forget(self, stream: bytes) -> None:
        if self._ledger is not None:
            self._ledger.forget(stream)

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
        known = self._ledger.find(frame.stream) if self._ledger is not None else None
        if known is not None and frame.stream != self.inbox.stream:
            # It comes back behind another stream, which lived in memory and so is over.
            self._replaced(self.inbox.stream)
            self._restore(known)
        return self.inbox.attach(session, frame.stream, self.window())

    def start(self, session: Session, frame: Start, peer: Hello | None) -> BrokenOff | None:
        """START has come from ``peer``.

        :return: the stream that this one replaces, if that was broken off.
        """
        before = self.inbox.stream
        broken = self.inbox.start(session, frame)
        if self._sink is not None and self.inbox.carries(session):
            same = before is not None and before == self.inbox.stream
            self._sink.agreed(cut=same or not frame.position and not self._loss_accepted)
        if before is None:
            # A process that was killed may have written some of it before it could commit any.
            if self._ledger is not None and self._ledger.repeats and self._sink is not None and self._sink.repeats:
                self.repeats_until = frame.position + MAX_REPEAT
        elif before != self.inbox.stream:
            if self._replaced(before):
                broken = None
            self.repeats_until = 0
        if before != self.inbox.stream:
            self._in_message = False
        if frame.position and before != self.inbox.stream:
            # What is written next is then known to be of this stream, also by a process that finds it without a position.
            self._enter(Mark(frame.position, frame.chain, False), peer, lambda: None)
        self.broken = self.broken or broken is not None
        if self._assembler is not None and self.inbox.taken == self.inbox.committed:
            self._assembler.clear()
        self.over = False
        return broken

    def _replaced(self, stream: bytes | None) -> bool:
        """Another stream takes the place of ``stream``. True: that was durable, so nothing of it is missing: it may come back, or
        its loss is accepted."""
        entry = self._ledger.find(stream) if self._ledger is not None and stream is not None else None
        durable = entry is not None and entry.durable
        if stream is not None and (self._loss_accepted or not durable):
            self._forget(stream)
        self._loss_accepted = False
        return durable

    def take(self, session: Session, batch: Batch, origin: Origin) -> None:
        """A batch has come.

        :raises MessageTooLong: it belongs to a message that is larger than what is put together.
        """
        if self._sink is None or not self.inbox.carries(session):
            return
        if batch.kind == Kind.FILE and batch.start == self.inbox.taken:
            self._check_chunk(batch)
        if not self.inbox.take(batch):
            return
        failpoints.reach("R1")
        self._counters.batches_in += 1
        self._counters.bytes_in += len(batch.payload)
        if batch.kind == Kind.FILE:
            # It is no part of a message, however large.
            self._sink.write(batch, origin)
            return
        self._in_message = bool(batch.flags & Flag.MORE)
        block: Batch | None = batch
        if self._assembler is not None:
            # A sender that was killed within a message may come back without the rest of its input.
            unfinished = self._assembler.end() if batch.kind == Kind.END else None
            if unfinished is not None:
                self._sink.write(unfinished, origin)
            block = self._assembler.feed(batch)
        if block is not None:
            self._sink.write(block, origin)

    def _check_chunk(self, batch: Batch) -> None:
        """Before it counts as taken: what is refused here is not passed over, but comes again."""
        if not self._files:
            raise RemoteProtocolError("a piece of a file to a node that takes none")
        if batch.flags:
            raise RemoteProtocolError("a piece of a file with flags")
        if self._in_message:
            raise RemoteProtocolError("a piece of a file within a message")
        read_chunk(batch.payload)

    def written(self, position: int, peer: Hello | None, committed: Callable[[int], None]) -> None:
        """The sink has all before ``position``: commit it, then call ``committed`` with it."""
        self._enter(self.inbox.mark(position), peer, lambda: committed(position))

    def _enter(self, mark: Mark, peer: Hello | None, done: Callable[[], None]) -> None:
        """Commit that the stream stands at ``mark``, then call ``done``."""
        if self._ledger is None or peer is None or self.inbox.stream is None:
            done()
            return
        sender = peer.node, peer.place, peer.durable, peer.name
        self._ledger.commit(Entry(self.inbox.stream, *sender, mark, self._now(), self.repeats_until), done)

    def committed(self, position: int) -> tuple[Session, Attach] | None:
        """All before ``position`` is safe.

        :return: an ATTACH that had to wait for that, and its session.
        """
        failpoints.reach("R3")
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

    def finished(self, peer: Hello) -> None:
        """BYE(done) has come and all is committed: of a stream that lived in the peer's memory nothing will come again."""
        if isinstance(self._sink, SortingSink) and self.inbox.stream is not None:
            self._sink.finished(self.inbox.stream)
        if self.inbox.stream is not None and not peer.durable:
            failpoints.reach("R8")
            self._forget(self.inbox.stream)

    def peer_left(self, peer: Hello) -> None:
        """A peer left before the END. If it holds its stream in memory, that is broken off for good."""
        if peer.durable or self.over or self.inbox.at_end:
            return
        if self.inbox.taken or peer.input is Input.FINITE:
            self.broken = self.over = True
            self._forget_parts()

    def lost_state(self) -> None:
        """The peer says that what we have and what it sent do not fit: nothing will come of this stream."""
        self.broken = self.over = True

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
        budget = self._budget()
        if self._sink is not None:
            budget = max(0, min(budget, self._sink.room))
        if self._ledger is not None and self._sink is not None and self._sink.repeats:
            budget = min(budget, MAX_REPEAT - MAX_PAYLOAD)
        return budget + self._held

    def acknowledge(self, now: float, *, at_once: bool = False) -> None:
        """Send the ACK that is due; with ``at_once`` also one that could wait."""
        window = self.window()
        due = self.inbox.ack_due(window, now, self._held)
        if due is not None and (at_once or due <= now):
            self.inbox.acknowledge(window, now)
            failpoints.reach("R4")

    def ack_due(self, now: float) -> float | None:
        """When the next ACK is due."""
        return self.inbox.ack_due(self.window(), now, self._held)

    @property
    def _held(self) -> int:
        return self._assembler.held if self._assembler is not None else 0

    @property
    def _nothing_in_sink(self) -> bool:
        return self.inbox.committed + self._held == self.inbox.taken
