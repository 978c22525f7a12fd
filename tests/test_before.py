"""What twistd looks at before it forks. (tests/integration/test_twistd.py has real ones.)"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mysocket import tap
from mysocket.errors import CannotListen, CannotOpen, InputMissing, InputRefused, PidFileTaken, PortTaken, SpoolLocked, UsageError
from mysocket.service import daemon_ends
from mysocket.services import before
from mysocket.spool.lock import LOCK, SPOOL, open_directory

HAS_SIX = Path("/proc/net/if_inet6").exists()


def look(*args: str, **parent: object) -> None:
    options = tap.Options()
    options.parseOptions(list(args))
    before.look(options.settings, parent)


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


# The pid file -------------------------------------------------------------------------------------------------------------------


def test_a_pid_file_of_a_process_that_runs_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    file.write_text(f" {os.getpid()}\n")
    with pytest.raises(PidFileTaken, match=rf"{file} names process {os.getpid()} \(\S.*\), which runs"):
        look("-p", "0", pidfile=str(file))
    assert file.exists()


def test_a_process_of_somebody_else_runs_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        assert (pid, number) == (1, 0)
        raise PermissionError

    (tmp_path / "pid").write_text("1")
    monkeypatch.setattr(before.os, "kill", refuse)
    with pytest.raises(PidFileTaken):
        look("-p", "0", pidfile=str(tmp_path / "pid"))


def test_a_stale_pid_file_is_no_obstacle_and_stays_for_twistd(tmp_path: Path, gone: int) -> None:
    (tmp_path / "pid").write_text(str(gone))
    look("-p", "0", pidfile=str(tmp_path / "pid"))
    assert (tmp_path / "pid").read_text() == str(gone)


def test_the_pid_file_of_a_process_that_nobody_has_collected_goes(tmp_path: Path) -> None:
    """twistd would take it for living; in a container without an init it stays so for ever."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        (tmp_path / "pid").write_text(str(process.pid))
        look("-p", "0", pidfile=str(tmp_path / "pid"))
        assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize("text", [b"", b"nonsense", b"\xff", b"0", b"-1", b"9" * 40, b"9" * 30, b"1.5"])
def test_a_pid_file_that_makes_no_sense_is_left_to_twistd(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "pid").write_bytes(text)
    look("-p", "0", pidfile=str(tmp_path / "pid"))


