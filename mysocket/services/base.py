"""What every kind of session has in common: a listener, the ends, and a watch over when to leave."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure

from mysocket.carriers import build
from mysocket.carriers.addresses import address_text
from mysocket.carriers.admission import LOOPBACK, Admission
from mysocket.carriers.resolve import DaemonResolver
from mysocket.core.ending import Own, PeerFacts, Policy, Verdict
from mysocket.ends.intake import InputFacts, OutputFacts
from mysocket.ends.stdio import Ends
from mysocket.errors import DISK, INTERRUPTED, TERMINATED, MySocketError, TimeLimit
from mysocket.metrics import Counters
from mysocket.notices import Notice, notice
from mysocket.notices import failure as failed
from mysocket.settings import Settings
from mysocket.specs import Place
from mysocket.values import is_endpoint, split_host_port
from mysocket.watch import Voice, Watch

if TYPE_CHECKING:
    from mysocket.services.uploads import Uploads

#: Seconds in which connections are closed when the program leaves.
LEAVE_TIME = 2.5
#: The same when a signal wants it to leave at once.
HURRY = 0.5


def keep_freed_memory() -> None:
    """Let malloc keep what is freed at the top of the heap, up to 8 MiB of it.

    Batches of 256 KiB come and go thousands of times a second. glibc gives the top of the heap back to the kernel whenever more
    than 128 KiB of it are free, and the kernel zeroes the pages when they come again: a fifth of all CPU time. That bound is
    twice the size of the largest block that was ever mapped by itself and freed (mallopt(3), M_MMAP_THRESHOLD, "dynamic").
    """
    bytes(4 * 1024 * 1024)


class Exposed(Interface):
    """What is served beside the messages: metrics."""

    async def open(self) -> None:
        """Listen.

        :raises MySocketError: it cannot.
        """

    def close(self) -> Deferred[Any]:
        """Answer nobody any more; fires when nothing listens."""


class EndpointService(Service, ABC):
    """What every kind of session has in common: ends, a listener, a watch over when to leave.

    :param ends: where messages come from and go to.
    """

    name = "mysocket"

    def __init__(self, settings: Settings, reactor: Any, *, voice: Voice, ends: Ends, policy: Policy) -> None:
        self.settings = settings
        #: Fires with the exit status when the session is over.
        self.finished: Deferred[int] = Deferred()
        self.reactor = reactor
        self.ends = ends
        #: Files that are sent from here, where the protocol can.
        self.uploads: Uploads | None = None
        self.resolver = DaemonResolver(reactor)
        self.watch = Watch(self, policy, clock=reactor, voice=voice, stop_input=self.stop_input)
        self.admission = self._admission()
        #: What has passed, and what was not taken; a node counts into it.
        self.counters = Counters()
        #: Called when it listens and its spool is open; when it begins to leave, with the reason.
        self.on_ready: Callable[[], None] = lambda: None
        self.on_leaving: Callable[[str], None] = lambda why: None
        self._leaving = False
        self._ports: list[IListeningPort] = []
        #: Makes what tells its metrics, if it is to; called when it listens, for that has libraries that take their time.
        self.make_exposed: Callable[[], Exposed] | None = None
        self._exposed: Exposed | None = None
        self._closing: Deferred[None] | None = None

    # For those who inherit ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def own(self) -> Own:
        """The state of the own input."""

    @abstractmethod
    def undelivered(self) -> int:
        """Bytes of messages that were given and are not acknowledged."""

    def kept(self) -> bool:
        """What is not delivered is kept on disk."""
        return False

    def undelivered_text(self) -> str:
        """The same for people."""
        return f"{self.undelivered()} bytes"

    @abstractmethod
    def peers(self) -> Iterable[PeerFacts]:
        """Every peer that was ever linked."""

    @abstractmethod
    def alone_since(self) -> float | None:
        """Since when nobody is there, in seconds; None while somebody is."""

    def missing(self) -> bool:
        """Data is known to be missing."""
        return False

    @property
    def linked(self) -> bool:
        """Is somebody there?"""
        return self.alone_since() is None

    @property
    def open_connections(self) -> int:
        """Connections that are up, also of those who have not said who they are."""
        return 0

    @abstractmethod
    async def start(self) -> None:
        """Listen and dial."""

    @abstractmethod
    def say_goodbye(self, why: str) -> Deferred[None]:
        """Say the last word to everybody; fires when every connection is closed."""

    @abstractmethod
    def abort(self) -> None:
        """Drop every connection that is not closed yet."""

    @property
    def input_facts(self) -> list[InputFacts]:
        """How each input is that was named, besides stdin."""
        return []

    @property
    def output_facts(self) -> list[OutputFacts]:
        """How each output is that is dialled."""
        return self.ends.output_facts

    def stop_input(self) -> None:
        """Take no more input."""
        self.ends.stop_input()

    def settle_input(self) -> Deferred[None]:
        """No more input is read; fires when what was read is accepted, or cannot be."""
        return succeed(None)

    def name_undelivered(self) -> None:
        """Tell the user what was not delivered."""

    def close_storage(self) -> Deferred[None]:
        """All connections are closed; fires when what is kept is safe."""
        return succeed(None)

    def reopen_output(self) -> None:
        """The output file was moved away (SIGHUP)."""
        try:
            self.ends.reopen_output()
        except MySocketError as error:
            self.watch.fail(error)
        else:
            files = [spec.target for spec in self.settings.outputs if spec.place is Place.FILE]
            if files:
                self._tell_running(notice("reopened", f"SIGHUP: opened anew: {', '.join(files)}"))

    # Starting -------------------------------------------------------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()
        keep_freed_memory()
        self.reactor.installNameResolver(self.resolver)
        self.watch.verdict.addCallback(self._leave)
        Deferred.fromCoroutine(self._start()).addErrback(self._could_not_start)

    async def _start(self) -> None:
        await self.start()
        if self.make_exposed is not None:
            self._exposed = self.make_exposed()
            await self._exposed.open()
        self.ends.greet()
        self.watch.changed()
        if not self._leaving:
            self.on_ready()

    def _could_not_start(self, failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, MySocketError):
            where = " | ".join(line.strip() for line in failure.getTraceback().splitlines())
            error = MySocketError(f"could not start: {where}")
        self.watch.fail(error)

    def _admission(self) -> Admission:
        networks, hosts = list(self.settings.allow), []
        if self.settings.peer is None:
            networks += LOOPBACK
        elif (host := self.peer_host) is not None:
            hosts.append(host)
        return Admission(networks, hosts, resolver=self.resolver, clock=self.reactor)

    @property
    def listening(self) -> list[str]:
        """Where it listens, for people."""
        return [address_text(port.getHost()) for port in self._ports]

    @property
    def port_numbers(self) -> list[int]:
        """The numbers of the ports it listens on."""
        hosts: list[Any] = [port.getHost() for port in self._ports]
        return [host.port for host in hosts if hasattr(host, "port")]

    @property
    def peer_host(self) -> str | None:
        """The host that ``--peer`` names, or None: there is none, or it is a Unix socket."""
        peer = self.settings.peer
        if peer is None:
            return None
        if not is_endpoint(peer):
            return split_host_port(peer)[0]
        return build.endpoint_host(peer)

    def peer_endpoint(self, peer: str) -> IStreamClientEndpoint:
        """What ``--peer`` dials: ``host:port``, or a client endpoint string."""
        if is_endpoint(peer):
            return build.client_endpoint(self.reactor, peer)
        host, port = split_host_port(peer)
        return build.host_endpoint(self.reactor, host, port, self.settings.bind)

    async def listen(self, factory: IProtocolFactory) -> None:
        """Listen where ``--port`` says, if it does."""
        text = self.settings.port
        if text is None:
            return
        if is_endpoint(text, listening=True):
            self._ports = await build.listen_endpoint(self.reactor, text, factory)
        else:
            addresses = build.interfaces(self.settings.bind, self.peer_host)
            self._ports = await build.listen_port(self.reactor, int(text), addresses, factory)
        self.tell_listening([port.getHost() for port in self._ports], "connections")

    def tell_listening(self, addresses: list[Any], things: str) -> None:
        """The first line of every session that listens."""
        where = " and ".join(address_text(address) for address in addresses)
        text = f"listening on {where} ({things} are taken {self.admission})"
        self.watch.tell(notice("listening", text, addresses=where, takes=str(self.admission)))

    # Leaving --------------------------------------------------------------------------------------------------------------------

    def _leave(self, verdict: Verdict) -> None:
        self.stop_input()
        if verdict.why == "-w" and self.settings.wait is not None:
            peer = self.settings.peer or "every sender"
            self.watch.voice.complain(failed(TimeLimit(peer=peer, seconds=self.settings.wait)))
        error = self.watch.error
        patience = HURRY if verdict.status in (INTERRUPTED, TERMINATED, DISK) else LEAVE_TIME
        why = verdict.why if error is None else str(error)
        self._tell_leaving(verdict.why, verdict.status, why)
        closed = self._name_and_close(why, patience)
        closed.addCallback(lambda _: self.finished.callback(verdict.status or 0))

    def _tell_leaving(self, reason: str, status: int | None, why: str) -> None:
        self._leaving = True
        self._tell_running(notice("stopping", f"stopping: {reason}", reason=reason, status=status))
        self.on_leaving(why)

    def _tell_running(self, told: Notice) -> None:
        """Whoever runs a service wants to know; a person at a shell has done it, or sees it."""
        (self.watch.voice.tell if self.ends.stays else self.watch.voice.detail)(told)

    def _name_and_close(self, why: str, patience: float = LEAVE_TIME) -> Deferred[None]:
        settled = self.settle_input()

        def name(_: None) -> Deferred[None]:
            self.name_undelivered()
            return self.close(why, patience)

        return settled.addCallback(name)

    def close(self, why: str, patience: float = LEAVE_TIME) -> Deferred[None]:
        """Stop listening, say the last word, and wait ``patience`` seconds for connections to close."""
        if self._closing is not None:
            return self._closing
        done: Deferred[None] = Deferred()
        self._closing = done
        waiting: list[Any] = [port.stopListening() for port in self._ports]
        waiting.append(self.say_goodbye(why))
        self._ports.clear()
        if self._exposed is not None:
            waiting.append(self._exposed.close())
        closed: Deferred[None] = Deferred()
        calls = [
            self.reactor.callLater(patience, self.abort),
            self.reactor.callLater(patience + 1, lambda: all_closed(None)),
        ]

        def all_closed(_: object) -> None:
            if closed.called:
                return
            for call in calls:
                if call.active():
                    call.cancel()
            closed.callback(None)

        def close_ends(_: None) -> Deferred[None]:
            # A receiver that is still reading what it has must not meet a process that is gone.
            outputs = self.ends.close()
            return self.close_storage().addCallback(lambda _: outputs)

        closed.addCallback(close_ends).chainDeferred(done)
        DeferredList([deferred for deferred in waiting if isinstance(deferred, Deferred)]).addCallback(all_closed)
        return done

    def stopService(self) -> Deferred[None] | None:
        """Leave; for twistd."""
        super().stopService()
        self.watch.stop()
        if self._closing is not None:
            return None
        self.stop_input()
        if not self._leaving:
            self._tell_leaving("it was stopped", None, "it was stopped")
        return self._name_and_close("it was stopped")
