"""Who may connect, and how many at a time may be unknown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mysocket.carriers.resolve import DaemonResolver, Found
from mysocket.notices import with_more

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
#: Connections that have not finished a handshake: all together, and from one address (or one /64). sshd: MaxStartups 100. When
#: thousands come back at once some are turned away for it; more room would win little (docs/operations.md has the figures), and
#: each stranger holds a descriptor and 5 KB for up to 10 s.
MAX_STRANGERS = 64
MAX_STRANGERS_PER_ADDRESS = 8
#: Seconds for which the addresses of a name are remembered.
REMEMBER = 5.0
#: Seconds between two log lines about the same address.
LOG_INTERVAL = 10.0
#: Lines in so many seconds, about all addresses together.
LOG_LINES = 20


def plain_address(host: str) -> Address | None:
    """The address in ``host`` without a scope, an IPv4 address that came through an IPv6 socket as IPv4; None for a name."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_loopback(host: str) -> bool:
    """Is ``host`` written as a loopback address or as localhost?"""
    address = plain_address(host)
    return host.rstrip(".").lower() == "localhost" if address is None else address.is_loopback


class Admission:
    """Takes connections and datagrams from the peer's addresses and some networks.

    :param hosts: names or addresses of the peer; names are looked up when somebody connects.
    """

    def __init__(
        self, networks: Iterable[Network], hosts: Iterable[str], *, resolver: DaemonResolver, clock: IReactorTime
    ) -> None:
        self._networks = list(networks)
        self._names: list[str] = []
        self._labels: list[str] = [str(network) for network in self._networks if network not in LOOPBACK]
        if all(network in self._networks for network in LOOPBACK):
            self._labels.insert(0, "loopback")
        for host in hosts:
            address = plain_address(host)
            self._labels.append(host)
            if is_loopback(host):
                self._networks += LOOPBACK
            elif address is not None:
                self._networks.append(ip_network(address))
            else:
                self._names.append(host)
        self._resolver = resolver
        self._clock = clock
        self._known: set[Address] = set()
        self._known_at = float("-inf")

    def __str__(self) -> str:
        return "from " + " and ".join(dict.fromkeys(self._labels)) if self._labels else "from nobody"

    def allows(self, host: str | None) -> bool:
        """Is it in one of the networks? No name is looked up for that."""
        if host is None:
            return True
        address = plain_address(host)
        return address is not None and any(address in network for network in self._networks)

    def judge(self, host: str | None) -> bool | Deferred[bool]:
        """May ``host`` (an address text; None: a Unix socket, where the file's mode decides) connect?"""
        if self.allows(host):
            return True
        address = plain_address(host) if host is not None else None
        if address is None or not self._names:
            return False
        if self._clock.seconds() - self._known_at < REMEMBER:
            return address in self._known
        return self._look_up(address)

    def _look_up(self, address: Address) -> Deferred[bool]:
        answer: Deferred[bool] = Deferred()
        missing = [len(self._names)]
        known: set[Address] = set()

        def found(addresses: Found) -> None:
            known.update(filter(None, (plain_address(text) for _, text in addresses)))
            missing[0] -= 1
            if not missing[0]:
                # A look-up that fails shuts nobody out who was known before.
                self._known, self._known_at = known or self._known, self._clock.seconds()
                answer.callback(address in self._known)

        for name in self._names:
            self._resolver.look_up(name).addCallback(found)
        return answer


def source_of(host: str | None) -> Hashable:
    """What counts as one source of strangers: an IPv4 address, a /64 of IPv6, the local machine's Unix sockets."""
    address = plain_address(host) if host is not None else None
    if isinstance(address, IPv6Address):
        return int(address) >> 64
    return address if address is not None else host


class StrangerLimit:
    """Counts connections that have not finished their handshake."""

    def __init__(self, total: int = MAX_STRANGERS, per_source: int = MAX_STRANGERS_PER_ADDRESS) -> None:
        self._total = total
        self._per_source = per_source
        self._count: Counter[Hashable] = Counter()
        self._all = 0

    def enter(self, host: str | None) -> bool:
        """Count one more, if there is room."""
        source = source_of(host)
        if self._all >= self._total or self._count[source] >= self._per_source:
            return False
        self._all += 1
        self._count[source] += 1
        return True

    def leave(self, host: str | None) -> None:
        """One that was counted is a stranger no more."""
        source = source_of(host)
        self._all -= 1
        self._count[source] -= 1
        if not self._count[source]:
            del self._count[source]


class RateLimitedLog:
    """One line for each key in :data:`LOG_INTERVAL` seconds, with the number of those that were left out; and no more than
    ``limit`` lines in all, however many keys there are: addresses are cheap, and those of datagrams can be made up."""

    def __init__(self, tell: Callable[[str], None], clock: IReactorTime, limit: int = LOG_LINES) -> None:
        self._tell = tell
        self._clock = clock
        self._limit = limit
        self._last: dict[Hashable, tuple[float, int]] = {}
        self._others = 0  # left out because there were too many keys

    def say(self, key: Hashable, text: str) -> None:
        """Say ``text``, unless something was said about ``key`` a moment ago."""
        now = self._clock.seconds()
        said_at, left_out = self._last.get(key, (float("-inf"), 0))
        if now - said_at < LOG_INTERVAL:
            self._last[key] = (said_at, left_out + 1)
            return
        if key not in self._last and len(self._last) >= self._limit:
            old = [one for one, (at, _) in self._last.items() if now - at >= LOG_INTERVAL]
            self._others += sum(self._last.pop(one)[1] for one in old)
            if len(self._last) >= self._limit:
                self._others += 1
                return
        self._last[key] = (now, 0)
        others, self._others = self._others, 0
        self._tell(with_more(text, left_out + others))
