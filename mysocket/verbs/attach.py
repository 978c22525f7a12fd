"""``mysocket attach``: what comes in at a running service, for a program (``--recv-only``) or for a person (talk.py).

A consumer

1. What comes is written at once, and then acknowledged, unless ``--ack none`` leaves that to ``mysocket ack``. Written means
   that the system took it: a pipe's reader may still lose what is in the pipe, a file what is not on the disk yet.
2. It lives until a signal ends it, or its reader goes; then nothing is acknowledged that was not written. A service that is
   restarted is waited for, and nothing is written twice; only a consumer that was killed itself between a write and its
   acknowledgement gets that part again, the next time.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress

from mysocket.control.client import Connection, again, find
from mysocket.control.protocol import Greeting
from mysocket.errors import MySocketError, ServiceGone
from mysocket.verbs.inbox import Inbox, passed_text
from mysocket.verbs.rows import Form, Json, Lines, Plain
from mysocket.verbs.talk import talk
from mysocket.verbs.waiting import Signals, Stdout, Stopped, say

DEFAULT = "default"
#: Seconds that one attempt to find the service again may take, and between two of them.
ATTEMPT, PAUSE = 0.3, 0.2


def run(
    *,
    port: int | str | None,
    spool: str | None,
    recv_only: bool,
    json: bool,
    consumer: str | None,
    begin: str | None,
    ack: str,
    timestamps: bool,
) -> int:
    """Attach; returns the exit status.

    :raises MySocketError: there is no service, it ends the session, or stdout cannot be written.
    """
    connection = find(port, spool)
    with ExitStack() as undo:
        signals = undo.enter_context(Signals())
        stdout = Stdout(signals)
        undo.callback(stdout.close)
        acknowledge = ack != "none"
        if not recv_only:
            form = Json(escaped=stdout.terminal) if json else _lines(stdout, timestamps, named=True)
            inbox = Inbox(consumer, begin or (None if consumer else "now"), acknowledge=acknowledge)
            return talk(connection, inbox, form, stdout, signals)
        inbox = Inbox(consumer or DEFAULT, begin, acknowledge=acknowledge)
        undo.callback(inbox.leave)
        return _consume(connection, inbox, _form(stdout, json=json, timestamps=timestamps), stdout, signals)


def _form(stdout: Stdout, *, json: bool, timestamps: bool) -> Form:
    if json:
        return Json(escaped=stdout.terminal)
    return _lines(stdout, timestamps) if timestamps or stdout.terminal else Plain()


def _lines(stdout: Stdout, timestamps: bool, *, named: bool = False) -> Form:
    return Lines(escaped=stdout.terminal, stamped=timestamps, named=named)


def _consume(connection: Connection, inbox: Inbox, form: Form, stdout: Stdout, signals: Signals) -> int:
    attached, more = False, False
    try:
        while True:
            try:
                if not attached:
                    inbox.attach(connection)
                    attached = True
                stdout.check(signals.wait({**stdout.watched, **inbox.wanted()}, 0 if more else None))
                more = inbox.pump(form, stdout)
                if inbox.passed:
                    say(passed_text(inbox))
            except ServiceGone as problem:
                say(f"{problem} Waiting for it to come back.")
                connection = _back(connection, stdout, signals)
                attached = False
                say(f"the service is back (process {connection.pid})")
    except Stopped as signal:
        return signal.status


def _back(connection: Connection, stdout: Stdout, signals: Signals) -> Connection:
    """The service, when it is there again."""
    while True:
        with suppress(TimeoutError, InterruptedError):
            try:
                return again(connection, ATTEMPT, wake=signals.fileno())
            except ServiceGone:
                found = _successor(connection.greeting)
                if found is not None:
                    return found
        stdout.check(signals.wait(stdout.watched, PAUSE))


def _successor(lost: Greeting) -> Connection | None:
    """A service without a spool comes back as another node; it is known by its port and its peer."""
    if lost.port is not None:
        with suppress(MySocketError):
            found = find(lost.port, patience=ATTEMPT)
            if found.greeting.spool is None and found.greeting.peer == lost.peer:
                return found
            found.close()
    return None
