"""The inputs that ``--input`` names: specs -> sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.interfaces import IListeningPort

from mysocket.carriers import build
from mysocket.carriers.addresses import address_text
from mysocket.carriers.admission import LOOPBACK, Admission, RateLimitedLog
from mysocket.carriers.resolve import DaemonResolver
from mysocket.ends.intake import InputFacts, Source
from mysocket.ends.words import Words
from mysocket.ends.worker import Worker
from mysocket.inputs.datagramsource import MAX_QUEUED, DatagramSource
from mysocket.inputs.listeners import ConnectionSource
from mysocket.notices import notice
from mysocket.services.inputs import HIGH_WATER, Inputs, StandardTaker, Waiting
from mysocket.services.outlet import Outlet
from mysocket.settings import Settings
from mysocket.specs import Place, Spec
from mysocket.watch import Watch


class NamedInputs:
    """All inputs of a session that has others than stdin.

    :param bookmarks: where inputs stood when an earlier process ended, or None: nothing outlives this one.
    :param ended: called when all of them have ended.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        outlet: Outlet,
        *,
        resolver: DaemonResolver,
        watch: Watch,
        bookmarks: Mapping[str, bytes] | None,
        ended: Callable[[], None],
    ) -> None:
        voice = watch.voice
        # Whoever writes to a socket, or rotates a file, a thousand times a second does not fill a log.
        tell, complain = (Words(say, reactor.seconds, about="inputs").say for say in (voice.tell, voice.complain))
        self._inputs = Inputs(outlet, log=RateLimitedLog(voice.tell, reactor), tell=tell, complain=complain, ended=ended)
        self._settings = settings
        self._reactor = reactor
        self._watch = watch
        self._bookmarks = bookmarks
        self._delimiter = b"\0" if settings.cut == "null" else b"\n"
        # An input has no peer: the rule of a listener without one.
        self._admission = Admission([*settings.allow, *LOOPBACK], [], resolver=resolver, clock=reactor)
        #: stdin, if it is one of them.
        self.standard: StandardTaker | None = None
        self._waiting: list[tuple[Spec, Waiting]] = []
        for spec in settings.inputs:
            waiting = self._inputs.add(str(spec), high_water=MAX_QUEUED if spec.place is Place.UDP else HIGH_WATER)
            if spec.place is Place.STANDARD:
                self.standard = StandardTaker(waiting, self._delimiter, settings.max_message)
            else:
                self._waiting.append((spec, waiting))
        self.go_on, self.stop, self.left = self._inputs.go_on, self._inputs.stop, self._inputs.left

    @property
    def facts(self) -> list[InputFacts]:
        """How they are, stdin excepted."""
        return self._inputs.facts

    @property
    def ended(self) -> bool:
        """Have all of them ended?"""
        return self._inputs.ended

    async def open(self) -> None:
        """Listen where others connect to, and begin to read.

        :raises MySocketError: one of them cannot be opened.
        """
        for spec, waiting in self._waiting:
            waiting.source = await self._open(spec, waiting)
        self._inputs.start()

    async def _open(self, spec: Spec, waiting: Waiting) -> Source:
        if spec.place is Place.ENDPOINT:
            return await self._open_endpoint(spec, waiting)
        if spec.place is Place.UDP:
            return self._open_datagrams(spec, waiting)
        return self._open_file(spec, waiting)

    async def _open_endpoint(self, spec: Spec, waiting: Waiting) -> Source:
        source = ConnectionSource(
            str(spec),
            waiting,
            admission=self._admission,
            limit=self._settings.max_message,
            delimiter=self._delimiter,
        )
        ports = await build.listen_endpoint(self._reactor, spec.target, source.factory)
        source.listens(ports)
        self._tell(spec, ports, "connections")
        return source

    def _open_datagrams(self, spec: Spec, waiting: Waiting) -> Source:
        source = DatagramSource(
            str(spec),
            waiting,
            reactor=self._reactor,
            admission=self._admission,
            limit=self._settings.max_message,
            delimiter=self._delimiter,
        )
        if spec.target.startswith("systemd:"):
            port: IListeningPort | None = build.adopt_datagrams(self._reactor, spec.target, source)
        else:
            address = build.interfaces(self._settings.bind, None)[0]
            port = build.listen_datagrams(self._reactor, int(spec.target), address, source, optional=False)
        assert port is not None
        source.listens([port])
        self._tell(spec, [port], "datagrams")
        return source

    def _tell(self, spec: Spec, ports: list[IListeningPort], things: str) -> None:
        where = " and ".join(address_text(port.getHost()) for port in ports)
        text = f"input {spec}: listening on {where} ({things} are taken {self._admission})"
        self._watch.tell(notice("listening", text, addresses=where, takes=str(self._admission), input=str(spec)))

    def _open_file(self, spec: Spec, waiting: Waiting) -> Source:
        from mysocket.inputs.follow import Follower
        from mysocket.inputs.following import FileSource
        from mysocket.inputs.place import bookmark_name

        name = bookmark_name(spec.target)
        follower = Follower(
            spec.target,
            follow=spec.place is Place.FOLLOW,
            cut=self._settings.cut,
            max_message=self._settings.max_message,
            place=self._bookmarks.get(name) if self._bookmarks is not None else None,
        )
        # A thread for each: a server of files that does not answer holds up no other.
        hand = Worker(self._reactor.callFromThread)
        return FileSource(
            follower, waiting, name=name, clock=self._reactor, hand=hand, failed=self._watch.fail, reactor=self._reactor
        )
