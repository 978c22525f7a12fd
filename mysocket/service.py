"""The composition root: settings -> a service. The only place where concrete parts meet."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger

from mysocket.ends.descriptors import What, what
from mysocket.ends.progress import ProgressLine
from mysocket.ends.stdio import Ends
from mysocket.errors import ConnectionRefused, MySocketError
from mysocket.logs import Lines, is_journal
from mysocket.notices import failure, notice
from mysocket.runtime import use_all_descriptors, use_monotonic_time
from mysocket.services.base import EndpointService, Exposed
from mysocket.settings import Settings
from mysocket.watch import Voice, Watch

if TYPE_CHECKING:
    from mysocket.screen.session import Session
    from mysocket.services.notify import Notifier
    from mysocket.spool.disk import DiskSpool


def make_service(
    settings: Settings,
    reactor: Any,
    *,
    voice: Voice,
    closed: set[int],
    banner: Callable[[str], None],
    progress: ProgressLine | None = None,
    session: Session | None = None,
) -> EndpointService:
    """The service of the console script, on this process's stdin and stdout.

    :param closed: those of the descriptors 0 to 2 that were closed when the program started.
    :param session: the person at the terminal, instead of plain ends.
    :raises MySocketError: an end cannot be opened.
    """
    stdin = What.CLOSED if not settings.reads_stdin or 0 in closed else what(0)
    spool = _open_spool(settings, reactor, "session")
    if session is not None:
        session.write_to(spool.output if spool is not None else None)
        return _attend(session, _compose(settings, reactor, voice, session, spool=spool))
    return _compose(settings, reactor, voice, _ends(settings, reactor, stdin, voice, banner, spool=spool), progress, spool)


def _attend(session: Session, service: EndpointService) -> EndpointService:
    """Let the screen see the service."""
    from mysocket.services.facts import Glance
    from mysocket.services.linked import LinkService

    assert isinstance(service, LinkService)
    session.tell_failures(service.watch.fail)
    session.facts = Glance(service)
    session.changed = service.watch.changed
    service.watch.seen_elsewhere = (ConnectionRefused,)  # the status line says so, and what to do
    session.interrupt = service.watch.interrupt
    session.transfers.uploads = service.uploads
    downloads = service.downloads
    if downloads is not None:
        session.transfers.downloads = lambda: downloads.under_way
        downloads.on_change = lambda download: session.prompt.refresh()
    service.node.on_change = lambda link: session.prompt.refresh()
    return service


def make_foreground(settings: Settings, reactor: Any, voice: Voice) -> EndpointService:
    """The service of ``twistd -n``: what stdin gives is sent, and it ends with that; without an input it stays."""
    stdin = What.CLOSED if not settings.reads_stdin else what(0)
    stays = stdin in (What.CLOSED, What.NULL)
    spool = _open_spool(settings, reactor, "service")
    ends = _ends(settings, reactor, stdin, voice, voice.tell, stays=stays, spool=spool)
    return _compose(settings, reactor, voice, ends, spool=spool, attended=True)


def make_daemon(settings: Settings, reactor: Any, voice: Voice) -> EndpointService:
    """The service of ``twistd``, which has neither stdin nor stdout."""
    voice.tell(daemon_ends(settings))
    spool = _open_spool(settings, reactor, "service")

    def received(text: str) -> None:
        voice.complain(notice("received", text))

    ends = _ends(settings, reactor, What.CLOSED, voice, voice.tell, log=received, stays=True, spool=spool)
    return _compose(settings, reactor, voice, ends, spool=spool, attended=True)


def daemon_ends(settings: Settings) -> str:
    """What a daemon has instead of stdin and stdout, for its log."""
    where = " and ".join(map(str, settings.outputs))
    where = where or ("the log" if settings.spool is None else f"the inbox of {settings.spool}")
    handed = "" if settings.recv_only else ": messages are handed to it by mysocket send"
    return f"a daemon has no stdin{handed}" + ("" if settings.send_only else f"; what it receives goes to {where}")


def make_twistd_service(settings: Settings, parent: Mapping[str, Any] | None) -> IService:
    """The service of ``twistd mysocket``. It opens nothing before it is started: twistd forks and changes directory between.

    :param parent: twistd's own options.
    """
    from twisted.internet import reactor

    from mysocket.services.observer import find_observer, writer

    use_monotonic_time(reactor)
    use_all_descriptors()
    voice = Voice(writer(Logger("mysocket")), quiet=settings.quiet, verbose=settings.verbose)
    foreground = parent is not None and bool(parent.get("nodaemon"))

    make = partial(make_foreground if foreground else make_daemon, settings, reactor, voice)
    lines = Lines(settings.log_format, journal=is_journal(os.environ), now=time.time)
    observer = find_observer(parent, settings.log_format, reactor)
    return TwistdService(make, reactor, foreground=foreground, observer=observer, lines=lines)


class TwistdService(Service):
    """Makes the service that does the work when twistd starts it, and ends twistd when that has finished.

    :param make: makes it; may raise :class:`MySocketError`.
    :param observer: writes the log, or None: twistd has one.
    :param lines: makes the line that says why it could not be made.
    """

    name = "mysocket"

    def __init__(
        self,
        make: Callable[[], EndpointService],
        reactor: Any,
        *,
        foreground: bool,
        observer: ILogObserver | None,
        lines: Lines,
    ) -> None:
        self._make = make
        self._reactor = reactor
        self._foreground = foreground
        self._observer = observer
        self._lines = lines
        self._service: EndpointService | None = None

    def setServiceParent(self, parent: Any) -> None:
        super().setServiceParent(parent)
        if self._observer is not None:
            parent.setComponent(ILogObserver, self._observer)

    def startService(self) -> None:
        super().startService()
        try:
            self._service = self._make()
        except MySocketError as error:
            self._failed(error)
            return
        self._service.finished.addCallback(self._finished)
        notifier = find_notifier(self._service, self._reactor, forked=not self._foreground)
        # Before anybody hears that it is ready: a SIGHUP would end it.
        self._reactor.callWhenRunning(watch_hangup, self._reactor, self._service, notifier)
        self._service.startService()
        if self._foreground:
            # A person's first Ctrl-C waits for what is not delivered, as in the script.
            self._reactor.callWhenRunning(self._watch_interrupts, self._service.watch)
        failed = self._service.watch.error
        if failed is not None and not self._foreground:
            # twistd hands an exception to the process that was started from the shell.
            raise failed

    def _watch_interrupts(self, watch: Watch) -> None:
        signal.signal(signal.SIGINT, lambda *_: self._reactor.callFromThread(watch.interrupt))

    def _failed(self, error: MySocketError) -> None:
        if not self._foreground:
            raise error
        sys.__stderr__.write(self._lines.line(failure(error)))  # type: ignore[union-attr]
        self._finished(error.status)

    def _finished(self, status: int) -> None:
        if status:
            atexit.register(_exit_with, status)
        self._reactor.callWhenRunning(self._reactor.stop)

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        return self._service.stopService() if self._service is not None else None


def _exit_with(status: int) -> None:
    """twistd has no way to leave with a status of one's own; the last thing a process does is the place for it."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _ends(
    settings: Settings,
    reactor: Any,
    stdin: What,
    voice: Voice,
    banner: Callable[[str], None],
    log: Callable[[str], None] | None = None,
    stays: bool = False,
    spool: DiskSpool | None = None,
) -> Ends:
    durable, outputs = spool.output if spool is not None else None, None
    if not settings.only_file:
        from mysocket.services.outputs import NamedOutputs

        outputs, durable = NamedOutputs(settings, reactor, voice=voice, durable=durable), None
    return Ends(
        reactor,
        stdin=stdin,
        # Plain bytes have no messages: they go out as they come.
        cut="stream" if settings.raw and not settings.udp else settings.cut,
        output=settings.output_file,
        durable_output=durable,
        style=settings.style,
        max_message=settings.max_message,
        banner=banner,
        log=log,
        stays=stays,
        others=bool(settings.other_inputs),
        outputs=outputs,
    )


