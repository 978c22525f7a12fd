"""The receiving half of a link: how far the peer's stream has come, what is new, what is old, what to acknowledge.

Rules

1. ATTACH moves the stream: forget where it was attached, close that connection if it is another, answer RESUME with what is
   *taken*.
2. START must equal the RESUME just sent; after *none* it is taken as given. An ACK of what is *committed* follows each.
3. Batches and BYE count only on the attached connection; elsewhere they are dropped.
4. A batch that starts at *taken* is taken; one that ends at or before it is old and only causes another ack; anything else is a
   protocol error. So is a chain value that does not fit.
5. Acks name *committed*, never the end of the batch that caused them, and go to the connection the stream is attached to now.
6. A new stream after one whose last batch was no END: the old one is broken off.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from mysocket.core.batch import Batch, Kind, chain
from mysocket.core.session import Session
from mysocket.core.wire import NONE, Resume, Start
from mysocket.errors import RemoteProtocolError

#: No stream comes so far; positions and windows beyond it need not fit into a frame.
MAX_POSITION = 2**62
#: Seconds between two acks, at least, unless a quarter of the window is due, and that is no less than so many bytes.
ACK_INTERVAL = 0.020
ACK_SIZE = 64 * 1024


class BrokenOff(NamedTuple):
    """A stream was replaced by another before its END: where it stood, and where the new one starts."""

    position: int
    new_position: int


class Mark(NamedTuple):
    """Where a batch ended: the position, the chain value there, and whether the batch was an END."""

    position: int
    chain: int
    at_end: bool


class Inbox:
    """The receiving half."""

    def __init__(self) -> None:
        #: The peer's stream, once a START has named it.
        self.stream: bytes | None = None
        #: Where the stream is attached, or None.
        self.session: Session | None = None
        #: Given to the sink, and safe there.
        self.taken = 0
        self.committed = 0
        #: The last batch that was taken is an END.
        self.at_end = False
        self._chain = 0
        self._marks: deque[Mark] = deque()  # batch ends between committed and taken
        self._said: Resume | None = None
        self._acked = 0
        self._granted = 0
        self._acked_at = float("-inf")
        self._owed = False

    @property
    def nothing_taken(self) -> bool:
        return self.stream is None

    def restore(self, stream: bytes, mark: Mark) -> None:
        """Go on with a stream that an earlier process of this node has committed up to ``mark``."""
        self.stream = stream
        self.taken = self.committed = self._acked = mark.position
        self._chain, self.at_end = mark.chain, mark.at_end
        self._marks.clear()

    def attach(self, session: Session, stream: bytes, window: int) -> Session | None:
        """Answer ATTACH with RESUME; ``window`` is granted in bytes beyond what is committed.

        :return: the connection the stream was on, if it is another one: close it.
        """
        before, self.session = self.session, session
        if stream == self.stream:
            self._said = Resume(stream, self.taken, self._chain, self.committed + window)
        else:
            self._said = Resume(stream, NONE, 0, window)
        self._granted = self._said.window
        session.resume(self._said)
        return before if before is not session else None

    def start(self, session: Session, frame: Start) -> BrokenOff | None:
        """Take START; from here batches count.

        :return: the stream that this one replaces, if that was broken off.
        """
        said, self._said = self._said, None
        if session is not self.session or said is None:
            return None
        broken: BrokenOff | None = None
        if said.position == NONE:
            if frame.position > MAX_POSITION:
                raise RemoteProtocolError(f"START {frame.position}, which no stream can reach")
            if self.taken and not self.at_end:
                broken = BrokenOff(self.taken, frame.position)
            self.restore(said.stream, Mark(frame.position, frame.chain, False))
        elif (frame.position, frame.chain) != (said.position, said.chain):
            raise RemoteProtocolError(f"START {frame.position}, where RESUME said {said.position}")
        self._owed = True
        self._acked_at = float("-inf")
        return broken

    def carries(self, session: Session) -> bool:
        """Do batches and BYE on ``session`` count?"""
        return session is self.session and self._said is None

    def take(self, batch: Batch) -> bool:
        """Is the batch, which came on the attached connection, new? It counts as taken then."""
        if batch.start != self.taken:
            if batch.end <= self.taken:
                self._owed = True
                return False
            raise RemoteProtocolError(f"a batch at {batch.start}, where {self.taken} was next")
        value = chain(batch.payload, self._chain)
        if value != batch.checksum:
            raise RemoteProtocolError(f"a batch at {batch.start} whose checksum does not fit")
        self._chain = value
        self.taken = batch.end
        self.at_end = batch.kind == Kind.END
        self._marks.append(Mark(batch.end, value, self.at_end))
        return True

    def mark(self, position: int) -> Mark:
        """What to commit when the sink has all before ``position``, where a batch ended."""
        mark = self._marks.popleft()
        while mark.position < position:
            mark = self._marks.popleft()
        return mark

    def commit(self, position: int) -> None:
        """All before ``position`` is safe."""
        self.committed = position
        self._owed = True

    def ack_due(self, window: int, now: float, held: int = 0) -> float | None:
        """When the next ACK is due: now or earlier, later, or None.

        The last of a stream does not wait, nor does a window that has grown.

        :param held: bytes of ``window`` that are there for what was taken already, and cannot be committed yet.
        """
        if self.session is None or self._said is not None:
            return None
        grown, quarter = self.committed + window - self._granted, max(1, (window - held) // 4)
        # A window that is next to nothing grows by each block; an ACK for each would be as many as blocks.
        if grown >= max(quarter, ACK_SIZE):
            return now
        if not self._owed:
            return self._acked_at + ACK_INTERVAL if grown >= quarter else None
        if self.committed - self._acked >= max(quarter, ACK_SIZE) or self.at_end and self.committed == self.taken:
            return now
        return self._acked_at + ACK_INTERVAL

    def acknowledge(self, window: int, now: float) -> None:
        """Send the ACK that is due, and grant ``window`` bytes beyond what is committed."""
        if self.session is not None:
            self._owed = False
            self._acked, self._acked_at = self.committed, now
            # What was granted before stays so.
            self._granted = max(self._granted, self.committed + window)
            self.session.ack(self.committed, self._granted)

    def lost(self, session: Session) -> None:
        """``session`` is dead."""
        if session is self.session:
            self.session = self._said = None