@pytest.mark.parametrize("where", ["", None, "missing/pid", "."])
def test_without_a_pid_file_there_is_nothing_to_see(where: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    look("-p", "0", pidfile=where)
    look("-p", "0")


# The spool ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """A spool in use."""
    path = tmp_path / "spool"
    with closing(open_directory(str(path), role="service", create=True, known=(SPOOL, LOCK))):
        yield path


def test_a_spool_in_use_is_taken_and_looked_for_where_it_will_be_opened(held: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpoolLocked, match=rf"in use by process {os.getpid()} \(service\)"):
        look("-p", "0", "--spool", str(held), rundir="/")
    look("-p", "0", "--spool", "spool", rundir="/")
    with pytest.raises(SpoolLocked):
        look("-p", "0", "--spool", "spool", rundir=str(held.parent))
    monkeypatch.chdir(held.parent)
    for rundir in (".", None):
        with pytest.raises(SpoolLocked):
            look("-p", "0", "--spool", "spool", rundir=rundir)
    look("-p", "0", "--spool", str(held), rundir=".", chroot="/")


def test_a_spool_that_is_held_for_a_moment_only_is_no_obstacle(tmp_path: Path) -> None:
    with closing(open_directory(str(tmp_path / "spool"), role="send", create=True, known=(SPOOL, LOCK))):
        look("-p", "0", "--spool", str(tmp_path / "spool"))


def test_a_spool_that_is_missing_stays_so(tmp_path: Path) -> None:
    look("-p", "0", "--spool", str(tmp_path / "none" / "spool"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
def test_a_spool_of_the_user_that_twistd_becomes(held: Path) -> None:
    os.chown(held / LOCK, 65534, 65534)
    look("-p", "0", "--spool", str(held))
    with pytest.raises(SpoolLocked):
        look("-p", "0", "--spool", str(held), uid=65534)


# The port -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("peer", [(), ("--peer", "localhost:9"), ("--peer", "192.0.2.1:9"), ("--bind", "127.0.0.1")])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_port_that_is_taken_is_told_with_its_holder(kind: str, peer: tuple[str, ...]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as other:
        other.bind(("127.0.0.1", 0))
        if kind == "tcp":
            other.listen()
        port = str(other.getsockname()[1])
        with pytest.raises(PortTaken, match=rf":{port}: .*Process {os.getpid()} \(\S.*\) listens there; "):
            look("-p", port, *peer, *(["--udp"] if kind == "udp" else []))
    look("-p", port, *peer)


@pytest.mark.skipif(not HAS_SIX, reason="this machine has no IPv6")
def test_the_second_address_is_looked_at_too() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = str(other.getsockname()[1])
        look("-p", port, "--bind", "127.0.0.1")
        with pytest.raises(PortTaken, match=rf"\[::1\]:{port}"):
            look("-p", port, "--peer", "localhost:9")


def test_connections_that_are_over_are_no_obstacle() -> None:
    """They wait in the kernel for a minute; Twisted listens all the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()
            assert client.recv(1) == b""
    look("-p", str(port), "--bind", "127.0.0.1")


def test_other_people_s_addresses_and_permissions_are_left_to_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    look("-p", "9000", "--bind", "192.0.2.7")
    monkeypatch.setattr(before, "_bind", lambda address, port, *, udp: 13)
    look("-p", "80")


def test_without_ipv6_ipv4_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before, "_bind", lambda address, port, *, udp: 97 if ":" in address else 98)
    with pytest.raises(PortTaken, match=r"0\.0\.0\.0:9000"):
        look("-p", "9000")


@pytest.mark.parametrize("args", [("-p", "0"), ("-p", "unix:/run/s"), ("-p", "tcp:9000"), ("--peer", "peer.example:9")])
def test_nothing_is_bound_for_what_is_no_number(args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(before, "_bind", lambda *_, **__: pytest.fail("was bound"))
    look(*args)


# A place for files --------------------------------------------------------------------------------------------------------------


def test_a_directory_for_files_is_not_made_before_the_fork(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "in", f"{tmp_path}/in/"):
        look("-p", "0", "--download-dir", str(path))
    assert list(tmp_path.iterdir()) == []
    look("-p", "0", "--download-dir", "in", rundir=str(tmp_path))


def test_a_directory_that_cannot_take_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "in", tmp_path / "missing" / "in"):
        with pytest.raises(CannotOpen):
            look("-p", "0", "--download-dir", str(path))
    with pytest.raises(CannotOpen, match="Cannot open file"):
        look("-p", "0", "--download-dir", "file", rundir=str(tmp_path))
    look("-p", "0", "--download-dir", "/missing/in", chroot="/anywhere")


def test_whose_directory_it_must_be(tmp_path: Path) -> None:
    """twistd becomes another user before the files come."""
    with pytest.raises(CannotOpen, match=f"it belongs to user {os.geteuid()}"):
        look("-p", "0", "--download-dir", str(tmp_path), uid=12345)
    look("-p", "0", "--download-dir", str(tmp_path), uid=os.geteuid())


# Inputs and outputs -------------------------------------------------------------------------------------------------------------


def test_an_input_file_is_there(tmp_path: Path) -> None:
    """A daemon that found none was started all the same, with status 0, and ended at once."""
    (tmp_path / "file").touch()
    look("-p", "0", "--input", "file", "--input", "follow:none", rundir=str(tmp_path))
    for where, error in (
        ("none", InputMissing),
        (".", InputRefused),
        ("/dev/null", InputRefused),
        ("follow:/dev/null", InputRefused),
    ):
        with pytest.raises(error, match=f"The input {where.removeprefix('follow:')} "):
            look("-p", "0", "--input", where, rundir=str(tmp_path))
        look("-p", "0", "--input", where, chroot="/anywhere")


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_port_of_an_input_that_is_taken_is_told_with_its_holder(kind: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM) as other:
        other.bind(("127.0.0.1", 0))
        if kind == "tcp":
            other.listen()
        port = str(other.getsockname()[1])
        with pytest.raises(PortTaken, match=rf":{port}: .*Process {os.getpid()} "):
            look("-p", "0", "--input", f"{kind}:{port}")
    look("-p", "0", "--input", f"{kind}:{port}", "--input", f"{kind}:0", "--input", f"{kind}:systemd:name=x".removeprefix("tcp:"))


def test_a_daemon_has_neither_stdin_nor_stdout() -> None:
    for option in ("--input", "--output"):
        with pytest.raises(UsageError, match=f"{option} -: a daemon has no std"):
            look("-p", "0", option, "-")
        look("-p", "0", option, "-", nodaemon=True)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), ": messages are handed to it by mysocket send; what it receives goes to the log"),
        (("--recv-only", "--output", "a", "--output", "tcp:hub:1"), "; what it receives goes to a and tcp:hub:1"),
        (("--send-only", "--spool", "d"), ": messages are handed to it by mysocket send"),
        (("--recv-only", "--spool", "d"), "; what it receives goes to the inbox of d"),
    ],
)
def test_what_a_daemon_has_instead(args: tuple[str, ...], said: str) -> None:
    options = tap.Options()
    options.parseOptions(["-p", "0", *args])
    assert daemon_ends(options.settings) == f"a daemon has no stdin{said}"


def test_what_is_no_endpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="Unknown endpoint type"):
        look("-p", "0", "--input", "notes:2024.txt")
    with pytest.raises(UsageError, match="is no client endpoint"):
        look("-p", "0", "--output", "tcp:host=hub")
    look("-p", "0", "--input", f"unix:{tmp_path}/s", "--output", "tcp:hub.example:601", "--output", "udp:hub.example:514")
    assert list(tmp_path.iterdir()) == []


def test_an_output_file_can_be_made_and_is_not_made_yet(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("as it was")
    look("-p", "0", "--output", "there", "--output", "new", "--output", str(tmp_path / "new"), rundir=str(tmp_path))
    look("-p", "0", "--output", "/dev/null", "--output", "a name that no file here has")
    assert [path.name for path in tmp_path.iterdir()] == ["there"] and (tmp_path / "there").read_text() == "as it was"
    for where, why in (("none/new", "No such file"), ("there/new", "Not a directory"), (".", "Is a directory")):
        with pytest.raises(CannotOpen, match=f"Cannot open {where}: {why}"):
            look("-p", "0", "--output", where, rundir=str(tmp_path))
        look("-p", "0", "--output", where, chroot="/anywhere")


# Under twistd's options ---------------------------------------------------------------------------------------------------------


def test_options_of_twistd_end_with_the_status_of_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pid").write_text(str(os.getpid()))
    options = tap.Options()
    options.parent = {"pidfile": str(tmp_path / "pid")}  # type: ignore[assignment]
    with pytest.raises(SystemExit) as left:
        options.parseOptions(["-p", "0"])
    told = capsys.readouterr()
    assert left.value.code == 2 and told.out == ""
    assert told.err.startswith("mysocket: The pid file ") and told.err.count("\n") == 1


@pytest.mark.parametrize(("journal", "mark"), [(False, ""), (True, "<3>")])
def test_under_twistd_a_wrong_option_is_one_line_and_status_2(
    journal: bool, mark: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """twistd's own way is all its help, in which the error is the last of seventy lines, and status 1."""
    monkeypatch.setattr(tap, "is_journal", lambda environ: journal)
    options = tap.Options()
    options.parent = {}  # type: ignore[assignment]
    with pytest.raises(SystemExit) as left:
        options.parseOptions(["-p", "0", "--log-format", "xml"])
    told = capsys.readouterr()
    assert left.value.code == 2 and told.out == ""
    assert told.err == f"{mark}mysocket: --log-format: 'xml' is unknown; write text or json\n"