def _open_spool(settings: Settings, reactor: Any, role: str) -> DiskSpool | None:
    if settings.spool is None:
        return None
    from mysocket.spool.opening import open_spool

    output = settings.output_file
    if output is not None and os.path.exists(output) and not stat.S_ISREG(os.stat(output).st_mode):
        output = None  # a device or a pipe cannot be cut back
    return open_spool(
        settings.spool,
        role=role,
        capacity=settings.max_spool,
        long=settings.max_message,
        output=output,
        keep_received=role == "service" and not settings.outputs and not settings.send_only,
        accept_loss=settings.accept_loss,
        host=socket.gethostname(),
        post=reactor.callFromThread,
        now=time.monotonic,
        wall=time.time,
        random_bytes=os.urandom,
    )


def find_notifier(service: EndpointService, reactor: Any, *, forked: bool = False) -> Notifier | None:
    """Who tells the supervisor of this process how the service is, if there is one; before the service is started."""
    if "NOTIFY_SOCKET" not in os.environ:
        return None
    from mysocket.services.notify import make_notifier

    return make_notifier(service, reactor, os.environ, forked=forked)


def watch_hangup(reactor: Any, service: EndpointService, notifier: Notifier | None) -> None:
    """SIGHUP opens the output file anew. Without one it ends the process, as ever, but for a supervisor it means to reload."""
    if notifier is not None:
        signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(notifier.reload))
    elif service.settings.output_file is not None:
        signal.signal(signal.SIGHUP, lambda *_: reactor.callFromThread(service.reopen_output))


def _compose(
    settings: Settings,
    reactor: Any,
    voice: Voice,
    ends: Ends,
    progress: ProgressLine | None = None,
    spool: DiskSpool | None = None,
    attended: bool = False,
) -> EndpointService:
    """
    :param attended: other programs of the same user can talk to it.
    """
    service: EndpointService
    if settings.udp:
        from mysocket.services.rawdatagram import RawDatagramService

        service = RawDatagramService(settings, reactor, voice=voice, ends=ends)
    elif settings.raw:
        from mysocket.services.rawstream import RawStreamService

        service = RawStreamService(settings, reactor, voice=voice, ends=ends)
    else:
        from mysocket.ends.directory import open_directory
        from mysocket.services.linked import LinkService

        directory = open_directory(settings.download_dir) if settings.download_dir is not None else None
        service = linked = LinkService(
            settings,
            reactor,
            voice=voice,
            ends=ends,
            progress=progress,
            spool=spool,
            attended=attended,
            downloads=directory,
        )
        if attended:
            from mysocket.services.desk import ServiceDesk

            linked.reception = ServiceDesk(linked, spool, os.urandom)
    if settings.metrics is not None:
        service.make_exposed = partial(_make_exposed, service, settings.metrics)
    return service


def _make_exposed(service: EndpointService, where: tuple[str, int]) -> Exposed:
    from mysocket.services.exposition import Exposition

    return Exposition(service, where)
