"""A session of the MySocket protocol: a node, what listens and dials for it, and the two ends of this process."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed

from mysocket.carriers import build
from mysocket.carriers.stream import StreamFactory
from mysocket.core.batch import END
from mysocket.core.ending import Own, PeerFacts, Policy, Progress
from mysocket.core.session import Heartbeat
from mysocket.core.wire import Input, Reason
from mysocket.ends.directory import current_umask
from mysocket.ends.downloads import Downloads
from mysocket.ends.progress import ProgressDisplay, ProgressLine
from mysocket.ends.shelf import InboxSink, Passing, PassingSink
from mysocket.ends.sorting import SortingSink
from mysocket.ends.stdio import Ends
from mysocket.ends.worker import Worker
from mysocket.errors import DiskFailed, OutputClosed, OutputFailed
from mysocket.link import Link
from mysocket.node import WINDOW, Character, Node
from mysocket.notices import notice
from mysocket.services import sentences
from mysocket.services.base import EndpointService
from mysocket.services.own import HeldTaker, OwnOutlet
from mysocket.services.patience import patiently
from mysocket.services.uploads import Uploads
from mysocket.settings import Settings
from mysocket.watch import Voice

if TYPE_CHECKING:
    from mysocket.ends.directory import Directory
    from mysocket.ends.intake import InputFacts
    from mysocket.ends.sink import Sink
    from mysocket.ends.source import Taker
    from mysocket.services.sources import NamedInputs
    from mysocket.spool.disk import DiskSpool
    from mysocket.spool.inbox import Feed
    from mysocket.spool.interface import Spool


class Reception(Interface):
    """Where other programs talk to the service."""

    def open(self) -> None:
        """Listen."""

    def close(self) -> None:
        """Take nothing more."""

    def leave(self) -> None:
        """All is safe: let everybody go."""


class LinkService(EndpointService):
    """A node with its carriers and ends.

    :param progress: where to draw how much of a finite input is delivered, or None.
    :param random_bytes: gives ids; ``os.urandom``.
    :param spool: keeps what waits, and positions; it is started and closed here. None: memory mode.
    :param attended: other programs read what it receives, and see how it is (:attr:`reception`).
    :param downloads: where files that are received go; None: it takes none. It is closed here.
    :raises OtherPeerWaits: what waits in the spool is for another peer.
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
        spool: DiskSpool | None = None,
        attended: bool = False,
        downloads: Directory | None = None,
    ) -> None:
        policy = Policy(keep_open=settings.keep_open or ends.stays, linger=settings.linger, wait=settings.wait)
        super().__init__(settings, reactor, voice=voice, ends=ends, policy=policy)
        self._spool = spool
        backlog = 0
        if spool is not None:
            if not settings.recv_only:
                backlog = spool.end - spool.retired
                if settings.peer is not None:
                    spool.address(settings.peer)
            spool.on_failure = self.watch.fail
            spool.on_full = self._tell_full
        character = Character(
            name=socket.gethostname(),
            # What earlier runs left is an input too, and it has an end.
            input=Input.NONE if settings.recv_only else Input.FINITE if backlog and ends.input is Input.NONE else ends.input,
            takes=not settings.send_only,
            hub=settings.peer is None,
            handed=ends.stays or settings.endless,
            max_message=settings.max_message,
            heartbeat=Heartbeat.for_wait(settings.wait),
            accept_loss=settings.accept_loss,
            files=downloads is not None,
        )
        #: The files that are received, if it takes any.
        self.downloads = self._open_downloads(downloads) if downloads is not None else None
        #: What comes in, for those who read it from the service.
        self.feed: Feed | None = None
        sink = None if settings.send_only else self._sink(spool, shared=character.hub, attended=attended)
        if sink is not None and self.downloads is not None:
            # A sender has not heard of what is not more than a window back, and the parts of a message that are granted on top.
            sink = SortingSink(sink, self.downloads, behind=WINDOW + settings.max_message if spool is None else None)
        self.node = Node(
            character,
            clock=reactor,
            random_bytes=random_bytes,
            sink=sink,
            watcher=self.watch,
            admission=self.admission,
            spool=spool,
            now=time.time,
            counters=self.counters,
        )
        self.node.on_link = self._got_link
        self.node.on_no_link = self._listen_to_spool
        self.node.on_broken_off = self._broken_off
        #: Called when the own stream has come further, or may have room.
        self.on_progress: Callable[[], None] = lambda: None
        self.uploads: Uploads = Uploads(
            OwnOutlet(self, spool),
            clock=reactor,
            hand=Worker(reactor.callFromThread),
            random_bytes=random_bytes,
            wall=time.time,
            tell=self.watch.tell,
            complain=self.watch.voice.complain,
        )
        self._listen_to_spool()
        #: Where other programs talk to the service, if they do.
        self.reception: Reception | None = None
        #: The disk that is full, by what is on it, or nothing.
        self.full = ""
        #: How dialling goes.
        self.attempts = build.Attempts()
        #: Inputs that were named, besides stdin or with it.
        self.inputs: NamedInputs | None = None
        if settings.other_inputs:
            from mysocket.services.sources import NamedInputs

            self.inputs = NamedInputs(
                settings,
                reactor,
                OwnOutlet(self, spool),
                resolver=self.resolver,
                watch=self.watch,
                bookmarks=spool.bookmarks if spool is not None else None,
                ended=self._inputs_ended,
            )
            if self.inputs.standard is not None and ends.stdin_is_nothing:
                self.inputs.standard.end_input()
        self._own_link: Link | None = None
        self._waiting_messages: int | None = None
        self._dialler: Service | None = None
        self._progress_line = progress
        self._progress: ProgressDisplay | None = None

    def _open_downloads(self, directory: Directory) -> Downloads:
        downloads = Downloads(
            directory,
            post=self.reactor.callFromThread,
            now=self.reactor.seconds,
            tell=self.watch.tell,
            failed=self.watch.fail,
            durable=self._spool is not None,
            accept_loss=self.settings.accept_loss,
            umask=current_umask(),
        )
        downloads.on_full = self._tell_full
        downloads.on_loss = self._lost_file
        return downloads

    def _lost_file(self, text: str) -> None:
        self.watch.voice.complain(text)
        self.node.missing = True
        self.watch.changed()

    def _broken_off(self, link: Link) -> None:
        """Another node has come in the place of the one peer: nothing more will come of what that was sending."""
        if self.downloads is not None and not self.node.character.hub and link.peer is not None:
            self.downloads.broken_off(besides=link.peer.node)

    def _sink(self, spool: DiskSpool | None, *, shared: bool, attended: bool) -> Sink:
        if spool is not None and spool.inbox is not None:
            self.feed = spool.inbox
            spool.inbox.on_room = self._inbox_has_room
            return InboxSink(spool.inbox)
        sink = self.ends.sink(failed=self.watch.fail, shared=shared)
        if not attended:
            return sink
        self.feed = passing = Passing(time.time)
        return PassingSink(sink, passing)

    def _inbox_has_room(self) -> None:
        for link in list(self.node.links.values()):
            link.settle()

    def _listen_to_spool(self) -> None:
        # The spool speaks to the link that sends from it, as long as there is one.
        if self._spool is not None:
            self._spool.on_change = self._progressed

    def _progressed(self) -> None:
        self.on_progress()
        self.uploads.go_on()
        if self.inputs is not None:
            self.inputs.go_on()

    def stop_input(self) -> None:
        super().stop_input()
        self.uploads.stop()
        if self.inputs is not None:
            self.inputs.stop()

    @property
    def input_facts(self) -> list[InputFacts]:
        return self.inputs.facts if self.inputs is not None else []

    @property
    def input_ended(self) -> bool:
        """Has all that is read here ended?"""
        return self.ends.input_ended if self.inputs is None else self.inputs.ended

    @property
    def spool(self) -> DiskSpool | None:
        """Keeps what waits, and positions; None: memory mode."""
        return self._spool

    @property
    def sends(self) -> bool:
        """Has it an own stream?"""
        return not self.settings.recv_only and self.node.character.input is not Input.NONE

    @property
    def own_link(self) -> Link | None:
        """The link that carries the own stream, once there is one."""
        return self._own_link

    @property
    def own_stream(self) -> Spool | None:
        """Where what is to be sent goes, or None: to the first peer that comes, and none has come."""
        return self._own_link.sending.spool if self._own_link is not None else self._spool

    def own(self) -> Own:
        if self.node.character.input is Input.NONE:
            # With nothing to take either there is nothing to wait for.
            return Own.DELIVERED if self.settings.send_only else Own.NONE
        ended = self.input_ended or self.ends.input is Input.NONE
        if self._own_link is None:
            if self._spool is not None and self._spool.end > self._spool.retired:
                return Own.ENDED if ended else Own.OPEN
            return Own.DELIVERED if ended else Own.OPEN
        if self._own_link.sending.delivered or self._own_link.sending.broken:
            # Broken off: there is nothing to wait for either, and the status says what is missing.
            return Own.DELIVERED
        return Own.ENDED if ended else Own.OPEN

    def undelivered(self) -> int:
        if self.settings.recv_only:
            return 0
        if self._spool is not None:
            return max(0, self._spool.end - self._spool.retired - self._spool.at_end_mark)
        return self._own_link.sending.undelivered if self._own_link is not None else 0

    def undelivered_text(self) -> str:
        return self._own_link.sending.undelivered_text() if self._own_link is not None else "nothing"

    def kept(self) -> bool:
        return self._spool is not None

    def peers(self) -> Iterable[PeerFacts]:
        return self.node

    def alone_since(self) -> float | None:
        return self.node.alone_since

    def missing(self) -> bool:
        return self.node.missing

    async def start(self) -> None:
        if self._spool is not None:
            self._spool.start()
            for text in sentences.beginning(self._spool, sends=not self.settings.recv_only):
                self.watch.tell(text)
            shared = self.ends.stays or self.inputs is not None
            if shared and self._spool.in_message and not self.settings.recv_only:
                self.watch.tell("an input was broken off in the middle of a message here: the message ends as far as it came")
                self._spool.append(END)
        if self.downloads is not None:
            self.downloads.start()
        heartbeat = self.node.character.heartbeat
        if self.reception is not None:
            self.reception.open()
        await self.listen(StreamFactory(dialler=False, clock=self.reactor, owner=self.node.strangers, heartbeat=heartbeat))
        self.node.start()
        if self._spool is not None and not self.settings.recv_only:
            self.uploads.resume(self._spool.bookmarks, here=self.ends.interactive or self.ends.stays)
        if self.inputs is not None:
            await self.inputs.open()
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
            attempts=self.attempts,
        )
        self._dialler.startService()

    def _tell_full(self, where: str) -> None:
        self.full = where
        if where:
            self.watch.voice.complain(notice("full", sentences.full(where), where=where))
        else:
            self.watch.tell(notice("room", "the disk has room again"))

    def _got_link(self, link: Link) -> None:
        self._own_link = link
        link.sending.on_progress = self._progressed
        link.sending.on_acknowledged = self.ends.acknowledged
        self._progressed()
        if self.ends.input is Input.NONE:
            link.sending.end(mark=False)
            return
        taker: Taker = HeldTaker(link, self.uploads, self.watch.tell)
        if self.inputs is not None:
            if self.inputs.ended:
                self._inputs_ended()
            elif self.inputs.standard is not None:
                taker = self.inputs.standard
        self.ends.start_input(taker, failed=self.watch.fail, ended=self._input_ended)
        if self._progress_line is not None and self.ends.input is Input.FINITE:
            spool = link.sending.spool
            self._progress = ProgressDisplay(self.reactor, self._progress_line, lambda: spool.retired, self.ends.input_size)

    def _inputs_ended(self) -> None:
        """All inputs that were named have ended."""
        if self._own_link is not None and not self.ends.stays:
            HeldTaker(self._own_link, self.uploads, self.watch.tell).end_input()
        self._input_ended()

    def _input_ended(self) -> None:
        link = self._own_link
        if self.ends.interactive and link is not None:
            if link.sending.undelivered and not link.linked:
                self.watch.tell(sentences.why_it_stays(link, self.settings.peer or "the peer", self._spool))
            elif any(peer.input is Input.FINITE and peer.progress is not Progress.DONE for peer in self.node):
                self.watch.tell("waiting for the end of the peer's input. Ctrl-C leaves without.")
        self.watch.changed()

    def settle_input(self) -> Deferred[None]:
        if self.reception is not None:
            self.reception.close()
        spool = self._spool
        if spool is None or isinstance(self.watch.error, DiskFailed):
            return super().settle_input()

        def count(done: Callable[[], None]) -> None:
            def counted(messages: int | None) -> None:
                self._waiting_messages = messages
                done()

            spool.flush(lambda: spool.count(counted))

        return patiently(self.reactor, count)

    def close_storage(self) -> Deferred[None]:
        closed, reception = self._close_downloads().addCallback(lambda _: self._close_spool()), self.reception
        return closed if reception is None else closed.addCallback(lambda _: reception.leave())

    def _close_downloads(self) -> Deferred[None]:
        """Fires when what could be written of files is, and those who sent it were told."""
        downloads = self.downloads
        if downloads is None:
            return succeed(None)
        return patiently(self.reactor, downloads.close, downloads.abandon)

    def _close_spool(self) -> Deferred[None]:
        spool = self._spool
        if spool is None:
            return succeed(None)
        return patiently(self.reactor, lambda done: spool.close(done, all_written=self.ends.all_written))

    def name_undelivered(self) -> None:
        for text in self.uploads.left():
            self.watch.voice.complain(f"not sent to its end: {text}")
        for text in self.inputs.left() if self.inputs is not None else ():
            self.watch.voice.complain(text)
        for text in self.downloads.left() if self.downloads is not None else ():
            self.watch.tell(f"not received to its end: {text}; when it is started again, it goes on with that")
        texts: Iterable[str] = ()
        if self._spool is not None:
            texts = sentences.kept(self._spool, self.undelivered() - self._spool.uncommitted, self._waiting_messages)
        elif self._own_link is not None:
            texts = sentences.lost(self._own_link, input_ended=self.input_ended)
        for text in texts:
            self.watch.voice.complain(notice("undelivered", text))

    def say_goodbye(self, why: str) -> Deferred[None]:
        if self._progress is not None:
            self._progress.stop()
        failed = isinstance(self.watch.error, OutputClosed | OutputFailed | DiskFailed)
        self.node.leave(why, Reason.OUTPUT if failed else Reason.LEFT)
        return self.node.when_closed().addCallback(self._stop_dialling)

    def _stop_dialling(self, _: None) -> None:
        # Only now: ClientService would close its connection at once, and a BYE on the way would be lost.
        if self._dialler is not None:
            self._dialler.stopService()

    def abort(self) -> None:
        for carrier in self.node.connections:
            carrier.abort()
