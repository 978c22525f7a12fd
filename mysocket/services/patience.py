"""Waiting for a disk, but not for ever: one that hangs holds nobody who wants to leave."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

#: Seconds that leaving waits for the disk, each time.
SETTLE_TIME = 10.0


def patiently(
    clock: IReactorTime, begin: Callable[[Callable[[], None]], object], give_up: Callable[[], None] = lambda: None
) -> Deferred[None]:
    """Fires when what is begun is done, or has taken too long.

    :param begin: begins it; is given what to call when it is done.
    :param give_up: called when it has taken too long.
    """
    waiting: Deferred[None] = Deferred()

    def done() -> None:
        if not waiting.called:
            patience.cancel()
            waiting.callback(None)

    def too_long() -> None:
        give_up()
        waiting.callback(None)

    patience = clock.callLater(SETTLE_TIME, too_long)
    begin(done)
    return waiting
