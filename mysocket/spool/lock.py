"""A spool directory: that it is safe, and who holds it.

1. The directory and the files of the spool belong to us alone: our uid, no permission for others, no links.
2. Every look and every change goes through one descriptor of the directory: what was checked is what is used.
3. Nothing is made or changed in a directory that is neither empty nor a spool.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import stat
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from mysocket.errors import CannotOpen, MySocketError, SpoolLocked, UnsafeSpool

#: The file that makes a directory a spool, and the one that is locked.
SPOOL = "spool.mdb"
LOCK = "lock"
#: Roles that hold a spool for a moment only: others wait for them, and try again after so many seconds.
SHORT = frozenset({"spool", "send"})
PAUSE = 0.05
#: How often a directory may be replaced while it is opened.
ATTEMPTS = 10
NO_SPOOL = "there is no spool there. Check the name"
MOUNTINFO = "/proc/self/mountinfo"
#: File systems of other machines, some with "fuse." before the name. LMDB, "Caveats": do not use it on a remote one.
NETWORK = frozenset(
    "9p afs beegfs ceph ceph-fuse cifs coda davfs davfs2 gcsfuse glusterfs lustre ncpfs nfs nfs4 orangefs pvfs2 rclone s3fs "
    "smb3 smbfs sshfs".split()
)
DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Holder(NamedTuple):
    """What the lock file says."""

    pid: int
    role: str


def holder_in(text: bytes) -> Holder | None:
    """What the bytes of a lock file say; None: nothing, or not all of it yet."""
    found = re.fullmatch(rb"(\d{1,10}) ([!-~]+)\n", text)
    return Holder(int(found[1]), found[2].decode()) if found else None


def holder(path: str, owner: int | None = None) -> Holder | None:
    """Who holds the spool directory ``path`` and has said so; a look, which makes, changes and waits for nothing.

    None: nobody, or it is no spool, or not one of ``owner`` (a uid; unless given, ours). To look, others are kept out for an
    instant; whoever opens it meanwhile tries again.
    """
    with suppress(OSError, ValueError), ExitStack() as undo:
        fd = os.open(_plain(path), os.O_PATH | DIRECTORY)
        undo.callback(os.close, fd)
        lock = os.open(LOCK, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=fd)
        undo.callback(os.close, lock)
        found = os.fstat(lock)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != (os.geteuid() if owner is None else owner):
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return holder_in(os.pread(lock, 256, 0))
    return None


def file_system(mountinfo: str, device: int) -> str:
    """The type of the file system on ``device`` (an ``st_dev``), by a text like /proc/self/mountinfo; empty: not listed."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in mountinfo.split("\n"):
        mount, _, rest = line.partition(" - ")
        if mount.split(" ")[2:3] == [number]:
            return rest.partition(" ")[0]
    return ""


