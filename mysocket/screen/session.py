"""A person's session: what is typed goes to the link, what arrives is shown, and every own message has its mark.

Rules

1. What was typed is kept until somebody takes it, from the first key on: before the first peer has come, too.
2. An own message is shown above, once and for good, when the peer has acknowledged it. Until then it stands below what has
   arrived. What is still waiting when the session ends is shown with the mark that says so.
3. A received message counts as written when the terminal has taken its bytes.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred

from mysocket.core.batch import Batch, LineCutter, Piece, WholeCutter, split
from mysocket.core.wire import Input
from mysocket.ends.descriptors import Private, What, Writer
from mysocket.ends.escape import escape, one_line
from mysocket.ends.sink import Origin
from mysocket.ends.source import Taker
from mysocket.ends.stdio import Ends
from mysocket.ends.writing import STDOUT
from mysocket.errors import MySocketError, ScreenFailed
from mysocket.screen.commands import HELP, Command, Unknown, file_name, meaning
from mysocket.screen.history import history_path, open_history
from mysocket.screen.lines import ACKNOWLEDGED, COLOURS, NO_COLOURS, WAITING, Lines
from mysocket.screen.own import Message, Waiting
from mysocket.screen.prompt import Line, Prompt
from mysocket.screen.status import Facts, clip, fitted, invitation, parts, report
from mysocket.screen.transfers import Transfers

#: Own messages that are listed while they wait; and how many of their characters are looked at for each cell.
LISTED, LOOKED_AT = 5, 8
WELCOME = "Enter message to send. All messages received will be shown above. Type EXIT to end the program, /help to know more."


def pieces(text: str) -> list[Piece]:
    """A message as pieces of a stream. Several lines are one message: a BLOB, which ends with a line as others do."""
    data = text.encode("utf-8", "surrogateescape") + b"\n"
    if "\n" not in text:
        return LineCutter().feed(data)
    cutter = WholeCutter()
    return [*cutter.feed(data), *cutter.finish()]


class ScreenSink:
    """A link's sink: lines above the prompt. Whole messages only, so that none is torn."""

    whole = True
    room = sys.maxsize
    #: What is on the screen stays there when this process dies.
    repeats = True

    def __init__(self, session: Session, max_message: int) -> None:
        self._session = session
        self._max_message = max_message

    def write(self, block: Batch, origin: Origin) -> None:
        name = (origin.peer.name if origin.peer is not None else "") or origin.peer_text
        position, now = block.end, time.time()
        received = self._session.lines.received
        messages = split(block, self._max_message)
        if len(block.payload) > self._max_message:
            # One of them may be too long: that must be known now, not when it is drawn.
            messages = iter(list(messages))
        self._session.prompt.show(
            (line for message in messages for line in received(message.payload, name, now)), lambda: origin.written(position)
        )

    def agreed(self, *, cut: bool) -> None:
        """What is shown cannot be taken back."""


