"""Crash labels: the moments at which a test lets the process die, as `kill -9` would at the worst time.

MYSOCKET_CRASH_AT=S3 kills the process with SIGKILL when it first passes S3, MYSOCKET_CRASH_AT=S3:5 at the fifth time. The
variable is read once, at import; without it (or with an empty one) every function here does nothing.

S0  input read, before the commit begins       R1  frame complete, before output or commit
S1  inside the transaction                     R2  during the commit
S2  commit issued                              R3  committed, before the acknowledgement
S3  after the commit, before sending           R4  acknowledgement written, not yet on the wire
S4  part of a frame is on the wire             R5  before the output write
S5  sent, no acknowledgement yet               R6  in the middle of the output write
S6  acknowledgement received, not yet retired  R7  output written, before the position is committed
S7  retired, before space is reclaimed         R8  position committed, before what is no longer needed is trimmed
H1  during the handshake                       H2  both dial at once: the second connection is adopted
D1  the disk is found full                     D2  a sync has failed

`reach(label)`   is a passage of the label: the n-th one kills.
`during(label)`  is a passage as well, but the kill comes from another thread a moment later, so that it falls into the system
                 call that follows: mostly, since a busy machine or a short call can put it just before or behind.
`armed(label)`   is no passage: it tells whether the next one kills, so that the caller can tear a write in two.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from mysocket.errors import USAGE

LABELS: Final = frozenset("S0 S1 S2 S3 S4 S5 S6 S7 R1 R2 R3 R4 R5 R6 R7 R8 H1 H2 D1 D2".split())
VARIABLE: Final = "MYSOCKET_CRASH_AT"
MOMENT: Final = 0.0002  # seconds


class _Crash:
    """One armed label, and how often it is still to be passed; any thread may pass it."""

    def __init__(self, label: str, left: int) -> None:
        self._label = label
        self._left = left
        self._lock = threading.Lock()

    def reach(self, label: str) -> None:
        if self._passed(label):
            _kill()

    def during(self, label: str) -> None:
        if self._passed(label):
            threading.Timer(MOMENT, _kill).start()  # no daemon: the end of the process waits for it

    def armed(self, label: str) -> bool:
        with self._lock:
            return label == self._label and self._left == 1

    def _passed(self, label: str) -> bool:
        if label != self._label:
            return False
        with self._lock:
            self._left -= 1
            return self._left == 0


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _nothing(label: str) -> None:
    pass


def _never(label: str) -> bool:
    return False


def _parse(value: str) -> _Crash | None:
    if not value:
        return None
    match = re.fullmatch(r"([A-Z][0-9])(?::([0-9]{1,9}))?", value)
    if match is None or match[1] not in LABELS or (count := int(match[2] or 1)) < 1:
        say = f"mysocket: {VARIABLE}={value!r} is no crash label; give label or label:n, n from 1: {', '.join(sorted(LABELS))}.\n"
        with suppress(OSError):
            os.write(2, say.encode())
        raise SystemExit(USAGE)
    return _Crash(match[1], count)


_crash: Final = _parse(os.environ.get(VARIABLE, ""))

reach: Final[Callable[[str], None]] = _crash.reach if _crash else _nothing
during: Final[Callable[[str], None]] = _crash.during if _crash else _nothing
armed: Final[Callable[[str], bool]] = _crash.armed if _crash else _never
