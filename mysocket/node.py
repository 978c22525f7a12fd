"""This running MySocket: its identity, and which link adopts a connection whose HELLO has come.

A node with a ``--peer`` has one link. A node that only listens (a hub) has one for every node that comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mysocket.carriers.addresses import peer_text
from mysocket.carriers.admission import Admission
from mysocket.carriers.stream import StreamProtocol
from mysocket.core.ending import PeerFacts, Progress
from mysocket.core.session import Heartbeat
from mysocket.core.wire import ID_SIZE, Hello, Input, Reason
from mysocket.ends.escape import one_line
from mysocket.ends.sink import Sink
from mysocket.ends.words import Words
from mysocket.errors import AnotherPeer, MySocketError, StateLoss
from mysocket.link import Link
from mysocket.metrics import Counters
from mysocket.notices import Notice, failure, notice
from mysocket.receiving import Receiving
from mysocket.spool.interface import DurableSpool, Spool
from mysocket.spool.ledger import Entry
from mysocket.spool.memory import MemorySpool
from mysocket.strangers import Strangers

#: Bytes that one link grants to its peer beyond what it has committed, and that all links of a node together grant.
WINDOW = 8 * 1024 * 1024
WINDOW_BUDGET = 64 * 1024 * 1024
#: Nodes that were left on purpose and are turned away when they come back: so many are remembered.
MAX_DISMISSED = 4096


class Watcher(Interface):
    """Who asks :mod:`mysocket.core.ending`, and speaks to the user."""

    def changed(self) -> None:
        """Something has happened on which leaving may depend."""

    def tell(self, text: str) -> None:
        """Say something to the user."""

    def fail(self, error: MySocketError) -> None:
        """An error ends this node."""


@dataclass(frozen=True, kw_only=True)
class Character:
    """What a node is: how it introduces itself, and what it does with what comes."""

    name: str
    input: Input
    takes: bool = True
    #: A link for every node that comes, not one for one peer.
    hub: bool = False
    #: Each of them has an input, not only the first.
    all_send: bool = False
    #: The own input comes from others, as long as this node lives: it can wait for a peer that takes it.
    handed: bool = False
    max_message: int = 16 * 1024 * 1024
    heartbeat: Heartbeat = field(default_factory=Heartbeat)
    #: Go on where state was lost, here or at a peer.
    accept_loss: bool = False
    #: It takes files.
    files: bool = False


class Node:
    """One running MySocket. Iterating over it gives what leaving depends on.

    :param random_bytes: ``os.urandom``, or a seeded one in tests.
    :param admission: who may connect; None: everybody who can.
    :param sink: where everything that is received goes, or None if nothing is taken.
    :param spool: keeps the own stream and the positions of others; None: all ends with this process.
    :param now: the time in seconds since the epoch.
    :param counters: count what passes.
    """

    def __init__(
        self,
        character: Character,
        *,
        clock: IReactorTime,
        random_bytes: Callable[[int], bytes],
        sink: Sink | None,
        watcher: Watcher,
        admission: Admission | None = None,
        spool: DurableSpool | None = None,
        now: Callable[[], float] = lambda: 0.0,
        counters: Counters | None = None,
    ) -> None:
        self.character = character
        self.clock = clock
        self.spool = spool
        self.counters = counters if counters is not None else Counters()
        self.id = random_bytes(ID_SIZE) if spool is None else spool.node
        #: Links by the node id of their peer; the one link of a node with a ``--peer`` stands under b"".
        self.links: dict[bytes, Link] = {}
        #: Called with each link that has an input, when it is made.
        self.on_link: Callable[[Link], None] = lambda link: None
        #: Called when the link that was to send the own stream is none after all: its peer has lost its state.
        self.on_no_link: Callable[[], None] = lambda: None
        #: Called with each link on which something has happened that leaving may depend on.
        self.on_change: Callable[[Link], None] = lambda link: None
        #: Called with a link whose peer's stream was broken off, before the next one begins.
        self.on_broken_off: Callable[[Link], None] = lambda link: None
        #: Called with a link that cannot go on, and why.
        self.on_failure: Callable[[Link, MySocketError], None] = lambda link, error: None
        #: Nobody is linked since then, in seconds; None while somebody is.
        self.alone_since: float | None = clock.seconds()
        #: Data of some peer is known to be missing.
        self.missing = False
        self._random = random_bytes
        self._sink = sink
        self._now = now
        self._watcher = watcher
        self._words = Words(watcher.tell, clock.seconds, about="links")
        # Thousands who come back at once are not to hide that data of one of them is missing.
        self._failures = Words(watcher.tell, clock.seconds, about="failures of links")
        self._finished: PeerFacts | None = None  # stands for all that have finished and gone
        self._closed: Deferred[None] | None = None
        self._own_link: Link | None = None  # the one that sends the own input
        self._up: set[Link] = set()
        self._dismissed: dict[bytes, None] = {}  # nodes that were left on purpose; an ordered set
        self.strangers = Strangers(self, clock, admission, self.counters)

    def start(self) -> None:
        """Make the link of a node that has one peer."""
        if not self.character.hub:
            self.on_link(self._make_link(b""))

    def __iter__(self) -> Iterator[PeerFacts]:
        """What leaving depends on, of every peer that was ever linked; a hub may have thousands, so one at a time."""
        if self._finished is not None:
            yield self._finished
        for link in self.links.values():
            facts = link.facts()
            if facts is not None:
                yield facts

    @property
    def linked(self) -> bool:
        """Is a connection to anybody up?"""
        return bool(self._up)

    # Company of the links -------------------------------------------------------------------------------------------------------

    def changed(self, link: Link) -> None:
        self.missing = self.missing or link.receiving.broken
        (self._up.add if link.linked else self._up.discard)(link)
        if self.character.hub and not link.linked and link.hello.input is Input.NONE:
            self._forget(link)
        if self.linked:
            self.alone_since = None
        elif self.alone_since is None:
            self.alone_since = link.away_since
        self.gone()
        self.on_change(link)
        self._watcher.changed()

    def _forget(self, link: Link) -> None:
        """Of one who has gone a hub keeps nothing, if nothing more can come of it, but that it was here."""
        facts = link.facts()
        if facts is None or facts.progress in (Progress.OPEN, Progress.AT_END):
            return
        if self.links.pop(link.key, None) is not None and facts.progress is not Progress.EMPTY:
            self._finished = facts

    def tell(self, text: str) -> None:
        grave = isinstance(text, Notice) and (text.level == "error" or text.event == "broken_off")
        (self._failures if grave else self._words).say(text)

    def window(self) -> int:
        return max(1, min(WINDOW, WINDOW_BUDGET // max(1, len(self._up))))

    def fail(self, link: Link, error: MySocketError) -> None:
        self.on_failure(link, error)
        if self.character.hub:
            # One sender of many: the others go on, and the status remembers it.
            self.tell(failure(error))
            self.missing = True
            self._watcher.changed()
        else:
            self._watcher.fail(error)

    def not_taken(self, link: Link, error: MySocketError) -> None:
        if self.character.all_send or self.character.input is Input.FINITE:
            self.fail(link, error)
        else:
            self.tell(failure(error))

    def broken_off(self, link: Link) -> None:
        self.on_broken_off(link)

    def _make_link(self, key: bytes, place: bytes = b"", takes: bool = True) -> Link:
        character, durable = self.character, self.spool
        own = self._gets_own_input(key, place, takes)
        spool: Spool
        if own and self._own_link is not None:
            spool = self._take_over(self._own_link)
        elif own and durable is not None:
            spool = durable
        else:
            spool = MemorySpool(self._random(ID_SIZE), long=character.max_message)
        hello = Hello(
            node=self.id,
            stream=spool.stream,
            name=character.name,
            durable=durable is not None,
            input=character.input if own or character.all_send else Input.NONE,
            takes=character.takes,
            place=durable.place if durable is not None else b"",
            files=character.files,
        )
        receiving = Receiving(
            self._sink,
            self.window,
            character.max_message,
            ledger=durable.ledger if durable is not None else None,
            now=self._now,
            accept_loss=character.accept_loss,
            counters=self.counters,
            files=character.files,
        )
        link = Link(
            key=key, clock=self.clock, hello=hello, spool=spool, receiving=receiving, company=self, counters=self.counters
        )
        if own:
            self._own_link = link
        self.links[key] = link
        return link

    def _gets_own_input(self, key: bytes, place: bytes, takes: bool) -> bool:
        """The own input of a hub goes to the first node that comes, or to the one for which some of it waits in the spool, or
        that has lost its own there. What is handed over goes to the first that takes it, and when that has gone for good to
        the next."""
        handed = self.character.handed
        if handed and not takes or self._own_link is not None and not (handed and self._own_link.is_left):
            return False
        if not key or self.spool is None or self.spool.recipient is None or self.spool.retired == self.spool.end:
            return True
        recipient = self.spool.recipient
        return recipient.node == key or bool(place) and recipient.place == place

    def _take_over(self, link: Link) -> Spool:
        """What waits for a peer that has gone for good, for another."""
        self.links.pop(link.key, None)
        facts = link.facts()
        if facts is not None and facts.progress is not Progress.EMPTY:
            self._finished = facts
        link.sending.spool.begin_here()
        return link.sending.spool

    def renew(self, link: Link, error: StateLoss) -> bool:
        if not self.character.accept_loss or self.spool is None or link is not self._own_link:
            return False
        stream = self._random(ID_SIZE)
        self.tell(notice("broken_off", f"accepted: {error.text}. What waits here goes on as a new stream"))
        link.hello = replace(link.hello, stream=stream)
        self.spool.renew(stream, link.settle)
        return True

    def _earlier(self, hello: Hello) -> Entry | None:
        """The stream that a peer sent before this process began: the one it has, or the one it would have if it were not lost."""
        if self.spool is None:
            return None
        same = self.spool.ledger.find(hello.stream)
        if same is not None:
            return same
        candidates = (entry for entry in self.spool.ledger if self._may_be_earlier(entry, hello))
        return max(candidates, key=lambda entry: entry.time, default=None)

    def _may_be_earlier(self, entry: Entry, hello: Hello) -> bool:
        """Was the sender of ``entry`` the peer that says ``hello``, as far as a node of this kind can tell?"""
        if not self.character.hub:
            return True
        if (linked := self.links.get(entry.node)) is not None and linked.linked:
            return False  # whoever is here has not been replaced
        at_home = entry.place == hello.place if hello.place and entry.place else entry.name == hello.name
        return entry.node == hello.node or entry.durable and hello.durable and at_home

    # Host of strangers ----------------------------------------------------------------------------------------------------------

    def introduce(self) -> Hello:
        return self.links[b""].hello

    def meet(self, carrier: StreamProtocol, hello: Hello) -> None:
        text = peer_text(carrier)
        if hello.name:
            text = f"{one_line(hello.name, 64)} ({text})"
        if hello.node in self._dismissed:
            self.strangers.turn_away(carrier, Reason.REFUSED, "this side has closed the relation")
            return
        fresh = self.character.hub and hello.node not in self.links
        link, refusal = self._choose(hello)
        if link is None:
            self.strangers.turn_away(carrier, Reason.BUSY, refusal)
            return
        try:
            link.adopt(carrier, hello, text, self._earlier(hello) if link.peer is None else None)
        except AnotherPeer as error:
            self._watcher.fail(error)
            self.strangers.turn_away(carrier, Reason.REFUSED, "messages for another node wait here")
            return
        except StateLoss as error:
            if fresh:
                del self.links[hello.node]
                if self._own_link is link:
                    self._own_link = None
                    self.on_no_link()
                self._finished = PeerFacts(hello.input, Progress.BROKEN)
            self.fail(link, error)
            self.strangers.turn_away(carrier, Reason.STATE_LOSS, error.text)
            return
        if fresh and link.hello.input is not Input.NONE:
            self.on_link(link)
        self.strangers.leave(carrier, None)
        link.settle()

    def _choose(self, hello: Hello) -> tuple[Link | None, str]:
        """The link for a node, or why there is none."""
        if self.character.hub:
            known = self.links.get(hello.node)
            return known if known is not None else self._make_link(hello.node, hello.place, hello.takes), ""
        link = self.links[b""]
        if not link.linked or link.peer is None or link.peer.node == hello.node:
            return link, ""
        # A restarted peer whose old connection nobody has seen dead yet, or a stranger: ask the old one whether it is there.
        link.challenge()
        return None, f"this side is linked with {link.peer_text}, and takes one peer (a listener without --peer takes many)"

    def refused(self, error: MySocketError) -> None:
        self._watcher.fail(error)

    def gone(self) -> None:
        if self._closed is not None and not self.connections:
            closed, self._closed = self._closed, None
            closed.callback(None)

    # Leaving --------------------------------------------------------------------------------------------------------------------

    def dismiss(self, link: Link, text: str) -> None:
        """Leave one peer; the others stay."""
        self.links.pop(link.key, None)
        self._dismissed[link.key] = None
        while len(self._dismissed) > MAX_DISMISSED:
            self._dismissed.pop(next(iter(self._dismissed)))
        link.leave(text)

    def leave(self, text: str, reason: Reason = Reason.LEFT) -> None:
        """Say the last word everywhere."""
        self.strangers.close()
        for link in list(self.links.values()):
            link.leave(text, reason)

    def when_closed(self) -> Deferred[None]:
        """Fires when no connection is left."""
        self._closed = closed = Deferred[None]()
        self.gone()
        return closed

    @property
    def connections(self) -> list[StreamProtocol]:
        """All that are up, strangers too."""
        return [*self.strangers.connections, *(carrier for link in self.links.values() for carrier in link.connections)]
