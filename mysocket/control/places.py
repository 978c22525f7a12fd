"""Where control sockets are, and who may listen and talk there.

Rules

1. A directory of control sockets is ours (our uid), open to nobody else, and no symbolic link. So is each socket in it.
2. Every look and every change goes through one descriptor of the directory. That also makes paths short: the kernel takes
   108 bytes.
3. A socket gets its name when it listens already. So a named one that refuses is one nobody will ever listen on again.
4. Whoever makes or removes names in a run-time directory holds a lock on it, for a moment.
5. Who is at the other end is what the kernel says of it (SO_PEERCRED).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from mysocket.errors import NoControlSocket

#: The name of the control socket in a spool.
IN_SPOOL = "control"
#: What the names of control sockets in a run-time directory end in.
SUFFIX = ".sock"
#: Connections that wait to be taken by the service.
BACKLOG = 128
#: How long the lock of a run-time directory is waited for, and how long between two tries, in seconds.
PATIENCE, PAUSE = 5.0, 0.02
DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_UCRED = struct.Struct("=iII")  # unix(7): struct ucred


class Unusable(Exception):
    """A place that cannot be used, and why: half a sentence."""


class Place(NamedTuple):
    """A run-time directory.

    :param home: the directory it is in, if that has to be ours as well: what we made in somebody else's would be in his way.
    """

    path: str
    home: str | None


def run_time_places(environ: Mapping[str, str], uid: int) -> list[Place]:
    """The run-time directories of the user ``uid``, the best first. They may be missing."""
    homes = [environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"]
    # XDG Base Directory Specification: a relative path is invalid and to be ignored.
    known = dict.fromkeys(home.rstrip("/") for home in homes if home.startswith("/"))
    return [Place(f"{home}/mysocket", home) for home in known] + [Place(f"/tmp/mysocket-{uid}", None)]


@contextmanager
def entered(place: Place, *, create: bool = False) -> Iterator[int]:
    """A descriptor of the directory, for as long as it is looked at.

    :param create: make it if it is missing.
    :raises Unusable: it is missing, or not ours alone.
    """
    with _told(), ExitStack() as undo:
        if place.home is not None:
            _check_owner(os.stat(place.home))
        made = False
        if create:
            with suppress(FileExistsError):
                os.mkdir(place.path, 0o700)
                made = True
        try:
            # A descriptor that only names it needs no permission: what the umask took away can be given back.
            anchor = os.open(place.path, os.O_PATH | DIRECTORY)
        except NotADirectoryError:
            raise Unusable("it is no directory, or a symbolic link") from None
        undo.callback(os.close, anchor)
        _check_owner(os.fstat(anchor))
        if made:
            os.chmod(f"/proc/self/fd/{anchor}", 0o700)
        if os.fstat(anchor).st_mode & 0o077:
            raise Unusable(f"it is open to others (chmod 700 {place.path})")
        fd = os.open(".", os.O_RDONLY | DIRECTORY, dir_fd=anchor)
        undo.callback(os.close, fd)
        yield fd


def _check_owner(found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise Unusable(f"it belongs to {_user(found.st_uid)}, and this program runs as {_user(os.geteuid())}")


def _user(uid: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise Unusable("it does not exist" if problem.errno == errno.ENOENT else problem.strerror or str(problem)) from None


# Listening ----------------------------------------------------------------------------------------------------------------------


class Listening(NamedTuple):
    """A control socket that listens.

    :param path: where it is, for people.
    :param remove: takes its name away, if it is still this socket's. May be called again.
    """

    socket: socket.socket
    path: str
    remove: Callable[[], None]


def listen(directory: int, path: str, name: str, *, held: bool = False) -> Listening:
    """Listen in a directory that is ours alone.

    :param directory: a descriptor of it; ``path``: its path, for people.
    :param held: only the holder of a lock listens under this name, and we hold it: whatever listens there does so no more.
    :raises Unusable: something else is in the way, or the system refuses.
    """
    new = f".{name}.new"
    with _told(), ExitStack() as undo:
        _clear(directory, name, held=held)
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=directory)
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        undo.callback(found.close)
        found.bind(f"/proc/self/fd/{directory}/{new}")
        undo.callback(_unlink, directory, new)
        os.chmod(new, 0o600, dir_fd=directory)
        found.listen(BACKLOG)
        own = os.stat(new, dir_fd=directory, follow_symlinks=False)
        os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        undo.pop_all()
    return Listening(found, f"{path.rstrip('/')}/{name}", _remover(os.dup(directory), name, own))


def _unlink(directory: int, name: str) -> None:
    with suppress(OSError):
        os.unlink(name, dir_fd=directory)


def _remover(directory: int, name: str, own: os.stat_result) -> Callable[[], None]:
    left = [directory]

    def remove() -> None:
        while left:
            with suppress(OSError):
                if os.path.samestat(own, os.stat(name, dir_fd=directory, follow_symlinks=False)):
                    os.unlink(name, dir_fd=directory)
            os.close(left.pop())

    return remove


def _clear(directory: int, name: str, *, held: bool) -> None:
    """See that ``name`` may be taken: there is nothing, or a socket of ours that nobody listens on."""
    with suppress(FileNotFoundError):
        anchor = _anchor(directory, name)
        try:
            if not held and _is_live(anchor):
                raise Unusable(f"another process listens on {name}")
        finally:
            os.close(anchor)


def _anchor(directory: int, name: str) -> int:
    """A descriptor that names a socket of ours: what was checked is what is connected to.

    :raises Unusable: it is none.
    """
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    found = os.fstat(fd)
    try:
        if stat.S_ISLNK(found.st_mode):
            raise Unusable(f"{name} is a symbolic link; remove it")
        if not stat.S_ISSOCK(found.st_mode):
            raise Unusable(f"{name} is no socket; remove it")
        if found.st_uid != os.geteuid():
            raise Unusable(f"{name} belongs to {_user(found.st_uid)}; remove it")
    except Unusable:
        os.close(fd)
        raise
    return fd


def _is_live(anchor: int) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(f"/proc/self/fd/{anchor}")
        except ConnectionRefusedError:
            return False
        except OSError:
            pass  # a queue that is full, or the like
    return True


def listen_at_run_time(name: str, environ: Mapping[str, str] = os.environ, *, places: list[Place] | None = None) -> Listening:
    """Listen as ``name.sock`` in the first run-time directory that can be used, and remove the sockets of killed services there.

    :param name: the port, or ``dial``, and something random.
    :raises NoControlSocket: there is none; the reasons are in it.
    """
    tried = []
    for place in run_time_places(environ, os.geteuid()) if places is None else places:
        try:
            with entered(place, create=True) as directory, _locked(directory):
                listening = listen(directory, place.path, name + SUFFIX)
                _sweep(directory, but=name + SUFFIX)
                return listening
        except Unusable as problem:
            tried.append(f"{place.path}: {problem}")
    raise NoControlSocket("; ".join(tried))


@contextmanager
def _locked(directory: int) -> Iterator[None]:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Unusable("another process keeps it locked") from None
        time.sleep(PAUSE)
    try:
        yield
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)


def _sweep(directory: int, *, but: str) -> None:
    """Remove the sockets of killed services. Their unfinished names go too: who makes one holds the lock, and that is us."""
    for name in os.listdir(directory):
        if name != but and name.endswith((SUFFIX, f"{SUFFIX}.new")):
            with suppress(OSError, Unusable):
                anchor = _anchor(directory, name)
                try:
                    if not _is_live(anchor):
                        os.unlink(name, dir_fd=directory)
                finally:
                    os.close(anchor)


# Talking ------------------------------------------------------------------------------------------------------------------------


def connect(directory: int, name: str) -> socket.socket:
    """A non-blocking connection to the service that listens there.

    :raises Unusable: there is none of our user.
    """
    with _told(), ExitStack() as undo:
        anchor = _anchor(directory, name)
        undo.callback(os.close, anchor)
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with ExitStack() as unless:
            unless.callback(found.close)
            try:
                found.connect(f"/proc/self/fd/{anchor}")
            except ConnectionRefusedError:
                raise Unusable("nobody listens there: its service was killed") from None
            except BlockingIOError:
                raise Unusable("too many others wait to be let in") from None
            uid = peer(found).uid
            if uid != os.geteuid():
                raise Unusable(f"who listens there is {_user(uid)}")
            unless.pop_all()
    return found


def names(directory: int) -> list[str]:
    """The control sockets in a run-time directory."""
    return sorted(name for name in os.listdir(directory) if name.endswith(SUFFIX) and not name.startswith("."))


class Peer(NamedTuple):
    """Who is at the other end; ``pid`` is 0 where it cannot be seen from here (pid_namespaces(7))."""

    pid: int
    uid: int
    gid: int


def peer(connection: socket.socket) -> Peer:
    """Who has connected, or who listened. An error of the system is an :class:`OSError`."""
    return Peer._make(_UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
