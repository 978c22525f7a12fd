"""Who has a port: what the kernel lists, and what is made of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mysocket.carriers import holders
from mysocket.carriers.holders import (
    Holder,
    Row,
    holder_of_path,
    holder_of_port,
    in_the_way,
    internet_rows,
    process_name,
    unix_rows,
)

ANY = ip_address("::")
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
little_only = pytest.mark.skipif(sys.byteorder != "little", reason="the examples are of a little-endian machine")


def line(place: str, state: str, uid: int, inode: int) -> str:
    rest = "00000000:00000000 00:00000000 00000000"
    return f"   0: {place} 00000000:0000 {state} {rest}  {uid:4}  0 {inode} 1 000000009 100 0 0 10 0\n"


# The files ----------------------------------------------------------------------------------------------------------------------


@little_only
def test_rows_of_that_port_are_read_and_those_of_others_are_not() -> None:
    text = HEAD + line("0100007F:2328", "0A", 33, 77) + line("0100007F:2329", "0A", 33, 78) + line("00000000:2328", "01", 0, 79)
    text += line("0100007F:2328", "06", 0, 0)  # a connection that is over
    assert list(internet_rows(text, 9000, ANY, "tcp")) == [Row(77, True, 33), Row(79, False, 0)]
    assert [row.inode for row in internet_rows(text, 9000, ip_address("127.0.0.2"), "tcp")] == [79]
    assert all(row.listens for row in internet_rows(text, 9000, ANY, "udp"))


@little_only
def test_an_ipv6_address_is_read() -> None:
    one = HEAD + line("00000000000000000000000001000000:2328", "0A", 0, 5)
    assert [row.inode for row in internet_rows(one, 9000, ip_address("::1"), "tcp")] == [5]
    assert list(internet_rows(one, 9000, ip_address("::2"), "tcp")) == []
    assert list(internet_rows(one, 9000, ip_address("127.0.0.1"), "tcp")) == []


@pytest.mark.parametrize(
    ("theirs", "ours", "wanted"),
    [
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("::", "127.0.0.1", True),
        ("127.0.0.1", "::", True),
        ("::1", "0.0.0.0", False),
        ("::1", "127.0.0.1", False),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("fe80::1", "::", True),
    ],
)
def test_which_addresses_stand_in_each_others_way(theirs: str, ours: str, wanted: bool) -> None:
    assert in_the_way(ip_address(theirs), ip_address(ours)) is wanted


def test_the_path_of_a_unix_socket_may_have_spaces() -> None:
    text = "Num       RefCount Protocol Flags    Type St Inode Path\n"
    text += "0000000099c689dd: 00000003 00000000 00000000 0001 03  1138\n"
    text += "0000000099c689de: 00000002 00000000 00010000 0001 01  1139 /run/my place/s\n"
    text += "0000000099c689df: 00000003 00000000 00000000 0001 03  1140 /run/my place/s\n"
    assert list(unix_rows(text, "/run/my place/s")) == [Row(1139, True), Row(1140, False)]
    assert list(unix_rows(text, "/run/my")) == []


WORDS = st.sampled_from(
    ["0:", "0100007F:2328", "00000000:2328", "zz:2328", "0A", "07", "12", "-1", "99999999999999999999", "é", ":"]
)


@given(text=st.one_of(st.text(), st.lists(WORDS, max_size=60).map(" ".join), st.lists(WORDS, max_size=12).map(" ".join)))
def test_garbage_is_no_row_and_no_error(text: str) -> None:
    for address in (ANY, ip_address("127.0.0.1")):
        assert all(row.inode > 0 for row in internet_rows(text, 9000, address, "tcp"))
    assert all(row.inode > 0 for row in unix_rows(text, "0A"))


@pytest.mark.parametrize(
    ("holder", "sentence"),
    [
        (Holder(4711, "nc", "", True), "Process 4711 (nc) listens there"),
        (Holder(4711, "", "bob", False), "Process 4711 uses it"),
        (Holder(None, "", "bob", True), "A process of user bob listens there"),
        (Holder(None, "", "", True), "A process that cannot be seen from here listens there"),
    ],
)
def test_what_people_are_told(holder: Holder, sentence: str) -> None:
    assert holder.sentence() == sentence


# A /proc of our own -------------------------------------------------------------------------------------------------------------


class Proc:
    """A directory that looks like /proc."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "net").mkdir()

    def net(self, name: str, *lines: str) -> None:
        (self.path / "net" / name).write_text(HEAD + "".join(lines))

    def process(self, pid: int, comm: bytes, *inodes: int) -> None:
        (self.path / str(pid) / "fd").mkdir(parents=True)
        (self.path / str(pid) / "comm").write_bytes(comm + b"\n")
        for number, inode in enumerate(inodes):
            (self.path / str(pid) / "fd" / str(number)).symlink_to(f"socket:[{inode}]")


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


