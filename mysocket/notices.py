"""What happens, told to people and to programs at once: a sentence, the name of the event, and fields with its particulars.

A notice is a string, its sentence. Whoever passes sentences on passes notices on and need not know; whoever logs them as objects
finds the rest. :data:`KINDS` is the one list of events, and docs/operations.md shows it to users.

Rules

1. A name and a field, once given, keep their meaning: programs look for them. A sentence may change.
2. No message, and nothing of its content, is in a notice (the one exception is ``received``, which is an output).
3. Text of a peer is escaped and shortened (``ends/escape.one_line``) where the sentence is made. The log escapes all of it once
   more, so that one event is one line whatever it holds.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from mysocket.errors import AnotherPeer, MySocketError, RefusedByPeer, StateLoss

Level = Literal["debug", "info", "warn", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)
#: What stands in a field.
Value = str | int | float | bool | None
#: An event without a name of its own.
NOTE = "note"
#: What a log adds itself, and words that Twisted's log gives a meaning: no field has such a name.
RESERVED = frozenset(
    ["event", "failure", "format", "isError", "level", "logger", "message", "system", "text", "time", "traceback", "why"]
)


class Kind(NamedTuple):
    """An event: how serious it is, what is told with it, and what it means."""

    level: Level
    fields: tuple[str, ...]
    meaning: str


_PEER = ("peer", "address", "node")

# fmt: off
KINDS: dict[str, Kind] = {
    "listening": Kind("info", ("addresses", "takes", "input"),
                      "it listens; `takes`: who may connect; `input`: for which `--input`"),
    "metrics": Kind("info", ("addresses",), "`--metrics` is served there"),
    "linked": Kind("info", _PEER, "a peer is there: the first connection to it has finished its handshake"),
    "lost": Kind("warn", (*_PEER, "reason", "undelivered"),
                 "the last connection to it was lost; `undelivered`: bytes that wait to be acknowledged"),
    "left": Kind("info", (*_PEER, "reason"), "a peer has said goodbye"),
    "closed": Kind("warn", (*_PEER, "reason"), "a peer has closed a connection, and said why"),
    "broken": Kind("warn", (*_PEER, "reason"), "a connection broke off: the peer was silent, or broke the protocol"),
    "stream": Kind("info", (*_PEER, "position"),
                   "a peer goes on in the middle of a stream, or with a new one, that this process has not seen"),
    "broken_off": Kind("warn", _PEER, "a peer's stream was broken off, or its loss is accepted"),
    "unreachable": Kind("warn", ("error",), "an attempt to connect has failed; it is made again. Once a minute for each reason"),
    "rejected": Kind("warn", ("address", "reason", "input", "left_out"),
                     "a connection or a datagram was not taken (`reason`: as in the [metrics](#rejected)), and `left_out` more. "
                     "Whoever speaks something else, or says nothing, is only counted there"),
    "refused": Kind("error", ("error", "status"), "the peer refuses this side, or what it has is for another"),
    "state_lost": Kind("error", ("error", "status"), "state was lost, here or there, and data may be missing"),
    "failed": Kind("error", ("error", "status"), "it cannot go on"),
    "full": Kind("warn", ("where",), "a disk is full; what needs room waits"),
    "room": Kind("info", (), "the disk has room again"),
    "undelivered": Kind("warn", (), "what is not delivered when it leaves"),
    "connected": Kind("info", ("address",), "with `--raw`: a connection stands"),
    "disconnected": Kind("warn", ("address", "reason"), "with `--raw`: it was lost"),
    "input_dropped": Kind("warn", ("input", "left_out"), "something that came to an `--input` was lost"),
    "input": Kind("info", ("input",), "something else about an `--input`: a file that it follows was rotated, or is not there"),
    "output_connected": Kind("info", ("output",), "an `--output` that is dialled is there"),
    "output_lost": Kind("warn", ("output", "reason"), "it is away; what is to be written there waits"),
    "left_out": Kind("warn", ("count",), "lines that peers caused were left out of the log"),
    "received": Kind("info", (), "a line that was received, of a daemon that has no other output"),
    "reopened": Kind("info", (), "SIGHUP: the output file was opened anew"),
    "stopping": Kind("info", ("reason", "status"), "it takes nothing more, and leaves"),
    NOTE: Kind("info", (), "everything else, for people"),
}
# fmt: on


class Notice(str):
    """A sentence, and what a program wants to know of it. Made by :func:`notice`."""

    __slots__ = ("event", "fields", "level")

    event: str
    level: Level
    fields: dict[str, Value]

    def __new__(cls, text: str, event: str = NOTE, level: Level = "info", fields: dict[str, Value] | None = None) -> Notice:
        made = super().__new__(cls, text)
        made.event, made.level, made.fields = event, level, fields if fields is not None else {}
        return made

    def saying(self, text: str, **more: Value) -> Notice:
        """The same event in other words."""
        return Notice(text, self.event, self.level, {**self.fields, **more})


def notice(event: str, text: str, **fields: Value) -> Notice:
    """What has happened.

    :raises LookupError: there is no such event, or it has no such field.
    """
    kind = KINDS[event]
    if unknown := fields.keys() - set(kind.fields):
        raise LookupError(f"the event {event} has no field {', '.join(sorted(unknown))}")
    return Notice(text, event, kind.level, fields)


def failure(error: MySocketError) -> Notice:
    """An error that ends something."""
    event = "state_lost" if isinstance(error, StateLoss) else "failed"
    if isinstance(error, RefusedByPeer | AnotherPeer):
        event = "refused"
    return notice(event, str(error), error=type(error).__name__, status=error.status)


def as_notice(text: str, level: Level) -> Notice:
    """``text``, which may be one; if it is not, how serious it is."""
    return text if isinstance(text, Notice) else Notice(text, NOTE, level)


def with_more(text: str, left_out: int) -> str:
    """The sentence, and how many like it were left out before."""
    if not left_out:
        return text
    longer = f"{text} (and {left_out} more like it)"
    if isinstance(text, Notice):
        return text.saying(longer, **({"left_out": left_out} if "left_out" in KINDS[text.event].fields else {}))
    return longer
