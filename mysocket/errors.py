"""Every error a user can meet. The docstring of a class is the sentence the user reads.

A docstring may hold ``{fields}``; they are filled from the keyword arguments the error was raised with. ``status`` is the exit
status of the program when the error ends it (docs/promise.md lists them).
"""

from __future__ import annotations

from typing import Any, ClassVar

# Exit statuses of the program.
OK = 0
FAILED = 1
USAGE = 2
TIME_LIMIT = 3
REFUSED = 4
MISSING = 5
DISK = 74
INTERRUPTED = 130
TERMINATED = 143


class MySocketError(Exception):
    """{text}"""

    status: ClassVar[int] = FAILED

    def __init__(self, text: str = "", /, **fields: Any) -> None:
        self.text = text = text.rstrip(".")
        self.fields = fields
        sentence = " ".join((type(self).__doc__ or "").split())
        super().__init__(sentence.format(text=text, **fields))


class UsageError(MySocketError):
    """{text}"""

    status = USAGE


class LocalProtocolError(MySocketError):
    """This program broke its own protocol: {text}. Please report it."""


class RemoteProtocolError(MySocketError):
    """The peer broke the protocol: it sent {text}. It may be another version of MySocket, or something between the two sides
    changes the bytes. The connection is closed and made anew."""


class VersionMismatch(RemoteProtocolError):
    """The peer speaks {text}, this program {ours}: there is no common version of the protocol. Install the same version of
    MySocket on both sides."""

    status = REFUSED


class NotMySocket(RemoteProtocolError):
    """What answers there is not a MySocket: it said {text!r}. Check host and port; to speak plain bytes with it, use --raw."""


class ClosedWithoutWord(MySocketError):
    """{peer} closed the connection without a word. It may run no MySocket on that port, or it needs --allow with our address
    ({address})."""


class HandshakeTimeout(MySocketError):
    """{peer} took the connection but did not finish the handshake within {seconds:g} s. It may not be a MySocket."""


class RefusedByPeer(MySocketError):
    """{peer} refused: {text}."""

    status = REFUSED


class MessageTooLong(MySocketError):
    """A message at position {position} is larger than --max-message ({limit} bytes), and it is needed whole here. Give a larger
    --max-message, or --output or a pipe without --json."""

    status = MISSING


class StateLoss(MySocketError):
    """{text}. Data is missing or state was lost on one side; stopped, so that nothing is passed over in silence."""

    status = MISSING


class AnotherPeer(MySocketError):
    """Messages wait for node {ours}, but node {theirs} answered: not sent to somebody else. Start that node again, or end this
    program to give the messages up."""

    status = USAGE


class PortTaken(MySocketError):
    """Cannot listen on {where}: {text}. Another program uses that port; choose another with -p, or end that program."""

    status = USAGE


class CannotListen(MySocketError):
    """Cannot listen on {where}: {text}. Check the address and the permissions."""

    status = USAGE


class ConnectionRefused(MySocketError):
    """{peer} refused the connection: nothing listens there yet. Start mysocket on that side, or check the port."""


class UnknownHost(MySocketError):
    """The name {host} is unknown: {text}. Check its spelling and the name server."""


class Unreachable(MySocketError):
    """{peer} cannot be reached: {text}. Check the network, the address and firewalls on the way."""


class OutputClosed(MySocketError):
    """The reader of the output has gone ({text}): stopped, and what it did not get is not acknowledged."""

    status = FAILED


class OutputFailed(MySocketError):
    """Writing to {where} failed: {text}. What was not written is not acknowledged; free some space or check the disk, then
    start again."""

    status = DISK


class CannotOpen(MySocketError):
    """Cannot open {where}: {text}."""

    status = USAGE


class TimeLimit(MySocketError):
    """{peer} could not be reached, or stayed away, for {seconds:g} s (-w)."""

    status = TIME_LIMIT


class RawReset(MySocketError):
    """The connection to {peer} was lost: {text}. Plain bytes have no acknowledgement: nobody knows how much arrived."""


class PeerClosed(MySocketError):
    """{peer} has finished: no more messages will come."""


class BrokenOff(MySocketError):
    """The stream of {peer} was broken off before its end, and will not go on: data is missing."""

    status = MISSING
