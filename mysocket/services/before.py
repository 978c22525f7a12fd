"""What twistd looks at before it forks: whether the service can start at all.

It is a look only. twistd tells what fails in the process it forks in words of its own, with status 1; what is found here is told
as everywhere else. What comes between the look and the start, or is wrong in another way, is told by the start itself.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from mysocket.carriers import build, holders
from mysocket.carriers.addresses import host_port_text
from mysocket.ends.directory import judge
from mysocket.errors import CannotOpen, PidFileTaken, SpoolLocked, UsageError
from mysocket.settings import Settings
from mysocket.spool import lock
from mysocket.values import is_endpoint, split_host_port

Parent = Mapping[str, Any]


def look(settings: Settings, parent: Parent) -> None:
    """Is there a stdout, if that is wanted, and a place for files? Are the pid file, the spool and the port free?

    :param parent: twistd's own options.
    :raises MySocketError: one is not; the error names the process that has it.
    """
    look_at_output(settings, parent)
    look_at_pid_file(parent)
    look_at_spool(settings, parent)
    look_at_downloads(settings, parent)
    look_at_port(settings)
    look_at_metrics(settings)


def look_at_output(settings: Settings, parent: Parent) -> None:
    if settings.outputs and settings.writes_stdout and not parent.get("nodaemon"):
        raise UsageError("--output -: a daemon has no stdout; name a file, or leave it out, and mysocket attach reads what came")


def look_at_pid_file(parent: Parent) -> None:
    """As twistd does: a file whose process is gone is no obstacle, and what makes no sense is left to twistd."""
    where = parent.get("pidfile")
    if not where:
        return
    try:
        with open(where, encoding="ascii") as file:
            pid = int(file.read(64))
    except (OSError, ValueError):
        return
    if pid <= 0:
        return
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return
    except PermissionError:
        pass  # somebody else's runs
    if _is_dead(pid):
        # A zombie: in a container nobody may ever collect it, and twistd would take it for living.
        with suppress(OSError):
            os.unlink(where)
        return
    raise PidFileTaken(where=where, pid=pid, name=holders.in_brackets(holders.process_name(pid)))


def _is_dead(pid: int) -> bool:
    """Has the process ended, and nobody has asked how? proc(5): the state stands behind the name, which may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read(4096).rpartition(b") ")[2][:1] == b"Z"
    except OSError:
        return False


def look_at_spool(settings: Settings, parent: Parent) -> None:
    """twistd changes its directory, and its user, before the spool is opened."""
    if settings.spool is None or parent.get("chroot") is not None:
        return
    holder = lock.holder(os.path.join(parent.get("rundir") or "", settings.spool), parent.get("uid"))
    if holder is not None and holder.role not in lock.SHORT:
        raise SpoolLocked(directory=settings.spool, pid=holder.pid, role=holder.role)


def look_at_downloads(settings: Settings, parent: Parent) -> None:
    """It is made where there is none, but only by the service itself."""
    if settings.download_dir is None or parent.get("chroot") is not None:
        return
    path, owner = os.path.join(parent.get("rundir") or "", settings.download_dir.rstrip("/") or "/"), parent.get("uid")
    try:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            os.stat(os.path.join(os.path.dirname(path) or ".", ""))
            return
    except OSError as problem:
        raise CannotOpen(problem.strerror or str(problem), where=settings.download_dir) from None
    judge(settings.download_dir, found, owner)
    if owner is None and not os.access(path, os.W_OK | os.X_OK):
        raise CannotOpen("it cannot be written to", where=settings.download_dir)


def look_at_port(settings: Settings) -> None:
    """Each address that will be listened on, as Twisted binds it; nothing listens, so nobody can connect to this."""
    if settings.port is None or not settings.port.isdecimal() or settings.port == "0":
        return
    _look_at(build.interfaces(settings.bind, _peer_host(settings)), int(settings.port), udp=settings.udp)


def look_at_metrics(settings: Settings) -> None:
    """The same for ``--metrics``."""
    if settings.metrics is not None and settings.metrics[1]:
        host, port = settings.metrics
        _look_at([host] if host else build.LOOPBACK, port, udp=False)


def _look_at(addresses: list[str], port: int, *, udp: bool) -> None:
    for address in addresses:
        problem = _bind(address, port, udp=udp)
        if address == "::" and problem in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            address = "0.0.0.0"  # a machine without IPv6
            problem = _bind(address, port, udp=udp)
        if problem == errno.EADDRINUSE:
            kind: holders.Kind = "udp" if udp else "tcp"
            raise build.port_taken(port, address, kind, where=host_port_text(address, port), text=os.strerror(problem))


def _peer_host(settings: Settings) -> str | None:
    if settings.peer is None:
        return None
    return build.endpoint_host(settings.peer) if is_endpoint(settings.peer) else split_host_port(settings.peer)[0]


def _bind(address: str, port: int, *, udp: bool) -> int:
    """The error number of an attempt to bind, or 0."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as probe:
            if not udp:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as problem:
        return problem.errno or 0
    return 0
