"""The one table of options, as data, and what its values together mean.

`OPTIONS` is rendered to argparse for the console script (commandline.py) and to `usage.Options` for twistd (tap.py). What keeps
the two alike: `commandline.spell_out` brings every command line into one spelling before either of them sees it, `Option.read`
reads every value, and `settings` judges the whole. All raise UsageError with the sentence the user reads.

`VERBS` are the words that make the console script do something else than a session; each has rows of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from mysocket.errors import UsageError

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

Kind = Literal["flag", "value", "repeat"]
FLAG: Kind = "flag"
VALUE: Kind = "value"
REPEAT: Kind = "repeat"

Cut = Literal["lines", "null", "stream", "whole"]

# The three ways to call the program, for the usage lines and for errors about positional arguments.
CLASSIC = "mysocket [options] LISTENER_PORT RECEIVER_HOST RECEIVER_PORT"
DIAL = "mysocket [options] --peer HOST:PORT"
LISTEN = "mysocket [options] -p PORT"


def parse_size(text: str) -> int:
    """Bytes, at least 1: ``64k``, ``1M``, ``2G`` (powers of 1024), or a bare number."""
    match = re.fullmatch(r"([0-9]{1,15})([kKmMgG]?)", text)
    size = int(match[1]) * 1024 ** " kmg".index(match[2].lower() or " ") if match else 0
    if size < 1:
        raise ValueError(f"{text!r} is not a size; write a number of bytes from 1, or 64k, 1M, 2G")
    return size


def parse_duration(text: str, *, zero: bool = False) -> float:
    """Seconds, more than 0 unless `zero` allows it: ``500ms``, ``5s``, ``2m``, ``1h``, or a bare number of seconds."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|)", text)
    seconds = float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "": 1}[match[2]] if match else -1.0
    if seconds < 0 or (seconds == 0 and not zero):
        raise ValueError(
            f"{text!r} is not a length of time{'' if zero else ' above 0'}; write 500ms, 5s, 2m, 1h, or plain seconds"
        )
    return seconds


def _linger(text: str) -> float:
    return parse_duration(text, zero=True)