class Session(Ends):
    """The ends of a process at whose terminal a person sits.

    :param full_time: show the date and the fraction of each time (``--timestamps``).
    :param rest: of :class:`~mysocket.ends.stdio.Ends`.
    :ivar facts: tells how things stand.
    :ivar interrupt: called when the person wants to leave without waiting.
    :ivar changed: called when the input has ended and nobody has taken it.
    """

    def __init__(
        self, reactor: Any, *, max_message: int, full_time: bool = False, output: str | None = None, **rest: Any
    ) -> None:
        super().__init__(reactor, stdin=What.TERMINAL, max_message=max_message, output=output, **rest)
        self.facts: Callable[[], Facts] = lambda: Facts(starting=True)
        self.interrupt: Callable[[], None] = lambda: None
        self.changed: Callable[[], None] = lambda: None
        self.transfers = Transfers(reactor.seconds, self._file_arrived, lambda: self.prompt.refresh())
        environ = os.environ
        self.lines = Lines(NO_COLOURS if environ.get("NO_COLOR") else COLOURS, full_time=full_time)
        history, problem = open_history(history_path(environ))
        self._history_problem = problem
        self._private = Private(STDOUT, os.O_RDWR)
        self._screen = Writer(reactor, self._private, "the terminal", self._failed)
        self.prompt = Prompt(reactor, self._screen, STDOUT, self, history, environ)
        self._max = max_message
        self._waiting = Waiting()
        self._taker: Taker | None = None
        self._on_end: Callable[[], None] = lambda: None
        self._on_failure: Callable[[MySocketError], None] = lambda error: None
        self._failure: MySocketError | None = None
        self._ending = self._over = False

    def _failed(self, error: MySocketError) -> None:
        self._failure = error
        self._on_failure(error)

    def tell_failures(self, failed: Callable[[MySocketError], None]) -> None:
        """Call ``failed`` when the terminal or the screen fails, or has."""
        self._on_failure = failed
        if self._failure is not None:
            self._reactor.callLater(0, failed, self._failure)

    # Ends -----------------------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Show the prompt. The reactor has begun to run."""
        self.note(WELCOME)
        if self._history_problem:
            self.note(f"no history is kept: {self._history_problem}")
        # A call later asyncio's loop runs. And not before there is something above it: tmux pushes a prompt that stood at the top
        # of its window into the scrollback when it is erased.
        self._reactor.callLater(0, self.prompt.start)

    def greet(self) -> None:
        """That was done at the beginning."""

    def sink(self, *, failed: Callable[[MySocketError], None], shared: bool, raw: bool = False) -> Any:
        if self._output is not None:
            return super().sink(failed=failed, shared=shared, raw=raw)
        return ScreenSink(self, self._max)

    def start_input(self, taker: Taker, *, failed: Callable[[MySocketError], None], ended: Callable[[], None]) -> None:
        if self._taker is not None or self.input is not Input.OPEN:
            return
        self._taker, self._on_end = taker, ended
        taker.when_room(self._give)
        self._give()

    def acknowledged(self, position: int) -> None:
        """The peer has all before ``position``."""
        for message in self._waiting.acknowledged(position):
            self.prompt.show(self.lines.own(message.text, message.at, ACKNOWLEDGED))
        self.prompt.refresh()

    def stop_input(self) -> None:
        self._over = True
        self.prompt.close_input()

    def close(self) -> Deferred[None]:
        """The prompt goes when all has been said (:meth:`leave`)."""
        closed = super().close()
        untaken = self._waiting.untaken
        if untaken:
            self.note(f"not delivered: {untaken} message{'s' * (untaken != 1)}; nobody has come for what was typed", problem=True)
        for message in self._waiting.drain():
            self.prompt.show(self.lines.own(message.text, message.at, WAITING))
        return closed

    # The screen -----------------------------------------------------------------------------------------------------------------

    def note(self, text: str, *, problem: bool = False) -> None:
        """Show a sentence of this program."""
        self.prompt.show([self.lines.note(text, self.prompt.size.columns, problem=problem)])

    def leave(self) -> Deferred[None]:
        """Give the terminal back; fires when that is done."""
        return Deferred.fromCoroutine(self._leave())

    async def _leave(self) -> None:
        await Deferred.fromFuture(asyncio.ensure_future(self.prompt.stop()))
        self._screen.close()

    # What is typed: the prompt's scene ------------------------------------------------------------------------------------------

    def line(self, text: str) -> bool:
        found = meaning(text)
        if isinstance(found, Unknown):
            problem = f"Write /{found.form}" if found.form else f"There is no command /{found.name}; /help lists them"
            self.note(f"{problem}. //{text[1:]} would send the line as it is.", problem=True)
            return False
        if isinstance(found, Command):
            return self._command(found)
        message = Message(found.text, time.time())
        self._waiting.add(message)
        self._give()
        self.prompt.refresh()
        return True

    def _give(self) -> None:
        taker = self._taker
        while self._waiting.untaken:
            if taker is None or taker.room <= 0:
                return
            message = self._waiting.take()
            message.position = taker.accept(pieces(message.text))
        if self._ending and taker is not None and not self.input_ended:
            self.input_ended = True
            taker.end_input(wanted=False)
            self._on_end()

    def _command(self, command: Command) -> bool:
        if command.name == "quit":
            self.end()
        elif command.name == "help":
            self.note(HELP)
        elif command.name == "status":
            self.note(report(self._facts(), self.transfers.lines(self.prompt.size.columns)))
        elif command.name == "cancel":
            name = self.transfers.cancel()
            self.note(f"cancelled: {one_line(name)}" if name else "no file is being sent")
        else:
            try:
                self.transfers.send(file_name(command.argument))
            except MySocketError as problem:
                self.note(str(problem), problem=True)
                return False
        return True

    def _file_arrived(self, text: str) -> None:
        self.prompt.show(self.lines.own(f"/send {text}", time.time(), ACKNOWLEDGED))

    def end(self) -> None:
        if self._ending:
            return
        self._ending = True
        self.prompt.close_input()
        if self._taker is None and not len(self._waiting):
            self.input_ended = True
            self.changed()
        else:
            self._give()

    def hint(self, text: str) -> None:
        self.note(text)

    def broken(self, problem: str) -> None:
        self._failed(ScreenFailed(problem))

    # What is drawn: the prompt's scene ------------------------------------------------------------------------------------------

    def _facts(self) -> Facts:
        return replace(self.facts(), waiting=len(self._waiting), leaving=self._ending or self._over)

    def waiting(self, width: int) -> Sequence[Line]:
        lines: list[Line] = []
        count = len(self._waiting)
        if count > LISTED:
            lines.append([("dim", f"{WAITING} and {count - LISTED} more before")])
        for message in self._waiting.newest(LISTED):
            # No more of it than can be seen, as this is done for every drawing.
            first = message.text[: LOOKED_AT * width].partition("\n")[0]
            more = f" (+{message.more} lines)" if message.more else ""
            lines.append([("dim", f"{WAITING} "), ("", clip(_drawn(first), max(2, width - 3 - len(more))) + more)])
        return [*lines, *([("", line)] for line in self.transfers.lines(width - 1))]

    def status(self, width: int) -> Sequence[Line]:
        facts = self._facts()
        lines: list[Line] = [[(part.look or "dim", part.text) for part in fitted(parts(facts), width - 1)]]
        invited = invitation(facts, width - 1)
        if invited:
            lines.append([("dim", invited)])
        return lines


def _drawn(text: str) -> str:
    return escape(text.encode("utf-8", "surrogateescape")).decode().replace("\t", " ")
