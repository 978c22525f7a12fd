"""A session of the MySocket protocol: a node, what listens and dials for it, and the two ends of this process."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from mysocket.carriers import build
from mysocket.carriers.stream import StreamFactory
from mysocket.core.ending import Own, PeerFacts, Policy, Progress
from mysocket.core.session import Heartbeat
from mysocket.core.wire import Input, Reason
from mysocket.ends.progress import ProgressDisplay, ProgressLine
from mysocket.ends.stdio import Ends
from mysocket.errors import OutputClosed, OutputFailed
from mysocket.link import Link
from mysocket.node import Character, Node
from mysocket.options import Settings
from mysocket.services.base import EndpointService
from mysocket.watch import Voice


class LinkService(EndpointService):
    """A node with its carriers and ends.

    :param progress: where to draw how much of a finite input is delivered, or None.
    :param random_bytes: gives ids; ``os.urandom``.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        *,
        voice: Voice,
        ends: Ends,
        progress: ProgressLine | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        policy = Policy(keep_open=settings.keep_open or ends.stays, linger=settings.linger, wait=settings.wait)
        super().__init__(settings, reactor, voice=voice, ends=ends, policy=policy)
        character = Character(
            name=socket.gethostname(),
            input=ends.input,
            takes=not settings.send_only,
            hub=settings.peer is None,
            max_message=settings.max_message,
            heartbeat=Heartbeat.for_wait(settings.wait),
        )
        sink = None if settings.send_only else ends.sink(failed=self.watch.fail, shared=character.hub)
        self.node = Node(
            character, clock=reactor, random_bytes=random_bytes, sink=sink, watcher=self.watch, admission=self.admission
        )
        self.node.on_link = self._got_link
        self._own_link: Link | None = None
        self._dialler: Service | None = None
        self._progress_line = progress
        self._progress: ProgressDisplay | None = None

    def own(self) -> Own:
        if self.ends.input is Input.NONE:
            return Own.NONE
        if self._own_link is None:
            return Own.DELIVERED if self.ends.input_ended else Own.OPEN
        if self._own_link.sending.delivered:
            return Own.DELIVERED
        return Own.ENDED if self.ends.input_ended else Own.OPEN

    def undelivered(self) -> int:
        return self._own_link.sending.undelivered if self._own_link is not None else 0

    def undelivered_text(self) -> str:
        return self._own_link.sending.undelivered_text() if self._own_link is not None else "nothing"

    def peers(self) -> Iterable[PeerFacts]:
        return self.node

    def alone_since(self) -> float | None:
        return self.node.alone_since

    def missing(self) -> bool:
        return self.node.missing

    async def start(self) -> None:
        heartbeat = self.node.character.heartbeat
        await self.listen(StreamFactory(dialler=False, clock=self.reactor, owner=self.node.strangers, heartbeat=heartbeat))
        self.node.start()
        peer = self.settings.peer
        if peer is None:
            return
        self._dialler = build.dialler(
            self.reactor,
            self.peer_endpoint(peer),
            peer,
            StreamFactory(dialler=True, clock=self.reactor, owner=self.node.strangers, heartbeat=heartbeat),
            prepare=lambda protocol: self.node.strangers.ready(protocol.session),
            report=self.watch.report,
            random=random.random,
        )
        self._dialler.startService()

    def _got_link(self, link: Link) -> None:
        self._own_link = link
        self.ends.start_input(link, failed=self.watch.fail, ended=self._input_ended)
        if self._progress_line is not None and self.ends.input is Input.FINITE:
            spool = link.sending.spool
            self._progress = ProgressDisplay(self.reactor, self._progress_line, lambda: spool.retired, self.ends.input_size)

    def _input_ended(self) -> None:
        link = self._own_link
        if self.ends.interactive and link is not None:
            # A person who has said EXIT wants to know why the program does not leave.
            if link.sending.undelivered and not link.linked:
                waiting, whom = link.sending.undelivered_text(), self.settings.peer or "the peer"
                self.watch.tell(f"{waiting} not delivered yet; waiting for {whom}. Ctrl-C twice leaves without.")
            elif any(peer.input is Input.FINITE and peer.progress is not Progress.DONE for peer in self.node):
                self.watch.tell("waiting for the end of the peer's input. Ctrl-C leaves without.")
        self.watch.changed()

    def name_undelivered(self) -> None:
        link = self._own_link
        if link is None or not link.sending.undelivered:
            return
        spool, size = link.sending.spool, link.sending.undelivered
        rest = "" if self.ends.input_ended else ", nor the input that was not read yet"
        self.watch.voice.complain(
            f"not delivered: {link.sending.undelivered_text()}, positions {spool.retired} to {spool.retired + size}{rest}; "
            "they were held in memory and are lost"
        )

    def say_goodbye(self, why: str) -> Deferred[None]:
        if self._progress is not None:
            self._progress.stop()
        failed = isinstance(self.watch.error, OutputClosed | OutputFailed)
        self.node.leave(why, Reason.OUTPUT if failed else Reason.LEFT)
        return self.node.when_closed().addCallback(self._stop_dialling)

    def _stop_dialling(self, _: None) -> None:
        # Only now: ClientService would close its connection at once, and a BYE on the way would be lost.
        if self._dialler is not None:
            self._dialler.stopService()

    def abort(self) -> None:
        for carrier in self.node.connections:
            carrier.abort()
