"""The outputs that ``--output`` names, where they are more than one file or stdout: specs -> one sink."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from mysocket.carriers import build
from mysocket.carriers.resolve import DaemonResolver
from mysocket.ends.intake import OutputFacts
from mysocket.ends.sink import FormatSink, Sink
from mysocket.ends.stdio import ReopenedOutput
from mysocket.ends.writing import DescriptorOutput, format_for
from mysocket.errors import MySocketError
from mysocket.outputs.datagrams import DatagramSink
from mysocket.outputs.fanout import FanOutSink
from mysocket.outputs.outgoing import SocketOutput
from mysocket.settings import Settings
from mysocket.specs import Place, Spec
from mysocket.values import split_host_port
from mysocket.watch import Voice


class NamedOutputs:
    """All outputs of a session (:class:`~mysocket.ends.stdio.Outputs`).

    :param durable: writes the output file of a spool, if there is one.
    """

    def __init__(self, settings: Settings, reactor: Any, *, voice: Voice, durable: ReopenedOutput | None) -> None:
        self._settings = settings
        self._reactor = reactor
        self._resolver = DaemonResolver(reactor)
        self._voice = voice
        self._durable = durable
        self._written: list[DescriptorOutput] = []
        self._sent: list[SocketOutput | DatagramSink] = []

    @property
    def idle(self) -> bool:
        return all(one.idle for one in self._written) and all(one.idle for one in self._sent)

    @property
    def facts(self) -> list[OutputFacts]:
        """How those are that are dialled."""
        return [one.facts for one in self._sent]

    def sink(self, *, failed: Callable[[MySocketError], None], shared: bool, raw: bool) -> Sink:
        first: list[Sink] = []
        last: Sink | None = None
        limit = self._settings.max_message
        make = partial(format_for, self._settings.style, limit)
        for spec in self._settings.outputs:
            if spec.place is Place.FILE and self._durable is not None:
                last = FormatSink(make(terminal=False, shared=shared), self._durable)
            elif spec.place in (Place.FILE, Place.STANDARD):
                opened = DescriptorOutput(self._reactor, spec.target or None, failed)
                self._written.append(opened)
                first.append(FormatSink(make(terminal=opened.terminal, shared=shared, raw=raw), opened.writer))
            elif spec.place is Place.ENDPOINT:
                output = self._socket(spec)
                self._sent.append(output)
                # A connection begins with a whole message, also one that comes behind another that was lost.
                first.append(FormatSink(make(terminal=False, shared=True), output))
            else:
                datagrams = self._datagrams(spec)
                self._sent.append(datagrams)
                first.append(datagrams)
        for one in self._sent:
            self._reactor.callWhenRunning(one.start)
        return FanOutSink(first, last, max_message=limit)

    def _socket(self, spec: Spec) -> SocketOutput:
        return SocketOutput(
            build.client_endpoint(self._reactor, spec.target),
            str(spec),
            clock=self._reactor,
            tell=self._voice.tell,
            complain=self._voice.complain,
        )

    def _datagrams(self, spec: Spec) -> DatagramSink:
        host, port = split_host_port(spec.target)
        style, limit = self._settings.style, self._settings.max_message
        return DatagramSink(
            host,
            port,
            str(spec),
            clock=self._reactor,
            resolver=self._resolver,
            # As it came, unless it is to be told more of it.
            format=None if style == "plain" else format_for(style, limit, terminal=False, shared=True),
            tell=self._voice.tell,
            complain=self._voice.complain,
        )

    def reopen(self) -> None:
        for one in self._written:
            one.reopen()
        if self._durable is not None:
            self._durable.reopen()

    def close(self) -> Deferred[None]:
        for one in self._written:
            one.close()
        return DeferredList([one.close() for one in self._sent]).addCallback(lambda _: None)
