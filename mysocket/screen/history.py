"""What was typed in earlier sessions: a file that nobody else can read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

#: Bytes of the file above which its older half is dropped when a session begins; and characters of an entry, above which it is
#: kept for this session only: one large paste is not worth all the others.
MAX_SIZE, MAX_ENTRY = 1024 * 1024, 64 * 1024


def history_path(environ: Mapping[str, str]) -> str:
    """Where it is (XDG Base Directory Specification: state)."""
    state = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):
        state = os.path.join(os.path.expanduser("~"), ".local", "state")
    return os.path.join(state, "mysocket", "history")


def open_history(path: str) -> tuple[History, str]:
    """The history at ``path``, and why there is none on disk, or nothing.

    The file is ours and 0600, or it is not used: what people say to each other is nobody else's business.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        return InMemoryHistory(), f"{path}: {problem.strerror}"
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            return InMemoryHistory(), f"{path} is not a file of this user"
        os.fchmod(fd, 0o600)
        if found.st_size > MAX_SIZE:
            _shorten(fd)
    except OSError as problem:
        return InMemoryHistory(), f"{path}: {problem.strerror}"
    finally:
        os.close(fd)
    return KeptHistory(path), ""


def _shorten(fd: int) -> None:
    """Keep the newer half, from the beginning of an entry. Another session may append meanwhile; at worst one entry is lost."""
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    begin = data.find(b"\n#", len(data) - MAX_SIZE // 2)
    rest = data[begin:] if begin >= 0 else b""
    os.pwrite(fd, rest, 0)
    os.ftruncate(fd, len(rest))


class KeptHistory(FileHistory):
    """A file; a disk that is full or gone costs only the history. What begins with a space is not kept, as in a shell."""

    def append_string(self, string: str) -> None:
        if not string.startswith(" "):
            super().append_string(string)

    def load_history_strings(self) -> Iterable[str]:
        try:
            return super().load_history_strings()
        except OSError:
            return ()

    def store_string(self, string: str) -> None:
        if len(string) <= MAX_ENTRY:
            with suppress(OSError):
                super().store_string(string)
