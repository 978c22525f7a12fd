"""Who has a port, or a Unix socket: what /proc shows of the processes of this machine.

1. Only our own network namespace is looked at; who is in it need not be in our /proc.
2. It is a look: processes come and go meanwhile, and what cannot be read is not there. Nothing here is an error.
3. What other processes say of themselves (their names) is not trusted to be printable.
"""

from __future__ import annotations

import os
import pwd
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["tcp", "udp"]
Address = IPv4Address | IPv6Address

PROC = Path("/proc")
#: The states of sockets that matter (Linux, include/net/tcp_states.h), and the flag of a Unix socket that listens
#: (include/uapi/linux/net.h, __SO_ACCEPTCON).
LISTEN = 0x0A
ACCEPTS = 1 << 16


class Row(NamedTuple):
    """One socket, as the kernel lists it.

    :param uid: the user who made it; None: not said.
    """

    inode: int
    listens: bool
    uid: int | None = None


class Holder(NamedTuple):
    """Who has it.

    :param pid: None: the process is not shown to us.
    :param name: the name of the process as the kernel has it; may be empty.
    :param user: whose it is, if not ours; or empty.
    """

    pid: int | None
    name: str
    user: str
    listens: bool

    def sentence(self) -> str:
        """For people, without an end."""
        does = "listens there" if self.listens else "uses it"
        if self.pid is not None:
            return f"Process {self.pid}{in_brackets(self.name)} {does}"
        return f"A process {f'of user {self.user}' if self.user else 'that cannot be seen from here'} {does}"


def in_brackets(name: str) -> str:
    """A name behind what it names, if there is one."""
    return f" ({name})" if name else ""


# What the files say -------------------------------------------------------------------------------------------------------------


def internet_rows(text: str, port: int, address: Address, kind: Kind) -> Iterator[Row]:
    """The sockets in a text like /proc/net/tcp whose port is ``port``, and whose address stands in the way of ``address``."""
    for line in text.split("\n"):
        fields = line.split()
        try:
            place, state, uid, inode = fields[1], int(fields[3], 16), int(fields[7]), int(fields[9])
            host, _, number = place.partition(":")
            # What has inode 0 is a connection that is over; it belongs to nobody.
            if int(number, 16) == port and inode > 0 and in_the_way(_address(host), address):
                yield Row(inode, kind == "udp" or state == LISTEN, uid)
        except (IndexError, ValueError):
            continue


def unix_rows(text: str, path: str) -> Iterator[Row]:
    """The sockets in a text like /proc/net/unix that have the path."""
    for line in text.split("\n"):
        fields = line.split(maxsplit=7)
        try:
            flags, inode, found = int(fields[3], 16), int(fields[6]), fields[7]
            if found == path and inode > 0:
                yield Row(inode, bool(flags & ACCEPTS))
        except (IndexError, ValueError):
            continue


def in_the_way(theirs: Address, ours: Address) -> bool:
    """Can a socket on one keep another from the same port of the other? ``::`` takes IPv4 as well."""
    theirs, ours = _plain(theirs), _plain(ours)
    if theirs.version != ours.version:
        return any(one.version == 6 and one.is_unspecified for one in (theirs, ours))
    return theirs == ours or theirs.is_unspecified or ours.is_unspecified


def _address(text: str) -> Address:
    """An address as the kernel writes it: words of 32 bits in the byte order of this machine."""
    if len(text) not in (8, 32):
        raise ValueError(text)
    packed = b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    return ip_address(packed)


def _plain(address: Address) -> Address:
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


# Reading them -------------------------------------------------------------------------------------------------------------------


def holder_of_port(port: int, address: str = "", kind: Kind = "tcp", *, proc: Path = PROC) -> Holder | None:
    """Who keeps others from listening on that port of that address (empty: any); None: nobody whom /proc shows."""
    try:
        ours = ip_address(address.partition("%")[0] or "::")
    except ValueError:
        return None
    names = (kind, f"{kind}6") if ours.version == 4 else (f"{kind}6", kind)
    rows = [row for name in names for row in internet_rows(_read(proc / "net" / name), port, ours, kind)]
    return _holder(rows, proc)


def holder_of_path(path: str, *, proc: Path = PROC) -> Holder | None:
    """Who listens on the Unix socket of that path, as it was named there; None: nobody whom /proc shows."""
    return _holder([row for row in unix_rows(_read(proc / "net" / "unix"), path) if row.listens], proc)


def process_name(pid: int, *, proc: Path = PROC) -> str:
    """The name of a process as the kernel has it, made printable; empty: there is none of that number."""
    name = _read(proc / str(pid) / "comm").removesuffix("\n")
    return "".join(character if character.isprintable() else "?" for character in name)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="surrogateescape")
    except OSError:
        return ""


def _holder(rows: Iterable[Row], proc: Path) -> Holder | None:
    """Those who listen go first; of those who share a socket, the eldest as far as numbers tell."""
    ordered = sorted(rows, key=lambda row: not row.listens)
    if not ordered:
        return None
    owners = _owners({row.inode for row in ordered}, proc)
    for row in ordered:
        if row.inode in owners:
            pid = owners[row.inode]
            return Holder(pid, process_name(pid, proc=proc), _user(row.uid), row.listens)
    return Holder(None, "", _user(ordered[0].uid), ordered[0].listens)


def _owners(inodes: set[int], proc: Path) -> dict[int, int]:
    """Inode -> the process with the lowest number that has the socket open."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, int] = {}
    for pid in sorted(int(name) for name in _names(proc) if name.isdecimal() and name.isascii()):
        directory = proc / str(pid) / "fd"
        for fd in _names(directory):
            try:
                inode = wanted.get(os.readlink(directory / fd))
            except OSError:
                continue
            if inode is not None:
                found.setdefault(inode, pid)
        if len(found) == len(wanted):
            break
    return found


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _user(uid: int | None) -> str:
    if uid is None or uid == os.geteuid():
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
