"""The composition root: settings -> a service. The only place where concrete parts meet."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IListeningPort
from twisted.python.failure import Failure

from mysocket.carriers import build
from mysocket.carriers.admission import LOOPBACK, Admission
from mysocket.carriers.resolve import DaemonResolver
from mysocket.carriers.stream import StreamFactory
from mysocket.core.batch import count
from mysocket.core.ending import Own, PeerFacts, Policy, Verdict
from mysocket.core.session import Heartbeat
from mysocket.core.wire import Input
from mysocket.ends.descriptors import What, what
from mysocket.ends.stdio import Ends
from mysocket.errors import MySocketError, OutputClosed, TimeLimit
from mysocket.link import Link
from mysocket.node import Character, Node, address_text
from mysocket.options import Settings, is_endpoint, split_host_port
from mysocket.watch import Voice, Watch

#: Seconds in which connections are closed when the program leaves.
LEAVE_TIME = 2.5


def use_monotonic_time(reactor: Any) -> None:
    """Timers follow the monotonic clock. Twisted's follow the wall clock (twisted#2424): a step of it stops or fires them all."""
    reactor.seconds = time.monotonic


class LinkService(Service):
    """A node with its carriers and ends.

    :param ends: where messages come from and go to.
    :param random_bytes: gives ids; ``os.urandom``.
    """

    name = "mysocket"

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        *,
        voice: Voice,
        ends: Ends,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.settings = settings
        #: Fires with the exit status when the node has left.
        self.finished: Deferred[int] = Deferred()
        self._reactor = reactor
        self._ends = ends
        self._resolver = DaemonResolver(reactor)
        policy = Policy(keep_open=settings.keep_open or ends.stays, linger=settings.linger, wait=settings.wait)
        self.watch = Watch(self, policy, clock=reactor, voice=voice, stop_input=ends.stop_input)
        self._own_link: Link | None = None
        self._left = False
        character = Character(
            name=socket.gethostname(),
            input=ends.input,
            takes=not settings.send_only,
            hub=settings.peer is None,
            max_message=settings.max_message,
            heartbeat=Heartbeat.for_wait(settings.wait),
        )
        sink = None if settings.send_only else ends.sink(failed=self._output_failed, shared=character.hub)
        self.node = Node(character, clock=reactor, random_bytes=random_bytes, sink=sink, watcher=self.watch)
        self.node.on_first_link = self._got_link
        self._ports: list[IListeningPort] = []
        self._dialler: Service | None = None

    # Subject of the watch -------------------------------------------------------------------------------------------------------

    def own(self) -> Own:
        if self._ends.input is Input.NONE:
            return Own.NONE
        if self._own_link is None:
            return Own.DELIVERED if self._ends.input_ended else Own.OPEN
        if self._own_link.delivered:
            return Own.DELIVERED
        return Own.ENDED if self._ends.input_ended else Own.OPEN

    def undelivered(self) -> int:
        return self._own_link.undelivered if self._own_link is not None else 0

    def peers(self) -> Sequence[PeerFacts]:
        return self.node.facts()

    def linked(self) -> bool:
        return self.node.linked

    def missing(self) -> bool:
        return self.node.missing

    # Starting -------------------------------------------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()
        self._reactor.installNameResolver(self._resolver)
        self.watch.verdict.addCallback(self._leave)
        Deferred.fromCoroutine(self._start()).addErrback(self._could_not_start)

    async def _start(self) -> None:
        settings = self.settings
        self.node.admission = self._admission()
        self._ends.open()
        self.node.start()
        if settings.port is not None:
            await self._listen(settings.port)
        if settings.peer is not None:
            self._dial(settings.peer)
        self.watch.changed()

    def _could_not_start(self, failure: Failure) -> None:
        if failure.check(MySocketError) is None:
            failure.printTraceback()
        error = failure.value
        self.watch.fail(error if isinstance(error, MySocketError) else MySocketError(f"could not start: {error}"))

    def _admission(self) -> Admission:
        settings = self.settings
        networks = list(settings.allow)
        hosts = []
        if settings.peer is None:
            networks += LOOPBACK
        elif (host := peer_host(settings.peer)) is not None:
            hosts.append(host)
        return Admission(networks, hosts, resolver=self._resolver, clock=self._reactor)

    async def _listen(self, text: str) -> None:
        settings = self.settings
        factory = StreamFactory(dialler=False, clock=self._reactor, owner=self.node, heartbeat=self.node.character.heartbeat)
        if is_endpoint(text, listening=True):
            self._ports = await build.listen_endpoint(self._reactor, text, factory)
        else:
            host = peer_host(settings.peer) if settings.peer is not None else None
            self._ports = await build.listen_port(self._reactor, int(text), build.interfaces(settings.bind, host), factory)
        where = " and ".join(address_text(port.getHost()) for port in self._ports)
        self.watch.tell(f"listening on {where} (connections are taken {self.node.admission})")

    def _dial(self, text: str) -> None:
        factory = StreamFactory(dialler=True, clock=self._reactor, owner=self.node, heartbeat=self.node.character.heartbeat)
        if is_endpoint(text):
            endpoint = build.client_endpoint(self._reactor, text)
        else:
            host, port = split_host_port(text)
            endpoint = build.host_endpoint(self._reactor, host, port, self.settings.bind)
        self._dialler = build.dialler(
            self._reactor,
            endpoint,
            text,
            factory,
            prepare=self.node.ready,
            report=self.watch.report,
            random=random.random,
        )
        self._dialler.startService()

    def _got_link(self, link: Link) -> None:
        self._own_link = link
        self._ends.start_input(link, failed=self.watch.fail, ended=self.watch.changed)

    def _output_failed(self, error: MySocketError) -> None:
        self.watch.fail(error)

    # Leaving --------------------------------------------------------------------------------------------------------------------

    def _leave(self, verdict: Verdict) -> None:
        assert verdict.status is not None
        self._ends.stop_input()
        self._name_undelivered(verdict)
        error = self.watch.error
        self._close("its output failed" if isinstance(error, OutputClosed) else verdict.why).addCallback(
            lambda _: self.finished.callback(verdict.status or 0)
        )

    def _name_undelivered(self, verdict: Verdict) -> None:
        if verdict.why == "-w" and self.settings.wait is not None:
            peer = self.settings.peer or "every sender"
            self.watch.voice.complain(str(TimeLimit(peer=peer, seconds=self.settings.wait)))
        link = self._own_link
        if link is None or not link.undelivered:
            return
        messages, at = 0, link.spool.retired
        while at < link.spool.end:
            batch = link.spool.read(at)
            messages += count(batch)
            at = batch.end
        rest = "" if self._ends.input_ended else ", nor the input that was not read yet"
        self.watch.voice.complain(
            f"not delivered: {messages} messages, {link.undelivered} bytes, positions {link.spool.retired} to "
            f"{link.spool.retired + link.undelivered}{rest}; they were held in memory and are lost"
        )

    def _close(self, why: str) -> Deferred[None]:
        """Stop listening and dialling, say the last word, and wait a moment for connections to close."""
        if self._left:
            return Deferred()
        self._left = True
        done: Deferred[None] = Deferred()
        waiting: list[Any] = [port.stopListening() for port in self._ports]
        self.node.leave(why)
        closed = [self.node.when_closed()]
        deadline = self._reactor.callLater(LEAVE_TIME, self._abort)

        def all_closed(_: object) -> None:
            if deadline.active():
                deadline.cancel()
            if self._dialler is not None and self._dialler.running:
                self._dialler.stopService()
            self._ends.close()
            done.callback(None)

        DeferredList([d for d in [*waiting, *closed] if isinstance(d, Deferred)]).addCallback(all_closed)
        return done

    def _abort(self) -> None:
        for carrier in self.node.connections:
            carrier.abort()

    def stopService(self) -> Deferred[None] | None:
        """Leave; for twistd."""
        super().stopService()
        self.watch.stop()
        return None if self._left else self._close("it was stopped")


def peer_host(peer: str) -> str | None:
    """The host that a ``--peer`` names, or None (a Unix socket)."""
    if not is_endpoint(peer):
        return split_host_port(peer)[0]
    fields = dict(part.split("=", 1) for part in peer.split(":")[1:] if "=" in part)
    plain = [part for part in peer.split(":")[1:] if "=" not in part]
    if peer.startswith("unix:"):
        return None
    return fields.get("host") or (plain[0].replace("\\", "") if plain else None)


def make_service(
    settings: Settings, reactor: Any, *, voice: Voice, closed: set[int], banner: Callable[[str], None]
) -> LinkService:
    """The service of the console script, on this process's stdin and stdout.

    :param closed: those of the descriptors 0 to 2 that were closed when the program started.
    """
    stdin = What.CLOSED if settings.recv_only or 0 in closed else what(0)
    ends = Ends(
        reactor,
        stdin=stdin,
        cut=settings.cut,
        output=settings.output,
        style="json" if settings.json else "timestamps" if settings.timestamps else "plain",
        max_message=settings.max_message,
        banner=banner,
    )
    return LinkService(settings, reactor, voice=voice, ends=ends)
