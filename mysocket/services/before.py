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
from mysocket.ends.filereader import shown
from mysocket.errors import CannotOpen, InputMissing, InputRefused, PidFileTaken, SpoolLocked, UsageError
from mysocket.inputs.openfile import NoFile, open_file
from mysocket.settings import Settings
from mysocket.specs import Place, Spec
from mysocket.spool import lock
from mysocket.values import is_endpoint, split_host_port

Parent = Mapping[str, Any]


def look(settings: Settings, parent: Parent) -> None:
    """Is there a stdout, if that is wanted, a place for files, and what inputs and outputs name? Are the pid file, the spool and
    the ports free?

    :param parent: twistd's own options.
    :raises MySocketError: one is not; the error names the process that has it.
    """
    look_at_output(settings, parent)
    look_at_pid_file(parent)
    look_at_spool(settings, parent)
    look_at_downloads(settings, parent)
    look_at_port(settings)
    look_at_metrics(settings)
    look_at_inputs(settings, parent)
    look_at_outputs(settings, parent)


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


def look_at_inputs(settings: Settings, parent: Parent) -> None:
    """Files as they are opened, endpoints as they are read; of what listens, the ports that are plain numbers."""
    if settings.inputs and settings.reads_stdin and not parent.get("nodaemon"):
        raise UsageError("--input -: a daemon has no stdin; leave it out, and mysocket send hands messages to it")
    for spec in settings.other_inputs:
        if spec.place in (Place.FILE, Place.FOLLOW):
            if parent.get("chroot") is None:
                _look_at_input_file(os.path.join(parent.get("rundir") or "", spec.target), spec)
        elif spec.place is Place.UDP:
            if spec.target.isdecimal() and spec.target != "0":
                _look_at(build.interfaces(settings.bind, None)[:1], int(spec.target), udp=True)
        elif not spec.target.startswith(("systemd:", "ssl:")):  # these look at the process, and at files
            build.server_endpoint(_reactor(), spec.target)
            kind, _, port = spec.target.partition(":")
            if kind == "tcp" and port.isdecimal() and port != "0":
                _look_at(["0.0.0.0"], int(port), udp=False)


def _look_at_input_file(path: str, spec: Spec) -> None:
    try:
        open_file(path).close()
    except NoFile as problem:
        if spec.place is Place.FILE or not problem.passes:
            raise InputRefused(str(problem), where=shown(spec.target)) from None
    except OSError as problem:
        if spec.place is Place.FILE:
            if isinstance(problem, FileNotFoundError):
                raise InputMissing(where=shown(spec.target)) from None
            raise InputRefused(problem.strerror or str(problem), where=shown(spec.target)) from None


def look_at_outputs(settings: Settings, parent: Parent) -> None:
    """Nothing is made, and nothing opened: to open a FIFO or a device may do something."""
    for spec in settings.outputs:
        if spec.place is Place.ENDPOINT:
            build.client_endpoint(_reactor(), spec.target)
        elif spec.place is Place.FILE and parent.get("chroot") is None:
            path, why = os.path.join(parent.get("rundir") or "", spec.target), 0
            try:
                if os.path.isdir(path):
                    why = errno.EISDIR
                elif not os.path.lexists(path):
                    os.stat(os.path.join(os.path.dirname(path) or ".", ""))
                elif parent.get("uid") is None and not os.access(path, os.W_OK) and not os.path.islink(path):
                    why = errno.EACCES
            except OSError as problem:
                why = problem.errno or errno.EIO
            if why:
                raise CannotOpen(os.strerror(why), where=spec.target)


def _reactor() -> Any:
    from twisted.internet import reactor

    return reactor


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
