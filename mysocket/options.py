"""The one table of options, as data.

`OPTIONS` is rendered to argparse for the console script (commandline.py) and to `usage.Options` for twistd (tap.py). What keeps
the two alike: `commandline.spell_out` brings every command line into one spelling before either of them sees it, `Option.read`
reads every value (values.py), and `settings.settings` judges the whole. All raise UsageError with the sentence the user reads.

`VERBS` are the words that make the console script do something else than a session; each has rows of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mysocket.errors import UsageError
from mysocket.specs import parse_input, parse_output
from mysocket.values import (
    one_of,
    parse_address,
    parse_consumer,
    parse_control_port,
    parse_duration,
    parse_file_name,
    parse_linger,
    parse_metrics,
    parse_network,
    parse_position,
    parse_size,
    parse_spool_size,
)

Kind = Literal["flag", "value", "repeat"]
FLAG: Kind = "flag"
VALUE: Kind = "value"
REPEAT: Kind = "repeat"

Cut = Literal["lines", "null", "stream", "whole"]


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
        except (ValueError, UsageError) as error:
            raise UsageError(f"--{self.long}: {error}") from None


WHERE, HOW, KEEP, WHEN = "Where to", "What passes, and how", "What survives", "When to leave"
OPERATE = "To operate it"
#: Bytes that wait on disk, unless --max-spool says otherwise.
MAX_SPOOL = 1024**3
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
    Option("bind", None, "ADDR", VALUE, None, parse_address, field="bind", group=WHERE,
           help="the local address to listen on and to dial from"),
    Option("allow", None, "CIDR", REPEAT, (), parse_network, field="allow", group=WHERE,
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
    Option("input", None, "SPEC", REPEAT, (), parse_input, field="inputs", group=HOW,
           help="take messages from SPEC instead of stdin: a FILE, follow:FILE (as tail -F), udp:PORT, a Twisted server endpoint "
                "string (each line of a connection is a message), or - (stdin); may be given again"),
    Option("output", None, "SPEC", REPEAT, (), parse_output, field="outputs", group=HOW,
           help="write what is received to SPEC instead of stdout, or of the inbox of a service: a FILE (it is appended to), "
                "udp:HOST:PORT, a Twisted client endpoint string, or - (stdout); may be given again, and all of them get it"),
    Option("download-dir", None, "DIR", VALUE, None, parse_file_name, field="download_dir", group=HOW,
           help="take files that the peer sends, and put them into DIR; never over one that is there"),
    Option("json", "J", None, FLAG, False, bool, field="json", group=HOW,
           help="write one JSON object per message received"),
    Option("timestamps", "T", None, FLAG, False, bool, field="timestamps", group=HOW,
           help="write the local time (RFC 3339) before each line received"),
    Option("plain-terminal", None, None, FLAG, False, bool, field="plain_terminal", group=HOW,
           help="at a terminal, leave editing to the kernel: no prompt, marks, status line or commands"),
    Option("max-message", None, "SIZE", VALUE, 16 * 1024**2, parse_size, field="max_message", group=HOW,
           help="largest message put together where whole ones are needed (JSON, a terminal, many senders); default 16M"),

    Option("spool", None, "DIR", VALUE, None, parse_file_name, field="spool", group=KEEP,
           help="keep in DIR what is not acknowledged, and how far the peer has come: survives crashes and power cuts"),
    Option("max-spool", None, "SIZE", VALUE, MAX_SPOOL, parse_spool_size, field="max_spool", group=KEEP,
           help="largest size of what waits in the spool; then the input waits too; default 1G"),
    Option("accept-loss", None, None, FLAG, False, bool, field="accept_loss", group=KEEP,
           help="go on where a spool or an output file was lost or put back, here or at the peer; what is missing stays missing"),

    Option("wait", "w", "SECS", VALUE, None, parse_duration, field="wait", group=WHEN,
           help="give up with status 3 when the peer cannot be reached, or stays away, for so long; default: keep trying"),
    Option("linger", "q", "SECS", VALUE, None, parse_linger, field="linger", group=WHEN,
           help="after the own input is delivered, wait at most so long for the peer's"),
    Option("keep-open", "k", None, FLAG, False, bool, field="keep_open", group=WHEN,
           help="stay after the peer has finished"),

    Option("metrics", None, "PORT", VALUE, None, parse_metrics, field="metrics", group=OPERATE,
           help="serve metrics for Prometheus at /metrics, and /healthz, on [ADDR:]PORT; on loopback unless ADDR is given"),
    Option("log-format", None, "FORMAT", VALUE, "text", one_of("text", "json"), field="log_format", group=OPERATE,
           help="how events are logged: text, or json (one object a line, with the names and values of what it tells)"),

    Option("config", None, "FILE", VALUE, None, parse_file_name, group=OPERATE,
           help="read options from FILE (TOML, with the long names of the options); the command line wins"),

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
    ("recv-only", "input", "nothing is sent that could be read there"),
    ("send-only", "output", "nothing is received that could be written to a file"),
    ("send-only", "download-dir", "no files are received"),
    *(("file", cut, "a file is not cut into messages") for cut in ("stream", "whole", "null")),
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


# fmt: off
_SERVICE = (
    Option("port", "p", "PORT", VALUE, None, parse_control_port, field="port",
           help="the service with this --port; needed where several run"),
    Option("spool", None, "DIR", VALUE, None, parse_file_name, field="spool",
           help="the service with this --spool"),
)
_WAIT = "give up with status 3 when "

VERBS: dict[str, Verb] = {verb.name: verb for verb in (
    Verb("spool", "show how far the streams of a spool have come, and what is in it; while no other process holds it",
         words=(("DIR", parse_file_name),),
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
             Option("file", None, "FILE", REPEAT, (), parse_file_name, field="file",
                    help="send this file, as one that arrives in the --download-dir of the other side; may be given again"),
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
             Option("as", None, "NAME", VALUE, None, parse_consumer, field="consumer",
                    help="the consumer: what it has acknowledged it does not get again"),
             Option("from", None, "WHERE", VALUE, None, one_of("oldest", "now"), field="begin",
                    help="where a name that is new begins: oldest or now"),
             Option("ack", None, "HOW", VALUE, "auto", one_of("auto", "none"), field="ack",
                    help="auto: a message is acknowledged when it is written (the default); none: mysocket ack does it"),
             Option("timestamps", "T", None, FLAG, False, bool, field="timestamps",
                    help="write the local time (RFC 3339) before each line received"),
             HELP,
         )),
    Verb("ack", "say that a consumer has every message up to a position; the service need keep none of them for it",
         words=(("NAME", parse_consumer), ("POSITION", parse_position)), prints=False,
         options=(*_SERVICE, HELP)),
    Verb("forget", "remove a consumer, so that nothing is kept for it any more",
         words=(("NAME", parse_consumer),), prints=False,
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
