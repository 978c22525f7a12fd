"""The composition root: settings -> a service. The only place where concrete parts meet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mysocket.ends.descriptors import What, what
from mysocket.ends.stdio import Ends
from mysocket.options import Settings
from mysocket.services.base import EndpointService
from mysocket.watch import Voice

UDP_IS_RAW = "plain --udp means --udp --raw for now: one message a datagram, and nothing promised beyond UDP"


def use_monotonic_time(reactor: Any) -> None:
    """Timers follow the monotonic clock. Twisted's follow the wall clock (twisted#2424): a step of it stops or fires them all."""
    reactor.seconds = time.monotonic


def make_service(
    settings: Settings, reactor: Any, *, voice: Voice, closed: set[int], banner: Callable[[str], None]
) -> EndpointService:
    """The service of the console script, on this process's stdin and stdout.

    :param closed: those of the descriptors 0 to 2 that were closed when the program started.
    :raises MySocketError: an end cannot be opened.
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
    return _compose(settings, reactor, voice, ends)


def _compose(settings: Settings, reactor: Any, voice: Voice, ends: Ends) -> EndpointService:
    kind: Callable[..., EndpointService]
    if settings.udp:
        from mysocket.services.rawdatagram import RawDatagramService as kind

        if not settings.raw:
            voice.tell(UDP_IS_RAW)
    elif settings.raw:
        from mysocket.services.rawstream import RawStreamService as kind
    else:
        from mysocket.services.linked import LinkService as kind
    return kind(settings, reactor, voice=voice, ends=ends)
