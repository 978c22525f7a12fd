"""What clients of a service ask, and what it answers: one function for each question (docs/control.md).

What cannot be answered is raised: the connection ends with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol as Interface

from mysocket.control.outcomes import Outcomes
from mysocket.control.protocol import REQUEST_SIZE, Greeting, Line, Malformed, Refused, check_name, number
from mysocket.control.taking import Floor, Taking
from mysocket.control.turns import Turns
from mysocket.control.viewing import Viewing
from mysocket.errors import FAILED, USAGE
from mysocket.spool.disk_inbox import DiskInbox
from mysocket.spool.inbox import Feed

ONLY_SENDS = "this service only sends (--send-only): nothing comes in"


class Desk(Interface):
    """The service, as its clients see it."""

    outcomes: Outcomes
    #: What comes in; None: it takes nothing from its peers.
    feed: Feed | None
    #: Bytes of the longest message.
    max_message: int

    @property
    def no_input(self) -> str | None:
        """Why it takes nothing from its clients to send, if it does not."""

    @property
    def no_files(self) -> str | None:
        """Why it takes no files from its clients to send, if it does not now."""

    @property
    def greeting(self) -> Greeting:
        """Who the service is."""

    def status(self, done: Callable[[Line], None]) -> None:
        """Find out how the service is."""

    def stop(self) -> None:
        """Leave."""


class House(Interface):
    """What all clients share."""

    desk: Desk
    floor: Floor
    #: For whom rows of the inbox are fetched.
    fetching: Turns
    #: Who sends a request, by its id, and who is attached, by the name of the consumer.
    taken: dict[bytes, Client]
    attached: dict[str, Client]


class Client(Interface):
    """Who asks."""

    pid: int
    taking: Taking | None
    viewing: Viewing | None

    @property
    def house(self) -> House:
        """What it shares with the others."""

    def say(self, line: Line) -> None:
        """Answer."""

    def tell(self, line: Line) -> None:
        """Answer, some time: a request has come further."""

    def later(self) -> Callable[[Line], None]:
        """The answer comes later, by what is returned; the next question waits for it."""

    def end(self, text: str, status: int = FAILED) -> None:
        """Say why, and close the connection."""

    def go_on(self) -> None:
        """The own stream has come further, or has room."""


def _status(client: Client, line: Line) -> None:
    """How is the service?"""
    answer = client.later()
    client.house.desk.status(lambda found: answer({"status": found}))


def _stop(client: Client, line: Line) -> None:
    """End it."""
    client.say({"stopping": True})
    client.house.desk.stop()


def _send(client: Client, line: Line) -> None:
    """Take a request."""
    id, outcomes = line.get("id"), client.house.desk.outcomes
    try:
        key = bytes.fromhex(id) if isinstance(id, str) else b""
    except ValueError:
        key = b""
    if len(key) != REQUEST_SIZE:
        raise Malformed(f"a send without an id of {REQUEST_SIZE} bytes in hexadecimal")
    if (why := client.house.desk.no_input) is not None:
        raise Refused(why, USAGE)
    before = client.house.taken.get(key)
    if before is not None:
        before.end("the request goes on on another connection")
    client.house.taken[key] = client
    desk = client.house.desk
    client.taking = Taking(key, outcomes, client.house.floor, desk.max_message, client.tell, lambda: desk.no_files)


def _attach(client: Client, line: Line) -> None:
    """Show what comes in."""
    feed, name, begin = client.house.desk.feed, line.get("as"), line.get("from")
    if begin not in (None, "oldest", "now") or not isinstance(name, str | None):
        raise Malformed("an attach with a name or a beginning that is none")
    if feed is None:
        raise Refused(ONLY_SENDS, USAGE)
    if name is None:
        position = feed.begin if begin == "oldest" else feed.end
    else:
        inbox, name = _inbox(client.house.desk), _name(line)
        other = client.house.attached.get(name)
        if other is not None:
            raise Refused(f"consumer {name} is attached already, by process {other.pid}; give another --as NAME")
        position = inbox.join(name, now=begin == "now").position
        client.house.attached[name] = client
    client.viewing = Viewing(feed, name, position, turns=client.house.fetching, say=client.say, end=client.end)
    about: Line = {"attached": name, "position": position, "begin": feed.begin, "end": feed.end}
    client.say(about | {"durable": isinstance(feed, DiskInbox)})
    client.viewing.go_on()


def _ack(client: Client, line: Line) -> None:
    """A consumer has what stands before a position."""
    inbox, name, position = _inbox(client.house.desk), _name(line), number(line, "position")
    consumer = inbox.consumers.get(name)
    if consumer is None:
        raise Refused(f"there is no consumer {name} here{_known(inbox)}")
    if position > inbox.end:
        raise Refused(f"position {position} is behind the end of the inbox, {inbox.end}", USAGE)
    answer = client.later()
    if position <= consumer.position:
        inbox.acknowledge(name, position, lambda: answer({"acked": consumer.position}))
        return

    def checked(is_boundary: bool) -> None:
        if not is_boundary:
            client.end(f"position {position} is not where a message ends: give the position of one", USAGE)
        elif name not in inbox.consumers:
            client.end(f"consumer {name} was forgotten")
        else:
            inbox.acknowledge(name, position, lambda: answer({"acked": position}))

    inbox.check(position, checked)


def _forget(client: Client, line: Line) -> None:
    """There is no such consumer any more."""
    inbox, name = _inbox(client.house.desk), _name(line)
    if name not in inbox.consumers:
        raise Refused(f"there is no consumer {name} here{_known(inbox)}")
    attached = client.house.attached.get(name)
    if attached is not None:
        attached.end(f"consumer {name} was forgotten")
    answer = client.later()
    inbox.forget(name, lambda: answer({"forgotten": name}))


def _inbox(desk: Desk) -> DiskInbox:
    feed = desk.feed
    if feed is None:
        raise Refused(ONLY_SENDS, USAGE)
    if not isinstance(feed, DiskInbox):
        why = "it was started without --spool" if desk.greeting.spool is None else "it was started with --output"
        hint = "mysocket attach, without --recv-only and --as, shows what passes"
        raise Refused(f"this service keeps no inbox: {why}. So it has no consumers; {hint}", USAGE)
    return feed


def _name(line: Line) -> str:
    name = line.get("as")
    try:
        return check_name(name if isinstance(name, str) else "")
    except ValueError as problem:
        raise Refused(str(problem), USAGE) from None


def _known(inbox: DiskInbox) -> str:
    known = ", ".join(sorted(inbox.consumers)[:20])
    return f"; known are {known}" if known else "; there are none yet"


#: What can be asked.
QUESTIONS: dict[str, Callable[[Client, Line], None]] = {
    "ack": _ack,
    "attach": _attach,
    "forget": _forget,
    "send": _send,
    "status": _status,
    "stop": _stop,
}


def answer(client: Client, line: Line) -> None:
    """Answer a question.

    :raises MySocketError: it cannot be answered, and why.
    """
    question = line.get("do")
    found = QUESTIONS.get(question) if isinstance(question, str) else None
    if found is None:
        raise Malformed("a question that is not known here")
    found(client, line)
