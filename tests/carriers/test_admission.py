"""Who may connect, how many strangers at a time, and how often that is said."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mysocket.carriers.admission import (
    LOG_INTERVAL,
    LOOPBACK,
    REMEMBER,
    Admission,
    RateLimitedLog,
    StrangerLimit,
    is_loopback,
    plain_address,
    source_of,
)
from mysocket.carriers.resolve import Found


class Names:
    """A resolver whose answers come when the test gives them."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._waiting: list[tuple[str, Deferred[Found]]] = []

    def look_up(self, host: str) -> Deferred[Found]:
        self.asked.append(host)
        answer: Deferred[Found] = Deferred()
        self._waiting.append((host, answer))
        return answer

    def answer(self, **addresses: str) -> None:
        """Answer what was asked about these names."""
        waiting, self._waiting = self._waiting, []
        for host, deferred in waiting:
            if host in addresses:
                deferred.callback([(10 if ":" in text else 2, text) for text in addresses[host].split()])
            else:
                self._waiting.append((host, deferred))


class Door:
    """An admission with its clock and its names."""

    def __init__(self, *hosts: str, networks: Any = ()) -> None:
        self.clock = Clock()
        self.names = Names()
        made: Any = Admission
        self.admission: Admission = made(map(ip_network, networks), hosts, resolver=self.names, clock=self.clock)

    def ask(self, host: str, **addresses: str) -> bool:
        """The verdict about `host`; names that it depends on have these addresses."""
        verdict = self.admission.judge(host)
        if isinstance(verdict, bool):
            return verdict
        said: list[bool] = []
        verdict.addCallback(said.append)
        self.names.answer(**addresses)
        [found] = said
        return found


# Addresses ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::ffff:a01:203", "10.1.2.3"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:DB8::0", "2001:db8::"),
        ("::ffff:127.0.0.1%lo", "127.0.0.1"),
        ("hub", None),
        ("", None),
        ("10.1.2", None),
    ],
)
def test_an_address_without_its_scope_and_its_mapping(text: str, plain: str | None) -> None:
    assert (str(plain_address(text)) if plain else plain_address(text)) == plain


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.8.7", "::1", "::1%lo", "localhost", "LocalHost", "localhost.", "::ffff:127.0.0.1"]
)
def test_what_is_written_as_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "::", "0.0.0.0", "localhost.example", "hub", "::2", "128.0.0.1"])
def test_what_is_another_machine(host: str) -> None:
    assert not is_loopback(host)


@given(st.ip_addresses(v=4))
def test_every_ipv4_address_is_itself_when_it_comes_through_an_ipv6_socket(address: Any) -> None:
    assert plain_address(f"::ffff:{address}") == plain_address(str(address)) == address


# Admission ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("10.0.0.0", True),
        ("10.255.255.255", True),
        ("::ffff:10.7.7.7", True),
        ("11.0.0.0", False),
        ("2001:db8::5", True),
        ("2001:db8:1::5", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("not an address", False),
    ],
)
def test_networks(host: str, admitted: bool) -> None:
    assert Door(networks=["10.0.0.0/8", "2001:db8::/64"]).admission.judge(host) is admitted


