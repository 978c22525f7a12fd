"""The printed command is one that MySocket itself understands, and both sides fit: ports crossed, the same protocol."""

from __future__ import annotations

import shlex
import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket.carriers.admission import plain_address
from mysocket.commandline import parse_command_line
from mysocket.screen.invitation import command, own_address
from mysocket.settings import Settings
from mysocket.values import bracketed, split_host_port

PORTS = st.integers(1, 65535)
NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,5})?", fullmatch=True)
V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None).map(str)
HOSTS = NAMES | V4 | V6
#: What own_address may give.
OWN = V4 | V6 | NAMES | st.just("localhost")
WAYS = st.sampled_from([[], ["--udp"], ["--raw"]])


def parsed(line: str) -> Settings:
    words = shlex.split(line)
    assert words[0] == "mysocket"
    return parse_command_line(words[1:])


@given(PORTS, HOSTS, PORTS, OWN, WAYS)
def test_who_listens_and_dials_finds_one_who_does(here: int, host: str, there: int, own: str, way: list[str]) -> None:
    settings = parse_command_line([*way, str(here), host, str(there)])
    line = command(settings, [here], own)
    assert line is not None
    other = parsed(line)
    assert other.peer is not None and split_host_port(other.peer) == (own, here)
    assert other.port == str(there)
    assert (other.udp, other.raw) == (settings.udp, settings.raw)
    assert command(other, [there], host) is not None


@given(PORTS, HOSTS, PORTS, OWN)
def test_the_port_that_the_kernel_gave_is_named(real: int, host: str, there: int, own: str) -> None:
    settings = parse_command_line(["-p", "0", "--peer", f"{bracketed(host)}:{there}"])
    other = parsed(command(settings, [real], own) or "")
    assert other.peer is not None and split_host_port(other.peer) == (own, real)


@given(PORTS, OWN, WAYS)
def test_who_only_listens_is_dialled(here: int, own: str, way: list[str]) -> None:
    other = parsed(command(parse_command_line([*way, "-p", str(here)]), [here], own) or "")
    assert other.port is None
    assert other.peer is not None and split_host_port(other.peer) == (own, here)


@given(HOSTS, PORTS, V4 | V6)
def test_who_only_dials_is_let_in(host: str, there: int, own: str) -> None:
    other = parsed(command(parse_command_line(["--peer", f"{bracketed(host)}:{there}"]), [], own) or "")
    assert (other.port, other.peer) == (str(there), None)
    address = plain_address(own)
    assert address is not None and any(address in network for network in other.allow)


@given(HOSTS, PORTS, NAMES | st.just("localhost"))
def test_who_only_dials_and_knows_its_name_only_gets_a_command_that_works(host: str, there: int, own: str) -> None:
    """--allow takes addresses. A command that is refused is worse than none."""
    line = command(parse_command_line(["--peer", f"{bracketed(host)}:{there}"]), [], own)
    if line is not None:
        assert parsed(line).port == str(there)


@pytest.mark.parametrize(
    ("words", "ports", "line"),
    [
        ("9000 hostb 9001", [9000], "mysocket 9001 hosta 9000"),
        ("--raw 9000 hostb 9001", [9000], "mysocket --raw 9001 hosta 9000"),
        ("-u 9000 hostb 9001", [9000], "mysocket --udp 9001 hosta 9000"),
        ("-p 9000", [9000], "mysocket --peer hosta:9000"),
        ("-p 9000", [], None),
        ("9000 hostb 9001", [], None),
        ("--peer tls:hostb:9001", [], None),
        ("-p 9000 --peer unix:/run/x", [9000], None),
        ("-p unix:/run/x", [], None),
    ],
)
def test_what_is_printed(words: str, ports: list[int], line: str | None) -> None:
    assert command(parse_command_line(words.split()), ports, "hosta") == line


@pytest.mark.parametrize(
    ("host", "own"),
    [("localhost", "localhost"), ("127.0.0.1", "localhost"), ("127.8.8.8", "localhost"), ("::1", "localhost")],
)
def test_a_peer_on_this_machine_finds_it_here(host: str, own: str) -> None:
    assert own_address(host) == own


def test_the_own_address_is_one_of_this_machine_or_its_name() -> None:
    assert own_address("hostb") == own_address(None) == socket.gethostname()
    for host in ("192.0.2.1", "2001:db8::1", "255.255.255.255"):
        found = own_address(host)
        if found != socket.gethostname():
            address = plain_address(found)
            assert isinstance(address, IPv4Address | IPv6Address) and not address.is_unspecified
