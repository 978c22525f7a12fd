"""The two ends of this process: what stdin is, where output goes, and the source and sink that fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, succeed

from mysocket.core.batch import Bytes, cutter
from mysocket.core.wire import Input
from mysocket.ends.descriptors import Private, What
from mysocket.ends.intake import OutputFacts
from mysocket.ends.sink import FormatSink, Output, Sink
from mysocket.ends.source import DescriptorSource, Taker
from mysocket.ends.writing import DescriptorOutput, format_for
from mysocket.errors import MySocketError

STDIN = 0


class LogOutput:
    """A line of the log for each line that is received; for a daemon, which has no stdout."""

    repeats = True

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log

    def agreed(self, *, cut: bool) -> None:
        """What is written cannot be taken back."""

    def write(self, data: Bytes, done: Callable[[], None]) -> None:
        """Log, then call ``done``."""
        for line in bytes(data).decode(errors="replace").splitlines():
            self._log(f"received: {line}")
        done()


class ReopenedOutput(Output, Interface):
    """An output file that may be moved away while it is written."""

    def reopen(self) -> None:
        """Go on in a new file of the same name."""


class Outputs(Interface):
    """Several outputs, or one that is neither a file nor stdout."""

    @property
    def idle(self) -> bool:
        """Everything is written."""

    @property
    def facts(self) -> list[OutputFacts]:
        """How those are that are dialled."""

    def sink(self, *, failed: Callable[[MySocketError], None], shared: bool, raw: bool) -> Sink:
        """The sink over all of them; see :meth:`Ends.sink`."""

    def reopen(self) -> None:
        """Files among them were moved away."""

    def close(self) -> Deferred[None]:
        """Write nothing more; fires when connections are closed."""


class Ends:
    """Standard input and output, or ``--output``.

    :param stdin: what descriptor 0 is, or CLOSED to leave it alone (``--recv-only``).
    :param cut: how the input is cut into messages: lines, null, stream or whole.
    :param output: a file to append to instead of stdout.
    :param durable_output: writes the output file instead, so that nothing is in it twice.
    :param style: ``plain``, ``json`` or ``timestamps``.
    :param log: for a daemon, which has neither stdin nor stdout: where messages go without an ``output``.
    :param stays: leave only when told to; messages to send come another way.
    :param others: there are inputs besides stdin; somebody else reads them.
    :param outputs: write what is received, instead of ``output``.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        stdin: What,
        cut: str = "lines",
        output: str | None = None,
        durable_output: ReopenedOutput | None = None,
        style: str = "plain",
        max_message: int,
        banner: Callable[[str], None] = lambda text: None,
        log: Callable[[str], None] | None = None,
        stays: bool = False,
        others: bool = False,
        outputs: Outputs | None = None,
    ) -> None:
        self._reactor = reactor
        self._stdin = stdin
        self._cut = cut
        self._output = output
        self._durable_output = durable_output
        self._style = style
        self._max_message = max_message
        self._banner = banner
        self._log = log
        #: Leave only when told to.
        self.stays = stays
        self._source: Any = None
        self._private_input: Private | None = None
        self._outputs = outputs
        self._opened: DescriptorOutput | None = None
        self.input_ended = False
        #: Nothing that was to be written was left when the output was closed.
        self.all_written = True
        if self.stays:
            self.input = Input.OPEN
        elif others:
            self.input = Input.FINITE  # as far as anybody can know
        elif stdin in (What.CLOSED, What.NULL):
            self.input = Input.NONE
        elif stdin is What.TERMINAL:
            self.input = Input.OPEN
        else:
            self.input = Input.FINITE

    @property
    def interactive(self) -> bool:
        """A person types."""
        return self._stdin is What.TERMINAL and not self.stays

    @property
    def stdin_is_nothing(self) -> bool:
        """Nothing will ever be read of it."""
        return self._stdin in (What.CLOSED, What.NULL)

    @property
    def input_size(self) -> int | None:
        """Bytes of the input, if it is a file."""
        if self._stdin is not What.FILE:
            return None
        return max(0, os.fstat(STDIN).st_size - os.lseek(STDIN, 0, os.SEEK_CUR))

    @property
    def output_facts(self) -> list[OutputFacts]:
        """How the outputs are that are dialled."""
        return self._outputs.facts if self._outputs is not None else []

    def write_to(self, durable_output: ReopenedOutput | None) -> None:
        """What writes the output file, if that is not known from the beginning."""
        self._durable_output = durable_output

    def greet(self) -> None:
        """Say what a person at the terminal should know."""
        if self.interactive:
            from mysocket.ends.terminal import BANNER

            self._banner(BANNER)

    def sink(self, *, failed: Callable[[MySocketError], None], shared: bool, raw: bool = False) -> Sink:
        """The sink for what is received.

        :param shared: several senders write to it.
        :param raw: what comes are plain bytes, which are shown as they come.
        :raises CannotOpen: the ``--output`` file.
        """
        if self._outputs is not None:
            return self._outputs.sink(failed=failed, shared=shared, raw=raw)
        make = partial(format_for, self._style, self._max_message, shared=shared)
        if self._durable_output is not None:
            return FormatSink(make(terminal=False, raw=raw), self._durable_output)
        if self._output is None and self._log is not None:
            return FormatSink(make(terminal=True), LogOutput(self._log))
        self._opened = opened = DescriptorOutput(self._reactor, self._output, failed)
        return FormatSink(make(terminal=opened.terminal, raw=raw), opened.writer)

    def reopen_output(self) -> None:
        """The output file was moved away: go on in a new one of its name.

        :raises CannotOpen: it cannot be made.
        """
        for one in (self._outputs, self._durable_output, self._opened):
            if one is not None:
                one.reopen()

    def start_input(self, taker: Taker, *, failed: Callable[[MySocketError], None], ended: Callable[[], None]) -> None:
        """Read the input and give it to ``taker``."""
        if self.input is Input.NONE or self.stdin_is_nothing or self.stays or self._source is not None:
            return

        def at_end() -> None:
            self.input_ended = True
            ended()

        pieces = cutter(self._cut)
        if self.interactive:
            from mysocket.ends.terminal import TerminalSource, own_terminal

            self._private_input = own_terminal(STDIN)
            self._source = TerminalSource(self._reactor, self._private_input, pieces, taker, ended=at_end)
        else:
            self._private_input = Private(STDIN, os.O_RDONLY)
            self._source = DescriptorSource(self._reactor, self._private_input, pieces, taker, failed=failed, ended=at_end)
        self._source.start()

    def acknowledged(self, position: int) -> None:
        """The peer has all of the input before ``position``; nobody here wants to know."""

    def stop_input(self) -> None:
        """Take no more input."""
        if self._source is not None:
            self._source.stop()

    def close(self) -> Deferred[None]:
        """Give back what was opened; fires when the connections of outputs are closed."""
        self.stop_input()
        if self._private_input is not None:
            self._private_input.close()
        outputs, opened = self._outputs, self._opened
        self._outputs = self._opened = None
        if opened is not None:
            self.all_written = opened.idle
            opened.close()
        if outputs is None:
            return succeed(None)
        self.all_written = outputs.idle
        return outputs.close()