class Directory:
    """A spool directory that this process holds, exclusively, until :meth:`close`; made by :func:`open_directory`.

    :ivar path: as the user gave it, for messages.
    :ivar fd: the directory.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self._lock: int | None = None

    def file(self, name: str) -> str:
        """A path to ``name`` inside, for this process, that stays the same when the directory is renamed."""
        return f"/proc/self/fd/{self.fd}/{name}"

    def open(self, name: str, flags: int) -> int:
        """Open a file inside, as :func:`os.open` does; one that is made gets mode 0600 whatever the umask.

        :raises UnsafeSpool: others have, or could have, a hand in the file; it is left as it is.
        """
        # Non-blocking: a FIFO must not hold us before it is refused.
        always = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with _told(os.path.join(self.path, name)), ExitStack() as undo:
            try:
                fd = os.open(name, flags & ~os.O_TRUNC | always, 0o600, dir_fd=self.fd)
            except OSError:
                self.check(name)
                raise
            undo.callback(os.close, fd)
            self._judge(name, os.fstat(fd))
            if flags & os.O_CREAT:
                os.fchmod(fd, 0o600)
            if flags & os.O_TRUNC:
                os.ftruncate(fd, 0)
            undo.pop_all()
        return fd

    def check(self, name: str) -> bool:
        """Is there a file of that name? Errors as for :meth:`open`."""
        with _told(os.path.join(self.path, name)), suppress(FileNotFoundError):
            self._judge(name, os.stat(name, dir_fd=self.fd, follow_symlinks=False))
            return True
        return False

    def _judge(self, name: str, found: os.stat_result) -> None:
        where = os.path.join(self.path, name)
        old, new = quote(where), quote(where + ".copy")
        if stat.S_ISLNK(found.st_mode):
            wrong = f"it is a symbolic link. Put the file itself in its place, or remove the link (rm {old})"
        elif not stat.S_ISREG(found.st_mode):
            wrong = f"it is not a regular file. Remove it (rm -r {old})"
        elif found.st_uid != os.geteuid():
            wrong = _foreign(where, found)
        elif found.st_mode & 0o077:
            wrong = f"it is open to others. Close it (chmod 600 {old})"
        elif found.st_nlink != 1:
            wrong = f"it has {found.st_nlink} names (hard links). Put a copy in its place (cp -p {old} {new} && mv {new} {old})"
        else:
            return
        raise UnsafeSpool(wrong, where=where)

    def sync(self) -> None:
        """Make the names inside durable. An :class:`OSError` is final: trying again would not tell what the disk holds."""
        os.fsync(self.fd)

    def close(self) -> None:
        """Let others hold it. The lock file stays: else one could lock the removed file, and another a new one."""
        if self._lock is not None:
            with suppress(OSError):
                os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _prepare(self, create: bool, known: Collection[str]) -> None:
        """See that it is a spool, or may become one, and open to nobody else."""
        with _told(self.path), ExitStack() as undo:
            names = set(os.listdir(self.fd))
            if SPOOL not in names:
                if not create:
                    raise CannotOpen(NO_SPOOL, where=self.path)
                if not names <= set(known):
                    raise CannotOpen("it is not empty and holds no spool. Name a new directory", where=self.path)
                if not names:
                    os.fchmod(self.fd, 0o700)
                # Its own name must survive a power cut too, and whoever made it may not have come this far. Where we may not
                # read the parent, we can do no more.
                with suppress(PermissionError):
                    parent = os.open("..", os.O_RDONLY | DIRECTORY, dir_fd=self.fd)
                    undo.callback(os.close, parent)
                    os.fsync(parent)
            if os.fstat(self.fd).st_mode & 0o077:
                raise UnsafeSpool(f"it is open to others. Close it (chmod 700 {quote(self.path)})", where=self.path)

    def _hold(self, role: str, patient: Callable[[], bool], sleep: Callable[[float], None]) -> None:
        """Get the lock, and say so in its file. Those who hold it for a moment are waited for as long as ``patient()``."""
        with _told(os.path.join(self.path, LOCK)), ExitStack() as undo:
            lock = self.open(LOCK, os.O_RDWR | os.O_CREAT)
            undo.callback(os.close, lock)
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    holder = holder_in(os.pread(lock, 256, 0))
                # A file that says nothing is just being written.
                if (holder is not None and holder.role not in SHORT) or not patient():
                    pid, role = holder or ("?", "unknown")
                    raise SpoolLocked(directory=self.path, pid=pid, role=role)
                sleep(PAUSE)
            # This only informs: a full disk must not keep anybody from emptying the spool.
            with suppress(OSError):
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"{os.getpid()} {role}\n".encode(), 0)
            self._lock = lock
            undo.pop_all()

    def _in_place(self) -> bool:
        """Is this still the directory of that name, and what is locked the lock file in it?"""
        try:
            pairs = [(self.fd, os.stat(_plain(self.path), follow_symlinks=False))]
            if self._lock is not None:
                pairs.append((self._lock, os.stat(LOCK, dir_fd=self.fd, follow_symlinks=False)))
        except OSError:
            return False
        return all(os.path.samestat(os.fstat(fd), named) for fd, named in pairs)


def open_directory(
    path: str,
    *,
    role: str,
    create: bool,
    known: Collection[str],
    wait: float = 5.0,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> Directory:
    """Hold the spool directory ``path``; made if ``create`` and missing or empty, else it must hold a spool.

    :param role: one word: what others who want it are told.
    :param known: the names of all files that a spool may consist of, half made ones too.
    :param wait: seconds to wait, blocking, for a process that holds it for a moment.
    :raises MySocketError: :class:`SpoolLocked`, :class:`UnsafeSpool` (others have, or could have, a hand in it), or
        :class:`CannotOpen` for any other reason.
    """
    deadline = now() + wait
    for _ in range(ATTEMPTS):
        with ExitStack() as undo:
            directory = Directory(path, _enter(path, create))
            undo.callback(directory.close)
            try:
                directory._prepare(create, known)
                directory._hold(role, lambda: now() < deadline, sleep)
            except MySocketError:
                # What was wrong with a directory that is gone is nobody's concern.
                if directory._in_place():
                    raise
            else:
                if directory._in_place():
                    undo.pop_all()
                    return directory
    raise CannotOpen("it is replaced by another again and again", where=path)


def _enter(path: str, create: bool) -> int:
    """A descriptor of the directory, which is ours and on this machine; made if ``create`` and missing."""
    plain, made = _plain(path), False
    if os.path.islink(plain):
        raise CannotOpen("it is a symbolic link. Name the directory itself", where=path)
    with _told(path), ExitStack() as undo:
        try:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(plain, 0o700)
                    made = True
            # A descriptor that only names it needs no permission: what the umask took away can be given back.
            anchor = os.open(plain, os.O_PATH | DIRECTORY)
        except FileNotFoundError:
            parent = os.path.dirname(plain) or "."
            missing = f"{parent} does not exist. Make it first (mkdir -p {quote(parent)})"
            raise CannotOpen(missing if create else NO_SPOOL, where=path) from None
        undo.callback(os.close, anchor)
        found = os.fstat(anchor)
        if found.st_uid != os.geteuid():
            raise UnsafeSpool(_foreign(path, found), where=path)
        if (kind := _kind(found.st_dev)).removeprefix("fuse.") in NETWORK:
            wrong = f"it is on a network file system ({kind}), where locks and mapped files cannot be relied upon"
            raise UnsafeSpool(f"{wrong}. Name a directory on a local disk", where=path)
        if made:
            os.chmod(f"/proc/self/fd/{anchor}", 0o700)
        return os.open(".", os.O_RDONLY | DIRECTORY, dir_fd=anchor)


def _kind(device: int) -> str:
    try:
        return file_system(Path(MOUNTINFO).read_text(errors="replace"), device)
    except OSError:
        return ""


def _foreign(where: str, found: os.stat_result) -> str:
    owner, we = _user(found.st_uid), _user(os.geteuid())
    mend = f"Run it as {owner}, or take it over (sudo chown {we} {quote(where)})"
    return f"it belongs to user {owner}, and this program runs as {we}. {mend}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _plain(path: str) -> str:
    """Without slashes at the end, which would make the system follow a symbolic link."""
    return path.rstrip("/") or path[:1]


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Tell what the system says as an error of ours."""
    try:
        yield
    except OSError as problem:
        raise CannotOpen(problem.strerror or str(problem), where=where) from None
