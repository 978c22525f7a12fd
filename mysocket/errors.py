"""Every error a user can meet. The docstring of a class is the sentence the user reads.

A docstring may hold ``{fields}``; they are filled from the keyword arguments the error was raised with. ``status`` is the exit
status of the program when the error ends it (docs/promise.md lists them).
"""

from __future__ import annotations

from typing import Any

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

    status: int = FAILED

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
    """Messages wait for node {ours}, but node {theirs} answered: not sent to somebody else. Start that node again; for another
    peer use another --spool. Without a spool the messages are given up when this program ends."""

    status = USAGE


class PortTaken(MySocketError):
    """Cannot listen on {where}: {text}. {holder}; choose another, or end that program."""

    status = USAGE

    def __init__(self, text: str = "", /, *, holder: str = "Another program uses that port", **fields: Any) -> None:
        super().__init__(text, holder=holder, **fields)


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


class SpoolLocked(MySocketError):
    """The spool {directory} is in use by process {pid} ({role}); only one process at a time can hold it. Wait for that process
    or end it, or give another directory."""

    status = USAGE


class UnsafeSpool(MySocketError):
    """{where} is not safe for a spool: {text}."""

    status = USAGE


class DiskFailed(MySocketError):
    """A write to {where} failed ({text}), and nobody knows what of it is on the disk. Stopped, to be safe: nothing of it was
    acknowledged, and the next start reads what is really there. Check the disk first."""

    status = DISK


class OutputShortened(MySocketError):
    """{where} has {size} bytes, but {length} were written to it: somebody has cut it or made it anew, and data that was
    acknowledged is missing. Put it back, or go on without with --accept-loss."""

    status = MISSING


class OutputShared(MySocketError):
    """{where} has {size} bytes instead of {length}: something else writes to it. With --spool nobody else may; stopped, because
    nobody could say any more what is in it twice or not at all. Give --output a file of its own."""

    status = MISSING


class OutputDeleted(MySocketError):
    """{where} was deleted while it was written: what was in it is lost. Stopped, so that nothing more is. To begin a new file,
    move the old one away and send SIGHUP."""

    status = MISSING


class OtherPeerWaits(MySocketError):
    """{waiting} in {spool} wait for {ours}; not sent to {theirs}. Deliver them first (--peer {ours}), or use another --spool for
    the other peer."""

    status = USAGE


class PidFileTaken(MySocketError):
    """The pid file {where} names process {pid}{name}, which runs. If that is this service, it runs already; if it is another one
    of twistd's, give this one a --pidfile (and --logfile) of its own; if it is neither, remove the file."""

    status = USAGE


class NoService(MySocketError):
    """No service was found{which}: {text}. Start one (twistd mysocket …), or say where it is (--port PORT or --spool DIR)."""


class SeveralServices(MySocketError):
    """Several services were found: {text}. Choose one with --port PORT or --spool DIR."""

    status = USAGE


class OtherControl(MySocketError):
    """The service at {where} speaks version {theirs} of the control language ({text}), this program version {ours}. Call the
    mysocket that the service was started from, or start the service again."""


class ServiceSays(MySocketError):
    """The service (process {pid}) says: {text}."""

    def __init__(self, text: str, /, *, pid: int, status: int) -> None:
        super().__init__(text, pid=pid)
        self.status = status


class ServiceGone(MySocketError):
    """The service (process {pid}) closed the connection ({text}). It may have been stopped or killed; its log tells more."""


class NoAnswer(MySocketError):
    """The service (process {pid}) has not {what} within {seconds:g} s."""

    status = TIME_LIMIT


class ServiceHidden(MySocketError):
    """A service (process {pid}) holds the spool {directory}, but cannot be reached through its control socket: {text}. Nothing
    was sent. Try again when it has started, or start it again."""


class OutcomeUnknown(MySocketError):
    """The service (process {pid}), which kept what it had accepted in memory, has ended: {text}."""


class Unsent(MySocketError):
    """{why}. {text}."""

    def __init__(self, text: str, /, *, why: str, status: int) -> None:
        super().__init__(text, why=why.rstrip("."))
        self.status = status


class NoControlSocket(MySocketError):
    """No control socket: {text}. Messages pass without it, but mysocket send, attach and status do not find the service there."""

    status = USAGE


class NotSendable(MySocketError):
    """Cannot send {where}: {text}."""

    status = USAGE


class NoFilesTaken(MySocketError):
    """{peer} takes no files: it was started without --download-dir. Nothing of {name} was sent; start that side with
    --download-dir DIR, then send it again."""

    status = REFUSED


class FileChanged(MySocketError):
    """{where} was changed while it was sent: {text}. The transfer is cancelled, and the other side keeps nothing of it under that
    name. Send it again when nobody writes to it."""


class FileUnread(MySocketError):
    """Reading {where} failed: {text}. The transfer is cancelled."""


class ScreenFailed(MySocketError):
    """The screen failed ({text}), which is a mistake in this program. What was not shown is not acknowledged. Start again with
    --plain-terminal, which draws nothing."""


class BadConfig(UsageError):
    """{where}: {text}"""


class InputMissing(MySocketError):
    """The input {where} does not exist. Check its name. A file that is still to come is waited for with --input follow:FILE."""

    status = USAGE


class InputRefused(MySocketError):
    """The input {where} cannot be read: {text}."""

    status = USAGE


class InputUnread(MySocketError):
    """Reading the input {where} failed: {text}. With --spool, the next start goes on behind what is accepted of it."""


class WholeTooLong(MySocketError):
    """The input {where} has more than {limit} bytes to send, and with --whole they are one message. Give a larger --max-message,
    or leave --whole out. Nothing of them was sent."""

    status = USAGE


class PlaceUnknown(MySocketError):
    """What the spool says about how far the input {where} was read cannot be understood: {text}. Stopped, because nobody could
    say what would be sent twice. Use the version of MySocket that wrote it; or give the file another name (ln -s), under which it
    counts as one that was never read."""

    status = USAGE


class CannotConnect(MySocketError):
    """Cannot connect to the output {where}: {text}. What is received waits for it, and is not acknowledged."""


class CannotSend(MySocketError):
    """Cannot send datagrams to the output {where}: {text}. What is received waits for it, and is not acknowledged."""


class DatagramTooLong(MySocketError):
    """A message of {size} bytes does not fit into a datagram ({limit} bytes at most): it was not sent to {where}. The next goes
    on; a TCP output has no such limit."""


class NotPassed(CannotListen):
    """Cannot listen on {where}: {text}."""