@pytest.mark.parametrize("peer", ["localhost", "127.0.0.1", "::1", "127.0.0.9"])
def test_a_peer_on_this_machine_admits_this_machine_in_both_families_and_nobody_else(peer: str) -> None:
    door = Door(peer)
    assert all(door.admission.judge(host) is True for host in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"))
    assert all(door.admission.judge(host) is False for host in ("10.0.0.1", "fe80::1%lo", "::ffff:10.0.0.1"))
    assert not door.names.asked


def test_a_peer_that_is_an_address_admits_that_address() -> None:
    door = Door("192.0.2.7", "fe80::5%eth0")
    assert door.admission.judge("192.0.2.7") is True and door.admission.judge("::ffff:192.0.2.7") is True
    assert door.admission.judge("fe80::5%eth0") is True and door.admission.judge("fe80::5%eth1") is True
    assert door.admission.judge("192.0.2.8") is False and door.admission.judge("127.0.0.1") is False


def test_a_unix_socket_is_judged_by_the_mode_of_its_file() -> None:
    assert Door().admission.judge(None) is True


def test_nobody_is_admitted_by_nothing() -> None:
    assert Door().admission.judge("127.0.0.1") is False and str(Door().admission) == "from nobody"


def test_a_name_is_looked_up_when_somebody_connects_and_not_before() -> None:
    door = Door("hub")
    assert door.names.asked == []
    assert door.ask("192.0.2.1", hub="192.0.2.1 2001:db8::1") is True
    assert door.names.asked == ["hub"]


def test_while_the_name_is_looked_up_nothing_is_decided() -> None:
    door = Door("hub")
    first, second = door.admission.judge("192.0.2.1"), door.admission.judge("192.0.2.2")
    assert isinstance(first, Deferred) and isinstance(second, Deferred)
    verdicts: list[bool] = []
    first.addCallback(verdicts.append)
    second.addCallback(verdicts.append)
    assert not verdicts
    door.names.answer(hub="192.0.2.1")
    assert verdicts == [True, False]


def test_no_name_is_looked_up_for_an_address_that_is_admitted_anyway() -> None:
    door = Door("hub", networks=["10.0.0.0/8"])
    assert door.admission.judge("10.0.0.1") is True and not door.names.asked


def test_an_unknown_name_admits_nobody() -> None:
    assert Door("hub").ask("192.0.2.1", hub="") is False


def test_all_names_count() -> None:
    door = Door("one", "two")
    verdict = door.admission.judge("192.0.2.2")
    said: list[bool] = []
    assert isinstance(verdict, Deferred)
    verdict.addCallback(said.append)
    door.names.answer(one="192.0.2.1")
    assert not said
    door.names.answer(two="192.0.2.2")
    assert said == [True]


def test_the_addresses_of_a_name_are_remembered_for_a_moment() -> None:
    """A flood of strangers costs one look-up in so many seconds."""
    door = Door("hub")
    door.ask("192.0.2.1", hub="192.0.2.1")
    door.clock.advance(REMEMBER - 0.01)
    assert door.admission.judge("192.0.2.1") is True and door.admission.judge("192.0.2.9") is False
    assert door.names.asked == ["hub"]


def test_a_stranger_has_the_name_looked_up_again_after_that_moment() -> None:
    door = Door("hub")
    assert door.ask("192.0.2.2", hub="192.0.2.1") is False
    door.clock.advance(REMEMBER)
    assert door.ask("192.0.2.2", hub="192.0.2.2") is True
    assert door.ask("192.0.2.1") is False and len(door.names.asked) == 2


def test_an_address_that_the_name_has_no_longer_is_not_admitted_for_ever() -> None:
    door = Door("hub")
    assert door.ask("192.0.2.1", hub="192.0.2.1") is True
    door.clock.advance(REMEMBER)
    assert door.ask("192.0.2.1", hub="192.0.2.2") is False


@pytest.mark.parametrize(
    ("hosts", "networks", "text"),
    [
        ((), LOOPBACK, "from loopback"),
        ((), (*LOOPBACK, ip_network("10.0.0.0/8")), "from loopback and 10.0.0.0/8"),
        (("hub",), (), "from hub"),
        (("hub",), (ip_network("10.0.0.0/8"),), "from 10.0.0.0/8 and hub"),
    ],
)
def test_who_may_connect_is_said_as_the_user_wrote_it(hosts: tuple[str, ...], networks: tuple[Any, ...], text: str) -> None:
    assert str(Door(*hosts, networks=networks).admission) == text


# Strangers ----------------------------------------------------------------------------------------------------------------------


def test_so_many_strangers_from_one_address_and_no_more() -> None:
    limit = StrangerLimit(total=64, per_source=8)
    assert [limit.enter("192.0.2.1") for _ in range(9)] == [True] * 8 + [False]
    assert limit.enter("192.0.2.2")
    limit.leave("192.0.2.1")
    assert limit.enter("192.0.2.1") and not limit.enter("192.0.2.1")


def test_so_many_strangers_in_all_and_no_more() -> None:
    limit = StrangerLimit(total=10, per_source=8)
    assert [limit.enter(f"192.0.2.{number}") for number in range(11)] == [True] * 10 + [False]
    limit.leave("192.0.2.3")
    assert limit.enter("198.51.100.1")


def test_a_subnet_of_ipv6_is_one_source() -> None:
    """One machine has a whole /64 to choose addresses from."""
    limit = StrangerLimit(per_source=2)
    assert limit.enter("2001:db8::1") and limit.enter("2001:db8::ffff:2") and not limit.enter("2001:db8:0:0:8000::")
    assert limit.enter("2001:db8:0:1::1")
    limit.leave("2001:db8::abcd")
    assert limit.enter("2001:db8::3")


def test_an_ipv4_address_is_the_same_source_through_both_kinds_of_socket() -> None:
    limit = StrangerLimit(per_source=1)
    assert limit.enter("192.0.2.1") and not limit.enter("::ffff:192.0.2.1")
    assert limit.enter("::ffff:192.0.2.2") and not limit.enter("192.0.2.2")


def test_unix_sockets_are_one_source() -> None:
    limit = StrangerLimit(per_source=1)
    assert limit.enter(None) and not limit.enter(None)
    limit.leave(None)
    assert limit.enter(None)


@given(st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", None]), max_size=40))
def test_who_has_left_leaves_nothing_behind(hosts: list[str | None]) -> None:
    limit = StrangerLimit(total=12, per_source=5)
    here: list[str | None] = []
    for host in hosts:
        room = len(here) < 12 and sum(source_of(other) == source_of(host) for other in here) < 5
        assert limit.enter(host) is room
        here += [host] * room
    for host in here:
        limit.leave(host)
    assert not limit._all and not limit._count


# What is said -------------------------------------------------------------------------------------------------------------------


def test_one_line_about_one_source_in_a_while_and_how_many_were_left_out() -> None:
    clock, said = Clock(), list[str]()
    log = RateLimitedLog(said.append, clock)
    for key in ("a", "a", "b", "a"):
        log.say(key, f"about {key}")
    assert said == ["about a", "about b"]
    clock.advance(LOG_INTERVAL - 0.01)
    log.say("a", "about a")
    assert len(said) == 2
    clock.advance(0.01)
    log.say("a", "about a")
    log.say("b", "about b")
    assert said[2:] == ["about a (and 3 more like it)", "about b"]


def test_a_flood_from_everywhere_holds_no_more_than_the_limit() -> None:
    clock, said = Clock(), list[str]()
    log = RateLimitedLog(said.append, clock, limit=10)
    for key in range(1000):
        log.say(key, str(key))
    assert said == [str(key) for key in range(10)] and len(log._last) == 10
    clock.advance(LOG_INTERVAL)
    log.say("new", "new")
    assert said[10:] == ["new (and 990 more like it)"] and len(log._last) == 1


def test_what_was_left_out_about_an_address_that_is_forgotten_is_counted() -> None:
    clock, said = Clock(), list[str]()
    log = RateLimitedLog(said.append, clock, limit=1)
    for _ in range(5):
        log.say("a", "about a")
    clock.advance(LOG_INTERVAL)
    log.say("b", "about b")
    assert said == ["about a", "about b (and 4 more like it)"]
