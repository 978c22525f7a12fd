"""A spool directory: what is refused, what is made, and who holds it."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from mysocket.errors import USAGE, CannotOpen, MySocketError, SpoolLocked, UnsafeSpool
from mysocket.spool import lock
from mysocket.spool.lock import ATTEMPTS, LOCK, NETWORK, PAUSE, SPOOL, Directory, Holder, file_system, holder_in, open_directory

KNOWN = (SPOOL, SPOOL + ".new", LOCK)
NOBODY = 65534
UMASKS = [0, 0o022, 0o077, 0o777]

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")

HOLD = f"""
import sys
from mysocket.spool.lock import open_directory
directory = open_directory(sys.argv[1], role=sys.argv[2], create=True, known={KNOWN})
print("held", flush=True)
sys.stdin.read()
directory.close()
"""


def held(path: Path | str, *, role: str = "session", create: bool = True, **more: Any) -> Directory:
    return open_directory(str(path), role=role, create=create, known=KNOWN, **more)


def refusal(kind: type[MySocketError], path: Path | str, **how: Any) -> str:
    """What the user is told when the directory `path` is refused."""
    with pytest.raises(kind) as caught:
        held(path, **how)
    assert caught.type is kind and caught.value.status == USAGE and str(path) in str(caught.value)
    return str(caught.value)


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


def private(path: Path, data: bytes = b"") -> Path:
    """A file as a spool makes it."""
    path.touch(0o600)
    path.chmod(0o600)
    path.write_bytes(data)
    return path


def mend(told: str) -> None:
    """Do what the user is told to."""
    command = told[told.rindex("(") + 1 : told.rindex(")")]
    subprocess.run(["/bin/sh", "-c", command.removeprefix("sudo ")], check=True)


@contextmanager
def holder(path: Path, role: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the directory until its stdin ends."""
    command = [sys.executable, "-c", HOLD, str(path), role]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None and process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def release(process: subprocess.Popen[bytes]) -> None:
    """Let the holder go, and wait until it has."""
    process.communicate()
    assert process.returncode == 0


def never(seconds: float) -> None:
    raise AssertionError("it waits")


class Clock:
    """Time passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.time = 0.0
        self.naps: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.time += seconds


def opened_below(path: Path) -> list[str]:
    """What this process has open there, even if it is deleted."""
    files = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            files.append(os.readlink(f"/proc/self/fd/{fd}"))
    return [file for file in files if file.startswith(str(path))]


@pytest.fixture(autouse=True)
def tidy(tmp_path: Path) -> Iterator[None]:
    """The umask is set back, and no descriptor is left open, whatever was refused."""
    umask = os.umask(0o022)
    yield
    os.umask(umask)
    assert opened_below(tmp_path) == []


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A directory that holds a spool."""
    path = tmp_path / "spool"
    path.mkdir(0o700)
    private(path / SPOOL, b"data")
    return path