ZERO = "00000000:2328"


def test_of_those_who_share_a_socket_the_one_with_the_lowest_number_is_named(proc: Proc) -> None:
    proc.net("tcp", line(ZERO, "0A", os.geteuid(), 77))
    proc.process(1000, b"child", 1, 77)
    proc.process(999, b"parent", 77)
    proc.process(5, b"other", 78)
    assert holder_of_port(9000, proc=proc.path) == Holder(999, "parent", "", True)


def test_who_listens_goes_before_who_is_connected(proc: Proc) -> None:
    proc.net("tcp", line(ZERO, "01", os.geteuid(), 77), line(ZERO, "0A", os.geteuid(), 78))
    proc.process(5, b"connected", 77)
    proc.process(6, b"listens", 78)
    assert holder_of_port(9000, "0.0.0.0", proc=proc.path) == Holder(6, "listens", "", True)


def test_a_process_that_is_not_shown_has_a_user_at_least(proc: Proc) -> None:
    proc.net("udp", line(ZERO, "07", 4_000_000_000, 77))
    assert holder_of_port(9000, kind="udp", proc=proc.path) == Holder(None, "", "4000000000", True)
    assert holder_of_port(9000, kind="tcp", proc=proc.path) is None


def test_processes_and_descriptors_that_go_meanwhile_are_no_error(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    proc.net("tcp", line(ZERO, "0A", os.geteuid(), 77))
    proc.process(5, b"goes", 1, 2)
    proc.process(6, b"stays", 77)
    (proc.path / "7").mkdir()  # gone but for its directory
    (proc.path / "8").write_text("no directory")
    (proc.path / "self").mkdir()
    read = os.readlink

    def vanish(path: Path) -> str:
        if "/5/" in str(path):
            raise FileNotFoundError
        return read(path)

    monkeypatch.setattr(holders.os, "readlink", vanish)
    assert holder_of_port(9000, proc=proc.path) == Holder(6, "stays", "", True)


def test_a_name_cannot_write_to_the_terminal(proc: Proc) -> None:
    proc.process(5, b"e\x1b[2J\n\xff")
    assert process_name(5, proc=proc.path) == "e?[2J??"
    assert process_name(6, proc=proc.path) == ""


def test_a_machine_without_proc_shows_nobody(tmp_path: Path) -> None:
    assert holder_of_port(9000, proc=tmp_path / "none") is None
    assert holder_of_path("/run/s", proc=tmp_path / "none") is None


@pytest.mark.parametrize("address", ["no address", "fe80::1%eth0"])
def test_any_text_may_be_the_address(proc: Proc, address: str) -> None:
    assert holder_of_port(9000, address, proc=proc.path) is None


# The real one -------------------------------------------------------------------------------------------------------------------

CHILD = """
import socket, sys
kind, place = sys.argv[1:]
if kind == "unix":
    one = socket.socket(socket.AF_UNIX)
    one.bind(place)
else:
    one = socket.socket(
        socket.AF_INET6 if ":" in place else socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM
    )
    one.bind((place, 0))
if kind != "udp":
    one.listen()
print(one.getsockname()[1] if kind != "unix" else 0, flush=True)
sys.stdin.read()
"""


@contextmanager
def listening(kind: str, place: str) -> Iterator[tuple[int, int]]:
    """A process that listens: its pid and port."""
    command = [sys.executable, "-c", CHILD, kind, place]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())


@pytest.mark.parametrize("place", ["127.0.0.1", "0.0.0.0", "::1", "::"])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_the_holder_of_a_port_is_found(kind: holders.Kind, place: str) -> None:
    if ":" in place and not Path("/proc/net/if_inet6").exists():
        pytest.skip("this machine has no IPv6")
    with listening(kind, place) as (pid, port):
        for address in ("", place):
            found = holder_of_port(port, address, kind)
            assert found is not None and (found.pid, found.listens, found.user) == (pid, True, "") and found.name
        assert holder_of_port(port, "192.0.2.1" if place in ("127.0.0.1", "::1") else "no address", kind) is None


def test_the_holder_of_a_unix_socket_is_found(tmp_path: Path) -> None:
    with listening("unix", str(tmp_path / "s")) as (pid, _):
        found = holder_of_path(str(tmp_path / "s"))
        assert found is not None and found.pid == pid
    assert holder_of_path(str(tmp_path / "s")) is None


def test_our_own_process_is_named_as_any_other() -> None:
    with socket.create_server(("127.0.0.1", 0)) as own:
        found = holder_of_port(own.getsockname()[1], "127.0.0.1")
    assert found is not None and found.pid == os.getpid()
