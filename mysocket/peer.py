"""One peer, as a program sees it: send, receive, finish, close."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.internet.defer import fail as failed

from mysocket.core.batch import MAX_PAYLOAD, Batch, Flag, Kind, Message, Piece
from mysocket.core.ending import Progress
from mysocket.errors import BrokenOff, LocalProtocolError, MySocketError, PeerClosed
from mysocket.link import Link


class Peer:
    """The relation to one other node. It outlives connections: when one is lost, another is made or waited for.

    Made by :func:`~mysocket.api.connect` and :meth:`~mysocket.api.Listener.accept`. ``take``, ``broken_off``, ``changed``,
    ``fail`` and ``when_linked`` are for :mod:`mysocket.api`.
    """

    def __init__(self, link: Link, close: Callable[[], Deferred[None]]) -> None:
        self._link = link
        self._close = close
        self._unsent: deque[tuple[list[Piece], Deferred[None]]] = deque()
        self._sent: deque[tuple[int, Deferred[None]]] = deque()
        # Messages of each batch, and where it ends; or what became of the stream they came from.
        self._blocks: deque[tuple[deque[Message], int] | MySocketError] = deque()
        self._readers: deque[Deferred[Message]] = deque()
        self._error: MySocketError | None = None
        self._finishing = False
        self._linked: Deferred[Peer] | None = None
        link.sending.on_room = self._flush
        link.sending.on_acknowledged = self._acknowledged

    @property
    def name(self) -> str:
        """The peer's name and address, for people."""
        return self._link.peer_text

    @property
    def is_linked(self) -> bool:
        """Is a connection up at this moment?"""
        return self._link.linked

    @property
    def unacknowledged(self) -> int:
        """Bytes that were given to :meth:`send` and are not acknowledged."""
        waiting = sum(len(piece.payload) for pieces, _ in self._unsent for piece in pieces)
        return self._link.sending.undelivered + waiting

    def send(self, message: bytes) -> Deferred[None]:
        """Send one message of any bytes and any length.

        :return: fires when the peer has acknowledged it: a program has taken it, or a command has written it. Fails with the
            :class:`~mysocket.errors.MySocketError` that ends the relation. Waiting for it bounds what is held in memory.
        """
        if self._error is not None:
            return failed(self._error)
        if self._finishing:
            raise LocalProtocolError("send() after finish()")
        done: Deferred[None] = Deferred()
        self._unsent.append((_pieces(message), done))
        self._flush()
        return done

    def receive(self) -> Deferred[Message]:
        """The next message. It counts as received when this fires, and is acknowledged with the last message of its batch; what
        a program sends is a batch of its own.

        :return: fails with :class:`~mysocket.errors.PeerClosed` when the peer has finished and nothing is left, with
            :class:`~mysocket.errors.BrokenOff` when it left without finishing, or with the error that ends the relation.
        """
        reader: Deferred[Message] = Deferred(self._forget_reader)
        self._readers.append(reader)
        self._deliver()
        return reader

    def __aiter__(self) -> Peer:
        return self

    async def __anext__(self) -> Message:
        try:
            return await self.receive()
        except PeerClosed:
            raise StopAsyncIteration from None

    def finish(self) -> Deferred[None]:
        """Say that nothing more will be sent; :meth:`receive` goes on.

        :return: fires when all that was sent is acknowledged; fails as :meth:`send` does.
        """
        if self._error is not None:
            return failed(self._error)
        self._finishing = True
        done: Deferred[None] = Deferred()
        self._unsent.append(([], done))
        self._flush()
        return done

    def close(self) -> Deferred[None]:
        """Leave. What is not acknowledged is given up; wait for :meth:`send` or :meth:`finish` first to give up nothing."""
        return self._close()

    # What happens ---------------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        while self._unsent and self._link.room > 0:
            pieces, done = self._unsent.popleft()
            if pieces:
                end = self._link.accept(pieces)
            else:
                self._link.end_input()
                end = self._link.sending.spool.end
            if self._error is not None:
                # The peer takes nothing: the link has said so meanwhile.
                done.errback(self._error)
                return
            self._sent.append((end, done))
        self._acknowledged(self._link.sending.spool.retired)

    def _acknowledged(self, position: int) -> None:
        while self._sent and self._sent[0][0] <= position:
            self._sent.popleft()[1].callback(None)

    def take(self, block: Batch, messages: Sequence[Message]) -> None:
        # Acknowledged are whole batches: with the last message of each, and an end mark with what is before it.
        self._blocks.append((deque(messages), block.end))
        self._deliver()

    def _deliver(self) -> None:
        while self._blocks:
            block = self._blocks[0]
            if isinstance(block, MySocketError):
                if not self._readers:
                    return
                self._blocks.popleft()
                self._readers.popleft().errback(block)
                continue
            messages, end = block
            if messages and not self._readers:
                return
            reader = self._readers.popleft() if messages else None
            message = messages.popleft() if messages else None
            if not messages:
                self._blocks.popleft()
                self._link.written(end)
            if reader is not None and message is not None:
                reader.callback(message)
        self._check_end()

    def _check_end(self) -> None:
        facts = self._link.facts()
        error = self._error
        if error is None and facts is not None:
            if facts.progress is Progress.DONE:
                error = PeerClosed(peer=self._link.peer_text)
            elif facts.progress is Progress.BROKEN:
                error = BrokenOff(peer=self._link.peer_text)
        if error is None or self._blocks:
            return
        readers, self._readers = self._readers, deque()
        for reader in readers:
            reader.errback(error)

    def _forget_reader(self, reader: Deferred[Message]) -> None:
        if reader in self._readers:
            self._readers.remove(reader)

    def broken_off(self) -> None:
        """The peer was killed and started again: tell the reader once, between what came before and what comes now."""
        self._blocks.append(BrokenOff(peer=self._link.peer_text))
        self._deliver()

    def changed(self) -> None:
        if self._linked is not None and self._link.linked:
            linked, self._linked = self._linked, None
            linked.callback(self)
        self._check_end()

    def fail(self, error: MySocketError) -> None:
        if self._error is not None:
            return
        self._error = error
        waiting = [done for _, done in self._sent] + [done for _, done in self._unsent]
        self._sent.clear()
        self._unsent.clear()
        for done in waiting:
            done.errback(error)
        if self._linked is not None:
            linked, self._linked = self._linked, None
            linked.errback(error)
        self._check_end()

    def _give_up(self) -> None:
        # Deferred.cancel() itself fails who waits.
        self._linked = None
        self._close()

    def when_linked(self) -> Deferred[Peer]:
        if self._link.linked:
            return succeed(self)
        self._linked = Deferred(lambda _: self._give_up())
        return self._linked


def _pieces(message: bytes) -> list[Piece]:
    """One message as pieces: as a line if it holds no newline, so that the other side may show it as one."""
    kind = Kind.BLOB
    if b"\n" not in message:
        kind, message = Kind.LINES, message + b"\n"
    parts = [message[at : at + MAX_PAYLOAD] for at in range(0, len(message), MAX_PAYLOAD)]
    return [Piece(kind, Flag.MORE, part) for part in parts[:-1]] + [Piece(kind, 0, parts[-1])]