@pytest.fixture(params=["as we are", pytest.param("as nobody", marks=only_root)])
def ordinary(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In a directory of our own, with the rights of root (if we are root) and without."""
    monkeypatch.chdir(tmp_path)
    if request.param == "as we are":
        yield
        return
    os.chown(tmp_path, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


# Making and finding -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", UMASKS)
@pytest.mark.parametrize("there", ["missing", "empty"])
@pytest.mark.usefixtures("ordinary")
def test_a_directory_is_made_for_us_alone_whatever_the_umask(there: str, umask: int) -> None:
    path = Path("spool")
    if there == "empty":
        path.mkdir()
        path.chmod(0o755)
    os.umask(umask)
    with closing(held(path)) as directory:
        os.close(directory.open(SPOOL, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        assert directory.check(SPOOL) and not directory.check("else")
        assert mode(path) == 0o700 and mode(path / LOCK) == mode(path / SPOOL) == 0o600
    with closing(held(path, create=False)):
        assert sorted(os.listdir(path)) == [LOCK, SPOOL]


def test_a_directory_is_never_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even before its mode is set."""
    before: list[int] = []
    monkeypatch.setattr(lock.os, "chmod", lambda path, bits: before.append(stat.S_IMODE(os.stat(path).st_mode)))
    os.umask(0)
    held(tmp_path / "spool").close()
    assert before == [0o700]


def test_parents_are_not_made(tmp_path: Path) -> None:
    told = refusal(CannotOpen, tmp_path / "no" / "spool")
    assert f"{tmp_path / 'no'} does not exist" in told and os.listdir(tmp_path) == []
    mend(told)
    held(tmp_path / "no" / "spool").close()


def test_the_name_of_a_directory_that_is_made_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as there is no spool in it: whoever made it may have been killed before this. Later, never again."""
    synced: list[int] = []
    monkeypatch.setattr(lock.os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    path = tmp_path / "spool"
    for _ in range(2):
        with closing(held(path)) as directory:
            assert synced == [tmp_path.stat().st_ino]
            directory.sync()
            assert synced.pop() == path.stat().st_ino
            synced.clear()
    private(path / SPOOL)
    held(path).close()
    assert synced == []


@only_root
def test_a_parent_that_cannot_be_read_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    parent.chmod(0o311)
    (parent / "spool").mkdir()
    os.chown(parent / "spool", NOBODY, NOBODY)
    monkeypatch.chdir(parent)
    os.seteuid(NOBODY)
    try:
        held("spool").close()
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("files", [{LOCK}, {SPOOL + ".new"}, set(KNOWN), {SPOOL, "notes.txt"}])
def test_a_spool_is_taken_finished_or_half_made(files: set[str], tmp_path: Path) -> None:
    path = tmp_path / "spool"
    path.mkdir(0o700)
    for name in files:
        private(path / name)
    held(path).close()
    assert set(os.listdir(path)) == files | {LOCK}


@pytest.mark.parametrize("files", [{"notes.txt"}, {"notes.txt", LOCK}, {"notes.txt", SPOOL + ".new"}])
def test_a_directory_of_something_else_is_left_as_it_is(files: set[str], tmp_path: Path) -> None:
    path = tmp_path / "home"
    path.mkdir(0o755)
    for name in files:
        private(path / name)
    assert "is not empty and holds no spool" in refusal(CannotOpen, path)
    assert set(os.listdir(path)) == files and mode(path) == 0o755


@pytest.mark.parametrize("files", [None, set(), {LOCK}, {SPOOL + ".new", LOCK}, {"notes.txt"}])
def test_nothing_is_made_where_a_spool_must_be(files: set[str] | None, tmp_path: Path) -> None:
    path = tmp_path / "spool"
    if files is not None:
        path.mkdir(0o755)
        for name in files:
            private(path / name)
    assert "there is no spool there" in refusal(CannotOpen, path, create=False)
    assert path.exists() == (files is not None)
    if files is not None:
        assert set(os.listdir(path)) == files and mode(path) == 0o755


def test_a_spool_without_a_lock_file_gets_one(spool: Path) -> None:
    with closing(held(spool, create=False)):
        assert mode(spool / LOCK) == 0o600


# Directories that are refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_a_symbolic_link_to_a_directory_is_refused(spool: Path, slashes: str, create: bool) -> None:
    """A slash at its end makes the system follow it in spite of O_NOFOLLOW."""
    link = spool.parent / "link"
    link.symlink_to(spool)
    assert "symbolic link. Name the directory itself" in refusal(CannotOpen, f"{link}{slashes}", create=create)
    held(f"{spool}{slashes}", create=create).close()


@pytest.mark.parametrize("create", [True, False])
def test_a_link_that_appears_after_the_look_is_not_followed(spool: Path, create: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    link = spool.parent / "link"
    link.symlink_to(spool)
    monkeypatch.setattr(lock.os.path, "islink", lambda path: False)
    assert os.strerror(errno.ENOTDIR) in refusal(CannotOpen, link, create=create)


def test_a_link_to_nowhere_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "else")
    assert "symbolic link" in refusal(CannotOpen, tmp_path / "link")
    assert os.listdir(tmp_path) == ["link"]


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("below", ["", "/spool"])
def test_a_file_is_no_directory(tmp_path: Path, create: bool, below: str) -> None:
    (tmp_path / "file").touch()
    assert os.strerror(errno.ENOTDIR) in refusal(CannotOpen, f"{tmp_path}/file{below}", create=create)


@pytest.mark.parametrize("create", [True, False])
def test_an_empty_name_is_not_the_root(create: bool) -> None:
    assert ("does not exist" if create else "there is no spool there") in refusal(CannotOpen, "", create=create)


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("bits", [0o755, 0o750, 0o705, 0o720, 0o701])
@pytest.mark.parametrize("name", ["spool", "the spool"])
def test_a_spool_that_is_open_to_others_is_refused(tmp_path: Path, name: str, bits: int, create: bool) -> None:
    path = tmp_path / name
    path.mkdir()
    private(path / SPOOL)
    path.chmod(bits)
    told = refusal(UnsafeSpool, path, create=create)
    assert "open to others" in told and f"chmod 700 {shlex.quote(str(path))}" in told
    assert os.listdir(path) == [SPOOL] and mode(path) == bits
    mend(told)
    held(path, create=create).close()


def test_a_half_made_spool_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    private(tmp_path / LOCK)
    tmp_path.chmod(0o755)
    assert "open to others" in refusal(UnsafeSpool, tmp_path)


def test_the_command_that_mends_a_name_of_dots_is_whole(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence of ours loses the dots at its end."""
    spool.chmod(0o755)
    monkeypatch.chdir(spool)
    mend(refusal(UnsafeSpool, "."))
    held(".").close()


@only_root
@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("what", ["spool", "empty"])
@pytest.mark.parametrize("uid", [NOBODY, 3_000_000])
def test_a_directory_of_another_user_is_refused(spool: Path, what: str, create: bool, uid: int) -> None:
    if what == "empty":
        (spool / SPOOL).unlink()
    os.chown(spool, uid, -1)
    told = refusal(UnsafeSpool, spool, create=create)
    assert f"belongs to user {'nobody' if uid == NOBODY else uid}" in told and "runs as root" in told
    assert LOCK not in os.listdir(spool)


@only_root
def test_the_owner_is_named_where_we_may_not_even_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spool").mkdir(0o700)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    os.seteuid(NOBODY)
    try:
        assert "belongs to user root" in refusal(UnsafeSpool, "spool", create=False)
    finally:
        os.seteuid(0)


# Network file systems -----------------------------------------------------------------------------------------------------------

MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:7 - ext4 /dev/vda rw,discard
40 27 0:45 / /mnt/a\\040-\\040b rw - nfs4 server:/a\\040-\\040b rw,vers=4.2
41 27 0:46 / /mnt/ssh rw,nosuid shared:9 - fuse.sshfs me@there:/ rw
42 27 259:1048575 / /mnt/disk rw - xfs /dev/nvme0n1 rw
43 27 0:47 / /mnt/\x85 rw - btrfs /dev/sdb rw
half a line
44 27 0:48
"""


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        ((0, 21), "proc"),
        ((254, 0), "ext4"),
        ((0, 45), "nfs4"),
        ((0, 46), "fuse.sshfs"),
        ((259, 1048575), "xfs"),
        ((0, 47), "btrfs"),
        ((0, 48), ""),
        ((0, 4), ""),
        ((4, 0), ""),
    ],
)
def test_file_systems_are_found_by_device(device: tuple[int, int], kind: str) -> None:
    assert file_system(MOUNTS, os.makedev(*device)) == kind
    assert file_system("", os.makedev(*device)) == ""


def mounted(path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system of `path` look like one of that kind."""
    device = path.parent.stat().st_dev
    line = f"40 27 {os.major(device)}:{os.minor(device)} / / rw - {kind} server:/ rw\n"
    table = path.parent / "mountinfo"
    table.write_bytes(b"1 1 0:1 / /mnt/\xff rw - tmpfs none rw\n" + line.encode())
    monkeypatch.setattr(lock, "MOUNTINFO", str(table))


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "afs"]
)
def test_network_file_systems_are_refused(spool: Path, kind: str, create: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(spool, kind, monkeypatch)
    told = refusal(UnsafeSpool, spool, create=create)
    assert f"network file system ({kind})" in told and os.listdir(spool) == [SPOOL]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs", "fuseblk", "fuse.ntfs"])
def test_local_file_systems_are_taken(spool: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kind not in NETWORK
    mounted(spool, kind, monkeypatch)
    held(spool).close()


def test_without_a_table_of_mounts_every_file_system_is_taken(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "MOUNTINFO", str(spool / "missing"))
    held(spool).close()


# Files --------------------------------------------------------------------------------------------------------------------------


def spoil_by_link(file: Path) -> None:
    target = private(file.parent.parent / "target", b"precious")
    file.unlink(missing_ok=True)
    file.symlink_to(target)


def spoil_by_dangling_link(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to(file.parent.parent / "nowhere")


def spoil_by_hard_link(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.link(private(file.parent.parent / "target", b"precious"), file)


def spoil_by_fifo(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file, 0o600)


def spoil_by_directory(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir(0o700)


def spoil_by_mode(file: Path) -> None:
    private(file, b"precious").chmod(0o640)


def spoil_by_owner(file: Path) -> None:
    os.chown(private(file, b"precious"), NOBODY, -1)


SPOILERS = [
    pytest.param(spoil_by_link, "symbolic link", id="link"),
    pytest.param(spoil_by_dangling_link, "symbolic link", id="dangling link"),
    pytest.param(spoil_by_hard_link, "2 names", id="hard link"),
    pytest.param(spoil_by_fifo, "not a regular file", id="fifo"),
    pytest.param(spoil_by_directory, "not a regular file", id="directory"),
    pytest.param(spoil_by_mode, "open to others", id="mode"),
    pytest.param(spoil_by_owner, "belongs to user nobody", id="owner", marks=only_root),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILERS)
def test_a_file_that_others_could_have_a_hand_in_is_refused(spool: Path, spoil: Callable[[Path], None], words: str) -> None:
    """It is refused in every way, left as it is, and taken once it is mended as the user is told."""
    spoil(spool / SPOOL)
    before = os.lstat(spool / SPOOL)
    ways: list[Callable[[Directory], object]] = [
        lambda directory: directory.check(SPOOL),
        lambda directory: directory.open(SPOOL, os.O_RDONLY),
        lambda directory: directory.open(SPOOL, os.O_WRONLY),
        lambda directory: directory.open(SPOOL, os.O_RDWR | os.O_CREAT),
        lambda directory: directory.open(SPOOL, os.O_RDWR | os.O_CREAT | os.O_TRUNC),
        lambda directory: directory.open(SPOOL, os.O_RDWR | os.O_CREAT | os.O_EXCL),
    ]
    with closing(held(spool, create=False)) as directory:
        for way in ways:
            with pytest.raises(UnsafeSpool) as caught:
                way(directory)
            told = str(caught.value)
            assert words in told and str(spool / SPOOL) in told and caught.value.status == USAGE
        after = os.lstat(spool / SPOOL)
        assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
        assert not (spool.parent / "nowhere").exists()
        mend(told)
        os.close(directory.open(SPOOL, os.O_RDWR | os.O_CREAT))
        assert directory.check(SPOOL)


@pytest.mark.parametrize(("spoil", "words"), SPOILERS)
@pytest.mark.parametrize("create", [True, False])
def test_a_lock_file_that_others_could_have_a_hand_in_is_refused(
    spool: Path, spoil: Callable[[Path], None], words: str, create: bool
) -> None:
    spoil(spool / LOCK)
    told = refusal(UnsafeSpool, spool, create=create)
    assert words in told and str(spool / LOCK) in told
    target = spool.parent / "target"
    assert not target.exists() or target.read_bytes() == b"precious"
    mend(told)
    held(spool, create=create).close()


def test_files_are_opened_as_asked(spool: Path) -> None:
    with closing(held(spool)) as directory:
        fd = directory.open(SPOOL, os.O_RDONLY)
        assert os.read(fd, 10) == b"data" and not os.get_inheritable(fd) and not os.get_inheritable(directory.fd)
        os.close(fd)
        os.close(directory.open(SPOOL, os.O_RDWR | os.O_CREAT))
        assert (spool / SPOOL).read_bytes() == b"data"
        os.close(directory.open(SPOOL, os.O_RDWR | os.O_TRUNC))
        assert (spool / SPOOL).read_bytes() == b""
        for name, flags, code in [("no", os.O_RDWR, errno.ENOENT), (SPOOL, os.O_RDWR | os.O_CREAT | os.O_EXCL, errno.EEXIST)]:
            with pytest.raises(CannotOpen) as caught:
                directory.open(name, flags)
            assert str(spool / name) in str(caught.value) and os.strerror(code) in str(caught.value)


def test_a_path_stays_the_same_when_the_directory_is_renamed(spool: Path) -> None:
    with closing(held(spool)) as directory:
        path = directory.file(SPOOL)
        spool.rename(spool.parent / "moved")
        spool.mkdir()
        assert Path(path).read_bytes() == b"data" and path == f"/proc/self/fd/{directory.fd}/{SPOOL}"
        os.close(directory.open("new", os.O_RDWR | os.O_CREAT))
    assert (spool.parent / "moved" / "new").exists() and os.listdir(spool) == []


# Who holds it -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"1234 session\n", Holder(1234, "session")),
        (b"1 spool\n", Holder(1, "spool")),
        (b"", None),
        (b"1234", None),
        (b"1234 sess", None),
        (b"1234 two words\n", None),
        (b"1234 session\nmore", None),
        (b"session 1234\n", None),
        (b"-1 session\n", None),
        (b"99999999999 session\n", None),
        (b"1234 \xff\n", None),
        (b"1234 \x1b[2J\n", None),
        (bytes(256), None),
    ],
)
def test_what_a_lock_file_says(text: bytes, found: Holder | None) -> None:
    assert holder_in(text) == found


def test_the_lock_file_names_the_holder_and_stays_empty_behind(spool: Path) -> None:
    private(spool / LOCK, b"99999 something that was left behind\n")
    directory = held(spool, role="hub")
    assert holder_in((spool / LOCK).read_bytes()) == Holder(os.getpid(), "hub")
    directory.close()
    assert (spool / LOCK).read_bytes() == b""
    inode = (spool / LOCK).stat().st_ino
    directory.close()
    held(spool).close()
    assert (spool / LOCK).stat().st_ino == inode


@pytest.mark.parametrize("create", [True, False])
def test_another_process_that_holds_it_is_named_at_once(spool: Path, create: bool) -> None:
    with holder(spool, "session") as process:
        with pytest.raises(SpoolLocked) as caught:
            held(spool, role="send", create=create, sleep=never)
        assert caught.value.fields == {"directory": str(spool), "pid": process.pid, "role": "session"}
        assert caught.value.status == USAGE
        assert str(spool) in str(caught.value) and f"process {process.pid} (session)" in str(caught.value)
        assert holder_in((spool / LOCK).read_bytes()) == Holder(process.pid, "session"), "it was wiped by one who has it not"
        release(process)
    held(spool, create=create).close()


def test_two_of_one_process_exclude_each_other(spool: Path) -> None:
    with closing(held(spool)):
        assert f"process {os.getpid()} (session)" in refusal(SpoolLocked, spool, sleep=never)
    held(spool).close()


def test_a_holder_that_is_killed_holds_nothing(spool: Path) -> None:
    with holder(spool, "session") as process:
        process.kill()
        process.wait()
        assert holder_in((spool / LOCK).read_bytes()) == Holder(process.pid, "session")
        with closing(held(spool, sleep=never)):
            assert holder_in((spool / LOCK).read_bytes()) == Holder(os.getpid(), "session")


@pytest.mark.parametrize("role", sorted(lock.SHORT))
def test_one_that_holds_it_for_a_moment_is_waited_for(spool: Path, role: str) -> None:
    clock = Clock()
    with holder(spool, role) as process:

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            if len(clock.naps) == 3:
                release(process)

        held(spool, sleep=sleep, now=clock.now).close()
    assert clock.naps == [PAUSE] * 3


def test_one_that_holds_it_for_longer_than_a_moment_is_named(spool: Path) -> None:
    clock = Clock()
    with closing(held(spool, role="send")):
        with pytest.raises(SpoolLocked) as caught:
            held(spool, wait=10 * PAUSE, sleep=clock.sleep, now=clock.now)
    assert caught.value.fields["role"] == "send" and len(clock.naps) in (10, 11)


def test_who_does_not_want_to_wait_does_not(spool: Path) -> None:
    with closing(held(spool, role="send")):
        refusal(SpoolLocked, spool, wait=0, sleep=never)


def test_a_holder_that_is_just_writing_its_name_is_waited_for(spool: Path) -> None:
    clock = Clock()
    with closing(held(spool)):
        text = (spool / LOCK).read_bytes()
        (spool / LOCK).write_bytes(text[:3])

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            (spool / LOCK).write_bytes(text)

        assert f"process {os.getpid()} (session)" in refusal(SpoolLocked, spool, sleep=sleep, now=clock.now)
        assert len(clock.naps) == 1
        (spool / LOCK).write_bytes(b"")
        told = refusal(SpoolLocked, spool, sleep=clock.sleep, now=clock.now)
        assert "process ? (unknown)" in told


def test_a_full_disk_keeps_nobody_from_emptying_the_spool(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(lock.os, "pwrite", pwrite)
    with closing(held(spool)):
        assert "process ? (unknown)" in refusal(SpoolLocked, spool, wait=0)


def test_a_file_system_without_locks_is_told(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    told = refusal(CannotOpen, spool)
    assert str(spool / LOCK) in told and os.strerror(errno.ENOLCK) in told


# Replaced under our hands -------------------------------------------------------------------------------------------------------


def before_locking(monkeypatch: pytest.MonkeyPatch, *disturbances: Callable[[], object]) -> list[int]:
    """Let something happen each time just before the lock is asked for; what was locked, by inode."""
    flock, rest, asked = lock.fcntl.flock, list(disturbances), []

    def disturbed(fd: int, operation: int) -> None:
        asked.append(os.fstat(fd).st_ino)
        if rest:
            rest.pop(0)()
        flock(fd, operation)

    monkeypatch.setattr(lock.fcntl, "flock", disturbed)
    return asked


def replace(spool: Path) -> None:
    """Another directory, with a spool, takes the name."""
    spool.rename(spool.parent / f"old {len(os.listdir(spool.parent))}")
    spool.mkdir(0o700)
    private(spool / SPOOL, b"new")


@pytest.mark.parametrize("create", [True, False])
def test_a_directory_that_is_replaced_before_it_is_locked_is_not_taken(
    spool: Path, create: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_locking(monkeypatch, lambda: replace(spool))
    with closing(held(spool, create=create)) as directory:
        assert Path(directory.file(SPOOL)).read_bytes() == b"new"
        assert os.path.samestat(os.fstat(directory.fd), spool.stat())
        [old] = [path for path in spool.parent.iterdir() if path != spool]
        assert (old / LOCK).read_bytes() == b"", "what is not taken names no holder"


def test_what_is_locked_under_a_name_that_is_gone_is_nobodys_concern(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(held(spool)):
        before_locking(monkeypatch, lambda: replace(spool))
        held(spool, sleep=never).close()


def test_a_directory_that_is_deleted_is_made_anew_or_missed(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before_locking(monkeypatch, lambda: shutil.rmtree(spool), lambda: shutil.rmtree(spool))
    with closing(held(spool)) as directory:
        assert os.path.samestat(os.fstat(directory.fd), spool.stat()) and os.listdir(spool) == [LOCK]
    private(spool / SPOOL)
    before_locking(monkeypatch, lambda: shutil.rmtree(spool))
    assert "there is no spool there" in refusal(CannotOpen, spool, create=False)


def test_a_directory_that_is_deleted_before_there_is_a_lock_file_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, judge, rest = tmp_path / "spool", Directory._prepare, [1]

    def prepare(self: Directory, *how: Any) -> None:
        judge(self, *how)
        if rest:
            rest.clear()
            path.rmdir()

    monkeypatch.setattr(Directory, "_prepare", prepare)
    with closing(held(path)):
        assert os.listdir(path) == [LOCK] and not rest


def test_a_lock_file_that_is_removed_before_it_is_locked_is_not_taken(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before_locking(monkeypatch, (spool / LOCK).unlink)
    with closing(held(spool)):
        assert holder_in((spool / LOCK).read_bytes()) == Holder(os.getpid(), "session")
        refusal(SpoolLocked, spool, sleep=never)


def test_one_that_is_replaced_again_and_again_is_given_up(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = before_locking(monkeypatch, *[lambda: replace(spool)] * (ATTEMPTS + 1))
    assert "again and again" in refusal(CannotOpen, spool)
    assert len(asked) == len(set(asked)) == ATTEMPTS


# A look -------------------------------------------------------------------------------------------------------------------------


def test_a_look_finds_who_holds_it_and_changes_nothing(spool: Path) -> None:
    before = sorted(os.listdir(spool))
    assert lock.holder(str(spool)) is None and sorted(os.listdir(spool)) == before
    with holder(spool, "service") as other:
        assert lock.holder(f"{spool}/") == Holder(other.pid, "service")
        assert lock.holder(str(spool)) == Holder(other.pid, "service")
    assert lock.holder(str(spool)) is None  # what a killed process has written says nothing
    with closing(held(spool)):
        assert lock.holder(str(spool)) == Holder(os.getpid(), "session")


def test_a_look_is_in_nobodys_way_for_long(spool: Path) -> None:
    with holder(spool, "spool"):
        pass
    assert lock.holder(str(spool)) is None
    held(spool, wait=0).close()


@pytest.mark.parametrize("what", ["nothing", "file", "link", "no lock", "lock is a link", "lock is a fifo", "zero byte"])
def test_a_look_at_what_is_no_spool_finds_nobody(what: str, tmp_path: Path) -> None:
    path = tmp_path / "spool"
    real = tmp_path / "real"
    with closing(held(real)):
        match what:
            case "file":
                path.write_text("1 session\n")
            case "link":
                path.symlink_to(real)
            case "no lock":
                path.mkdir()
            case "lock is a link":
                path.mkdir()
                (path / LOCK).symlink_to(real / LOCK)
            case "lock is a fifo":
                path.mkdir()
                os.mkfifo(path / LOCK)
        before = sorted(tmp_path.rglob("*"))
        assert lock.holder(str(path) + "\0" * (what == "zero byte")) is None
        assert sorted(tmp_path.rglob("*")) == before


@only_root
def test_a_look_believes_the_files_of_its_user_only(spool: Path) -> None:
    with closing(held(spool)):
        os.chown(spool / LOCK, NOBODY, NOBODY)
        assert lock.holder(str(spool)) is None
        assert lock.holder(str(spool), NOBODY) == Holder(os.getpid(), "session")


def test_a_holder_that_has_not_said_so_yet_is_nobody(spool: Path) -> None:
    with closing(held(spool)):
        os.truncate(spool / LOCK, 0)
        assert lock.holder(str(spool)) is None