def _address(text: str) -> str:
    from ipaddress import ip_address  # what a short command does not need, it does not import

    try:
        return str(ip_address(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address; write one of this machine's, as 192.0.2.7 or 2001:db8::7") from None


def _network(text: str) -> IPv4Network | IPv6Network:
    from ipaddress import ip_network

    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a range of addresses; write 10.0.0.0/8, 2001:db8::/32, or a single address") from None


def _spool_size(text: str) -> int:
    size = parse_size(text)
    if size < LEAST_SPOOL:
        raise ValueError(f"{text!r} is too small; a spool has at least 1M")
    return size


def _file_name(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not a file name")
    return text


@dataclass(frozen=True, slots=True)
class Option:
    """One row of the table. `parse` turns the text after the option into its value, or raises ValueError with a sentence.

    `field` is the field of Settings which the option decides; empty where no field does (--tcp says the default, --help and
    --version end the program).
    """

    long: str
    short: str | None
    metavar: str | None
    kind: Kind
    default: object
    parse: Callable[[str], object]
    help: str
    field: str = ""
    aliases: tuple[str, ...] = ()
    group: str = "General"

    def read(self, text: str) -> object:
        """The value of `text`, or UsageError naming the option."""
        try:
            return self.parse(text)
        except ValueError as error:
            raise UsageError(f"--{self.long}: {error}") from None


WHERE, HOW, KEEP, WHEN = "Where to", "What passes, and how", "What survives", "When to leave"
#: Bytes that wait on disk, unless --max-spool says otherwise, and the least it may say.
MAX_SPOOL, LEAST_SPOOL = 1024**3, 1024**2

HELP = Option("help", "h", None, FLAG, False, bool, help="show this help and exit")

# fmt: off
OPTIONS: tuple[Option, ...] = (
    Option("port", "p", "PORT", VALUE, None, str, field="port", group=WHERE,
           help="listen here: a number (0: any, which is printed), or a Twisted server endpoint string such as unix:/run/it"),
    Option("peer", None, "HOST:PORT", VALUE, None, str, field="peer", group=WHERE,
           help="dial this; [V6]:PORT for an IPv6 address, or a Twisted client endpoint string"),
    Option("tcp", None, None, FLAG, False, bool, group=WHERE,
           help="use TCP (the default)"),
    Option("udp", "u", None, FLAG, False, bool, aliases=("use-udp",), field="udp", group=WHERE,
           help="use UDP; it wins over --tcp"),
    Option("raw", None, None, FLAG, False, bool, field="raw", group=WHERE,
           help="plain bytes (TCP) or one message per datagram (UDP), as nc and socat speak; promises no more than these do"),
    Option("bind", None, "ADDR", VALUE, None, _address, field="bind", group=WHERE,
           help="the local address to listen on and to dial from"),
    Option("allow", None, "CIDR", REPEAT, (), _network, field="allow", group=WHERE,
           help="addresses that may connect, besides the peer's own; may be given again"),

    Option("stream", None, None, FLAG, False, bool, field="cut", group=HOW,
           help="cut the input wherever it comes, for bytes without lines"),
    Option("whole", None, None, FLAG, False, bool, field="cut", group=HOW,
           help="the whole input is one message"),
    Option("null", "0", None, FLAG, False, bool, field="cut", group=HOW,
           help="messages end in a NUL byte; the default is one line, one message"),
    Option("send-only", None, None, FLAG, False, bool, field="send_only", group=HOW,
           help="take nothing from the peer"),
    Option("recv-only", None, None, FLAG, False, bool, field="recv_only", group=HOW,
           help="send nothing, and never touch stdin"),
    Option("output", None, "FILE", VALUE, None, _file_name, field="output", group=HOW,
           help="append what is received to FILE instead of stdout"),
    Option("json", "J", None, FLAG, False, bool, field="json", group=HOW,
           help="write one JSON object per message received"),
    Option("timestamps", "T", None, FLAG, False, bool, field="timestamps", group=HOW,
           help="write the local time (RFC 3339) before each line received"),
    Option("max-message", None, "SIZE", VALUE, 16 * 1024**2, parse_size, field="max_message", group=HOW,
           help="largest message put together where whole ones are needed (JSON, a terminal, many senders); default 16M"),

    Option("spool", None, "DIR", VALUE, None, _file_name, field="spool", group=KEEP,
           help="keep in DIR what is not acknowledged, and how far the peer has come: survives crashes and power cuts"),
    Option("max-spool", None, "SIZE", VALUE, MAX_SPOOL, _spool_size, field="max_spool", group=KEEP,
           help="largest size of what waits in the spool; then the input waits too; default 1G"),
    Option("accept-loss", None, None, FLAG, False, bool, field="accept_loss", group=KEEP,
           help="go on where a spool or an output file was lost or put back, here or at the peer; what is missing stays missing"),

    Option("wait", "w", "SECS", VALUE, None, parse_duration, field="wait", group=WHEN,
           help="give up with status 3 when the peer cannot be reached, or stays away, for so long; default: keep trying"),
    Option("linger", "q", "SECS", VALUE, None, _linger, field="linger", group=WHEN,
           help="after the own input is delivered, wait at most so long for the peer's"),
    Option("keep-open", "k", None, FLAG, False, bool, field="keep_open", group=WHEN,
           help="stay after the peer has finished"),

    Option("verbose", "v", None, FLAG, False, bool, field="verbose", help="say more on stderr"),
    Option("quiet", None, None, FLAG, False, bool, field="quiet", help="say only errors on stderr"),
    HELP,
    Option("version", None, None, FLAG, False, bool, help="show the version and exit"),
)
# fmt: on

# Options that end the program with an answer; the rest of the command line does not matter then.
ANSWERS = ("help", "version")

EXCLUSIVE = (
    ("send-only", "recv-only", "nothing would pass"),
    ("stream", "whole", "the input is cut in one way"),
    ("stream", "null", "the input is cut in one way"),
    ("whole", "null", "the input is cut in one way"),
    ("json", "timestamps", "a JSON object carries its own time"),
    ("send-only", "output", "nothing is received that could be written to a file"),
)


@dataclass(frozen=True, slots=True)
class Verb:
    """The first word of a command line, if it says what to do (mysocket/verbs has a module of each one's name).

    :param words: the positional arguments: their names, and what reads them as :attr:`Option.parse` does. All are needed.
    :param rest: the name of the words that may follow them, any number; empty: none may. They are taken as they are.
    :param prints: it needs stdout. One with a ``rest`` needs stdin where there is none.
    """

    name: str
    help: str
    words: tuple[tuple[str, Callable[[str], object]], ...]
    options: tuple[Option, ...]
    rest: str = ""
    prints: bool = True

    @property
    def form(self) -> str:
        """How it is called."""
        names = [f"--{option.long} {option.metavar or ''}".rstrip() for option in self.options if option.long not in ANSWERS]
        words = [*(word for word, _ in self.words), *([f"[{self.rest}…]"] if self.rest else [])]
        return " ".join(["mysocket", self.name, *words, *(f"[{name}]" for name in names)])


def _control_port(text: str) -> int | str:
    if not text:
        raise ValueError("it is empty; write what the --port of the service says")
    return _port_number(text, lowest=1) if text.isdecimal() and text.isascii() else text


def _consumer(text: str) -> str:
    from mysocket.control.protocol import check_name

    return check_name(text)


def _position(text: str) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63:
        raise ValueError(f"{text!r} is not a position; write the number that attach --json calls position")
    return int(text)


def _one_of(*known: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known:
            raise ValueError(f"{text!r} is unknown; write {' or '.join(known)}")
        return text

    return read


# fmt: off
_SERVICE = (
    Option("port", "p", "PORT", VALUE, None, _control_port, field="port",
           help="the service with this --port; needed where several run"),
    Option("spool", None, "DIR", VALUE, None, _file_name, field="spool",
           help="the service with this --spool"),
)
_WAIT = "give up with status 3 when "

VERBS: dict[str, Verb] = {verb.name: verb for verb in (
    Verb("spool", "show how far the streams of a spool have come, and what is in it; while no other process holds it",
         words=(("DIR", _file_name),),
         options=(
             Option("messages", None, None, FLAG, False, bool, field="messages",
                    help="list the messages that wait to be sent instead, each behind its position"),
             Option("inbox", None, None, FLAG, False, bool, field="inbox",
                    help="list the messages that its inbox keeps instead, each behind its position there"),
             Option("json", "J", None, FLAG, False, bool, field="json",
                    help="write one JSON object; with --messages or --inbox one per message"),
             HELP,
         )),
    Verb("send", "give the service that runs here a message, or its own input where there is no TEXT; it is sent on from there",
         words=(), rest="TEXT", prints=False,
         options=(
             *_SERVICE,
             Option("delivered", None, None, FLAG, False, bool, field="delivered",
                    help="wait until the peer has acknowledged it; the default is until the service has accepted it"),
             Option("wait", "w", "SECS", VALUE, None, parse_duration, field="wait",
                    help=_WAIT + "the service accepts no more for so long; default: wait as long as it takes"),
             Option("stream", None, None, FLAG, False, bool, field="stream",
                    help="cut the input wherever it comes, for bytes without lines"),
             Option("whole", None, None, FLAG, False, bool, field="whole",
                    help="the whole input is one message"),
             Option("null", "0", None, FLAG, False, bool, field="null",
                    help="messages end in a NUL byte; the default is one line, one message"),
             Option("verbose", "v", None, FLAG, False, bool, field="verbose", help="say what was accepted, and by whom"),
             Option("quiet", None, None, FLAG, False, bool, field="quiet", help="say only errors on stderr"),
             HELP,
         )),
    Verb("attach", "talk through the service that runs here, or read what it has received",
         words=(),
         options=(
             *_SERVICE,
             Option("recv-only", None, None, FLAG, False, bool, field="recv_only",
                    help="only read, and never touch stdin"),
             Option("json", "J", None, FLAG, False, bool, field="json",
                    help="write one JSON object per message, with its position"),
             Option("as", None, "NAME", VALUE, None, _consumer, field="consumer",
                    help="the consumer: what it has acknowledged it does not get again"),
             Option("from", None, "WHERE", VALUE, None, _one_of("oldest", "now"), field="begin",
                    help="where a name that is new begins: oldest or now"),
             Option("ack", None, "HOW", VALUE, "auto", _one_of("auto", "none"), field="ack",
                    help="auto: a message is acknowledged when it is written (the default); none: mysocket ack does it"),
             Option("timestamps", "T", None, FLAG, False, bool, field="timestamps",
                    help="write the local time (RFC 3339) before each line received"),
             HELP,
         )),
    Verb("ack", "say that a consumer has every message up to a position; the service need keep none of them for it",
         words=(("NAME", _consumer), ("POSITION", _position)), prints=False,
         options=(*_SERVICE, HELP)),
    Verb("forget", "remove a consumer, so that nothing is kept for it any more",
         words=(("NAME", _consumer),), prints=False,
         options=(*_SERVICE, HELP)),
    Verb("status", "show how the service that runs here is; exit status 0: linked with its peer, 1: not",
         words=(),
         options=(
             *_SERVICE,
             Option("json", "J", None, FLAG, False, bool, field="json", help="write one JSON object"),
             Option("watch", None, None, FLAG, False, bool, field="watch", help="look again every second, until Ctrl-C"),
             HELP,
         )),
    Verb("stop", "end the service that runs here, and wait until it has left",
         words=(), prints=False,
         options=(
             *_SERVICE,
             Option("wait", "w", "SECS", VALUE, 30.0, parse_duration, field="wait",
                    help=_WAIT + "it has not left within so long; default 30s"),
             HELP,
         )),
)}
# fmt: on

# Prefixes of Twisted's own endpoint strings, and of Tor's.
_ENDPOINTS = frozenset({"tcp", "tcp6", "ssl", "tls", "unix", "haproxy", "systemd", "onion", "tor"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a valid command line says.

    `port` is digits (0 to 65535), or else a Twisted server endpoint string. `peer` is ``host:port`` or ``[v6]:port``, unless
    `is_endpoint` says that it is a client endpoint string. With `udp` neither is an endpoint string. One of them is given.
    Times are seconds, sizes bytes.
    """

    port: str | None
    peer: str | None
    udp: bool
    raw: bool
    bind: str | None
    allow: tuple[IPv4Network | IPv6Network, ...]
    cut: Cut
    send_only: bool
    recv_only: bool
    output: str | None
    json: bool
    timestamps: bool
    wait: float | None
    linger: float | None
    keep_open: bool
    max_message: int
    spool: str | None
    max_spool: int
    accept_loss: bool
    verbose: bool
    quiet: bool


def is_endpoint(text: str, *, listening: bool = False) -> bool:
    """Whether `text` is a Twisted endpoint string: to be dialled, or, with `listening`, to be listened on.

    ``name:number`` is a host and its port where something is dialled, whatever the name: ``tcp:9000`` is an endpoint only to
    listen on.
    """
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9_]*):(.+)", text, re.DOTALL)
    if match is None:
        return False
    known = match[1] in _ENDPOINTS
    if re.fullmatch("[0-9]+", match[2]):
        return known and listening
    return known or listening or "=" in match[2]


def split_host_port(text: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` as the host, without brackets, and the port, 1 to 65535."""
    match = re.fullmatch(r"(?:\[([^][]*)\]|([^][]*)):([^:]*)", text, re.DOTALL)
    if match is None:
        raise UsageError(f"{text!r} is not HOST:PORT; an IPv6 address is written in brackets, as [2001:db8::7]:9000")
    address, name, port = match.groups()
    if not (address or name):
        raise UsageError(f"{text!r} names no host; write HOST:PORT")
    if address is not None and not _is_ipv6(address):
        raise UsageError(f"{address!r} is not an IPv6 address; only those are written in brackets")
    if name is not None and not re.fullmatch(r"[^\s:/]+", name):
        raise UsageError(f"{text!r} is not HOST:PORT; an IPv6 address is written in brackets, as [2001:db8::7]:9000")
    return address or name, _port_number(port, lowest=1)


def _is_ipv6(text: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(text).version == 6
    except ValueError:
        return False


def _port_number(text: str, lowest: int) -> int:
    if not re.fullmatch("[0-9]+", text):
        raise UsageError(f"port {text!r} is not a number from {lowest} to 65535")
    number = int(text) if len(text) < 10 else 65536
    if not lowest <= number <= 65535:
        raise UsageError(f"port {text} is out of range: {lowest} to 65535")
    return number


def _listener(text: str) -> str:
    if ":" in text:
        raise UsageError(f"port {text!r} is not a number; the address to listen on is given with --bind ADDR")
    return str(_port_number(text, lowest=0))


def _peer(text: str) -> str:
    host, port = split_host_port(text)
    return f"{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _classic(port: str | None, peer: str | None, positionals: Sequence[str]) -> tuple[str | None, str | None]:
    """Port and peer, from options or from LISTENER_PORT RECEIVER_HOST RECEIVER_PORT."""
    match positionals:
        case []:
            return port, peer
        case [only]:
            raise UsageError(
                f"one argument, {only!r}, is not enough; to listen: mysocket -p {only if only.isdigit() else 'PORT'}; "
                f"to dial: mysocket --peer {only if ':' in only else 'HOST:PORT'}"
            )
        case [host, number]:
            form = f"--peer {_bracketed(host)}:{number}"
            raise UsageError(
                f"two arguments are not enough; to dial another MySocket: mysocket {form}; to dial nc, socat or anything else: "
                f"mysocket {form} --raw; to listen as well: mysocket LISTENER_PORT {host} {number}"
            )
        case [listener, host, number]:
            if port is not None or peer is not None:
                raise UsageError(f"the port and the peer are given twice; use either {CLASSIC}, or -p and --peer")
            return listener, _peer(f"{_bracketed(host)}:{number}")
        case _:
            raise UsageError(f"{len(positionals)} arguments are too many; the form is {CLASSIC}")


def _check_spool(fields: Mapping[str, Any]) -> None:
    if fields["spool"] is not None:
        if fields["raw"] or fields["udp"]:
            how = "--raw" if fields["raw"] else "--udp"
            raise UsageError(f"--spool and {how} exclude each other: without acknowledgements nobody knows what may be forgotten")
    elif fields["accept_loss"]:
        raise UsageError("--accept-loss says what to do about a spool; there is none without --spool DIR")
    elif fields["max_spool"] != MAX_SPOOL:
        raise UsageError("--max-spool is the size of a spool; there is none without --spool DIR")


def settings(values: Mapping[str, object], positionals: Sequence[str]) -> Settings:
    """The Settings of a command line: `values`, already read, by the long names of the options, and the positional arguments."""
    for first, second, why in EXCLUSIVE:
        if values.get(first) and values.get(second):
            raise UsageError(f"--{first} and --{second} exclude each other: {why}")
    cut: Cut = "stream" if values.get("stream") else "whole" if values.get("whole") else "null" if values.get("null") else "lines"
    fields: dict[str, Any] = {}
    for option in OPTIONS:
        if option.field:
            value: Any = values.get(option.long, option.default)
            fields[option.field] = bool(value) if option.kind == FLAG else tuple(value) if option.kind == REPEAT else value
    _check_spool(fields)
    port, peer = _classic(fields["port"], fields["peer"], positionals)
    if port is None and peer is None:
        raise UsageError(f"nowhere to listen and nobody to dial; the forms are:\n  {CLASSIC}\n  {DIAL}\n  {LISTEN}")
    endpoints = [port] if port is not None and is_endpoint(port, listening=True) else []
    endpoints += [peer] if peer is not None and is_endpoint(peer) else []
    if fields["udp"] and endpoints:
        raise UsageError(
            f"endpoint string {endpoints[0]!r}: there are none for UDP; write the port as a number, the peer as HOST:PORT"
        )
    if fields["bind"] and endpoints:
        raise UsageError(f"--bind does not reach into an endpoint string; {endpoints[0]!r} has to name the address itself")
    if port is not None and port not in endpoints:
        port = _listener(port)
    if peer is not None and peer not in endpoints:
        peer = _peer(peer)
    return Settings(**{**fields, "port": port, "peer": peer, "cut": cut})
