"""A session of the console script: the reactor, what people read, signals, and the exit status."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mysocket.ends.progress import ProgressLine
from mysocket.errors import FAILED, INTERRUPTED, TERMINATED, MySocketError
from mysocket.logs import Lines, is_journal
from mysocket.notices import failure
from mysocket.runtime import SignalWaker, install_asyncio, use_all_descriptors, use_monotonic_time
from mysocket.settings import Settings

if TYPE_CHECKING:
    from mysocket.screen.session import Session
    from mysocket.services.base import EndpointService


def run(settings: Settings, closed: set[int], write: Callable[[str], None]) -> int:
    """Run the session to its end; returns its status.

    :param closed: those of the descriptors 0 to 2 that were closed when the program started.
    :param write: writes text to stderr.
    """
    from mysocket.screen.choice import is_for_screen

    on_screen = is_for_screen(settings, os.environ)
    if on_screen:
        install_asyncio()
    from twisted.internet import reactor

    use_monotonic_time(reactor)
    use_all_descriptors()
    if settings.log_format == "json":
        from mysocket.services.observer import begin_json

        begin_json()
    foreground = Foreground(settings, closed, reactor, write, on_screen=on_screen)
    return foreground.to_the_end()


class Foreground:
    """One session.

    With a screen the prompt is there before the rest of the program is even loaded: who types at once loses nothing, and waits
    for nothing.
    """

    def __init__(
        self, settings: Settings, closed: set[int], reactor: Any, write: Callable[[str], None], *, on_screen: bool
    ) -> None:
        self._settings = settings
        self._closed = closed
        self._reactor = reactor
        self._write = write
        self._session: Session | None = None
        self._service: EndpointService | None = None
        self._status: int | None = None
        # The last line of a stderr at which a person looks while the messages go elsewhere.
        self._watched = os.isatty(2) and not os.isatty(1) and not settings.quiet
        self._line = ProgressLine(write)
        self._lines = Lines(settings.log_format, journal=is_journal(os.environ), now=time.time)
        if on_screen:
            from mysocket.screen.session import Session

            self._session = Session(
                reactor,
                max_message=settings.max_message,
                full_time=settings.timestamps,
                output=settings.output_file,
                style="timestamps" if settings.timestamps else "plain",  # of the file
            )

    def to_the_end(self) -> int:
        """Run; returns the status."""
        self._reactor.callWhenRunning(self._begin)
        self._reactor.run(installSignalHandlers=False)
        return 1 if self._status is None else self._status

    def _begin(self) -> None:
        self._reactor.addReader(SignalWaker())
        signal.signal(signal.SIGINT, lambda *_: self._reactor.callFromThread(self._interrupted))
        signal.signal(signal.SIGTERM, lambda *_: self._reactor.callFromThread(self._terminated))
        if self._session is None:
            self._start()
        else:
            self._session.begin()
            # Behind the first drawing.
            self._reactor.callLater(0, self._reactor.callLater, 0, self._start)

    def _start(self) -> None:
        from mysocket.service import find_notifier, make_service, watch_hangup
        from mysocket.watch import Voice

        if self._status is not None:
            return
        above = self._session.note if self._session is not None and os.isatty(2) else self._say
        try:
            service = make_service(
                self._settings,
                self._reactor,
                voice=Voice(above, quiet=self._settings.quiet, verbose=self._settings.verbose),
                closed=self._closed,
                banner=lambda text: self._write(f"{text}\n"),
                progress=self._line if self._watched else None,
                session=self._session,
            )
        except MySocketError as error:
            above(failure(error))
            self._finish(error.status)
            return
        except BaseException:
            self._finish(FAILED)  # and the reactor says what it was
            raise
        self._service = service
        watch_hangup(self._reactor, service, find_notifier(service, self._reactor))
        service.finished.addCallback(self._finish)
        service.startService()

    def _say(self, text: str) -> None:
        self._line.clear()
        self._write(self._lines.line(text))

    def _interrupted(self) -> None:
        if self._service is not None:
            self._service.watch.interrupt()
        else:
            self._finish(INTERRUPTED)

    def _terminated(self) -> None:
        if self._service is not None:
            self._service.watch.terminate()
        else:
            self._finish(TERMINATED)

    def _finish(self, status: int) -> None:
        if self._status is not None:
            return
        self._status = status
        if self._session is None:
            self._reactor.stop()
        else:
            self._session.leave().addBoth(lambda _: self._reactor.stop())
