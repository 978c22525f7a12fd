"""Files into real processes, from a sender that lives on: whole, once, whatever happens to the receiver."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mysocket.core.transfer import CHUNK, Chunk, Part
from mysocket.core.wire import Reason
from mysocket.errors import MISSING
from mysocket.failpoints import VARIABLE
from tests.support.disks import PowerDisk, failing_sync, power_disk, small_disk
from tests.support.files import FileSender, content, in_parts, line, pieces
from tests.support.processes import DEVNULL, Program, free_port, mysocket, wait_until
from tests.support.service import TWISTD, Yard, yard

__all__ = ["yard"]  # the fixture, used by its name below

DATA = content(5_000_000)
FILE = pieces(DATA)


class Hub:
    """A receiver that is run again and again, on one port."""

    def __init__(self, directory: Path, *options: str, spool: bool = False, incoming: Path | None = None) -> None:
        self.port = free_port()
        self.incoming = incoming or directory / "in"
        self.options = [*options, *(["--spool", str(directory / "spool")] if spool else [])]
        self.program: Program | None = None
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def start(self, *more: str, crash_at: str = "", env: dict[str, str] | None = None, listens: bool = True) -> Program:
        """Run it (again)."""
        if self.program is not None:
            self.program.close()
        words = ("-p", str(self.port), "--recv-only", "--download-dir", str(self.incoming), *self.options, *more)
        self.program = self.stack.enter_context(mysocket(*words, stdin=DEVNULL, env={VARIABLE: crash_at, **(env or {})}))
        if listens:
            self.program.listening_port()
        return self.program

    def kill(self) -> None:
        assert self.program is not None
        self.program.kill()
        assert self.program.wait() == -signal.SIGKILL

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.incoming.iterdir() if not path.name.startswith(".")}

    @property
    def parts(self) -> list[str]:
        return [path.name for path in self.incoming.iterdir() if path.name.startswith(".")]

    def no_parts(self) -> None:
        """The thread has removed what is of no more use."""
        wait_until(lambda: not self.parts, "parts are left")

    def only_named_parts(self) -> None:
        """A process that was killed right when an end was committed has left the part, which is the file."""
        assert all(part.endswith(".over") or (self.incoming / part).stat().st_nlink == 2 for part in self.parts)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path) as made:
        yield made


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path, "--output", str(tmp_path / "out"), spool=True) as made:
        yield made


def through(sender: FileSender) -> None:
    """Send what was given, until all of it is acknowledged."""
    sender.connect()
    sender.send()
    sender.wait_acknowledged()


def resumes(sender: FileSender, hub: Hub, *more: str) -> None:
    """The receiver runs again, and the sender with it goes on to the end."""
    program = hub.start(*more)
    through(sender)
    sender.finish()
    program.wait_status(0)
    hub.only_named_parts()


# Well ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spool", [False, True])
def test_files_and_messages(tmp_path: Path, spool: bool) -> None:
    with Hub(tmp_path, spool=spool) as hub, FileSender(hub.port, durable=spool) as sender:
        program = hub.start()
        sender.give(line("before"), *FILE[:5], line("within"), *FILE[5:], line("behind"), *pieces(b"", "empty"))
        sender.end_input()
        through(sender)
        assert sender.peer is not None and sender.peer.files
        sender.finish()
        program.wait_status(0)
        assert program.stdout == b"before\nwithin\nbehind\n" and hub.files == {"report.csv": DATA, "empty": b""}
        assert "receiving report.csv (5.0 MB) from hosta" in program.stderr_text
        assert f"from hosta: saved as {hub.incoming}/report.csv" in program.stderr_text
        hub.no_parts()


def test_a_node_without_the_option_takes_none(tmp_path: Path) -> None:
    with mysocket("-p", "0", "--recv-only", stdin=DEVNULL) as program, FileSender(program.listening_port()) as sender:
        sender.give(*FILE)
        sender.connect()
        assert sender.peer is not None and not sender.peer.files
        sender.send(sender.batches[1].end)
        assert sender.wait_bye().reason == Reason.PROTOCOL and sender.acknowledged == 0


def test_a_file_within_a_message(hub: Hub) -> None:
    hub.start()
    with FileSender(hub.port) as sender:
        sender.give(in_parts(b"half"), FILE[0])
        sender.connect()
        sender.send()
        assert sender.wait_bye().reason == Reason.PROTOCOL


@pytest.mark.parametrize("output", [(), ("--json",)])
def test_many_senders_at_once(tmp_path: Path, output: tuple[str, ...]) -> None:
    """All of them under the same id and name."""
    with Hub(tmp_path, *output) as hub, contextlib.ExitStack() as stack:
        hub.start()
        senders = [stack.enter_context(FileSender(hub.port, name=f"host{number}")) for number in range(5)]
        files = [pieces(content(700_000, number), id=b"i" * 16) for number in range(5)]
        for sender, file in zip(senders, files, strict=True):
            sender.connect()
            sender.give(*file, line("done"))
        for index in range(len(files[0]) + 1):
            for sender in senders:
                sender.send(sender.batches[index].end)
        for sender in senders:
            sender.wait_acknowledged()
        assert sorted(hub.files.values()) == sorted(content(700_000, number) for number in range(5))
        assert sorted(hub.files) == ["report (1).csv", "report (2).csv", "report (3).csv", "report (4).csv", "report.csv"]


def test_hostile_names(tmp_path: Path) -> None:
    names = ["../../escape", "\x1b[2J\u202e", "/etc/passwd", ".ssh", ""]
    with Hub(tmp_path) as hub, FileSender(hub.port) as sender:
        program = hub.start()
        for name in names:
            sender.give(*pieces(name.encode() or b"none", name))
        through(sender)
        assert set(hub.files.values()) == {name.encode() or b"none" for name in names}
        assert sorted(hub.files) == ["_[2J_", "escape", "file", "passwd", "ssh"]
        assert {path.name for path in tmp_path.iterdir()} == {"in"}
        assert "\x1b" not in program.stderr_text and "\u202e" not in program.stderr_text


def test_a_transfer_that_is_cancelled(hub: Hub) -> None:
    program = hub.start()
    with FileSender(hub.port) as sender:
        cancel = Chunk(Part.CANCEL, chunks_id := b"c" * 16, 1_000_000, text="it was changed")
        sender.give(*pieces(DATA, id=chunks_id)[:5], cancel.piece(), line("more"))
        sender.end_input()
        through(sender)
        sender.finish()
        program.wait_status(0)
        assert "hosta has cancelled report.csv after 1.0 MB: it was changed" in program.stderr_text
        assert hub.files == {} and program.stdout == b"more\n"
        hub.no_parts()


# Killed -------------------------------------------------------------------------------------------------------------------------


def half(sender: FileSender) -> int:
    """Where about half of the stream ends."""
    return sender.batches[len(sender.batches) // 2].end


@pytest.mark.parametrize("spool", [False, True])
def test_a_receiver_that_is_killed_in_the_middle(tmp_path: Path, spool: bool) -> None:
    with Hub(tmp_path, spool=spool) as hub, FileSender(hub.port, durable=spool) as sender:
        hub.start()
        sender.give(*FILE, *pieces(content(3_000_000, 9), "other"))
        sender.end_input()
        for share in (1, 3):
            sender.connect()
            goal = sender.batches[len(sender.batches) * share // 5].end
            sender.send(goal + 1_000_000)
            sender.wait_acknowledged(goal)
            hub.kill()
            hub.start()
        resumes(sender, hub)
        assert hub.files == {"report.csv": DATA, "other": content(3_000_000, 9)}


def one_by_one(sender: FileSender) -> None:
    """The same, each batch when the one before is acknowledged: so each is written, synced and committed alone."""
    sender.connect()
    for batch in sender.batches:
        sender.send(batch.end)
        sender.wait_acknowledged(batch.end)


# The first passages are those of a message, the twelfth of a chunk, but of R8: that is passed at the end of the file.
@pytest.mark.parametrize(("label", "passage"), [*((f"R{number}", 12) for number in range(1, 8)), ("R2", 1), ("R7", 1), ("R8", 1)])
def test_a_crash_at_each_label(tmp_path: Path, durable: Hub, label: str, passage: int) -> None:
    """The same into an output file of the spool: messages are there once, and the file is."""
    with FileSender(durable.port, durable=True) as sender:
        sender.give(line("before"), *FILE[:10], line("within"), *FILE[10:], line("behind"))
        sender.end_input()
        program = durable.start(crash_at=f"{label}:{passage}")
        with contextlib.suppress(OSError):
            one_by_one(sender)
            sender.finish()
        assert program.wait() == -signal.SIGKILL, program.report()
        sender.disconnect()
        # What it was about to remove is left, at the worst; the next start but some removes it.
        resumes(sender, durable)
        assert durable.files == {"report.csv": DATA}
        assert (tmp_path / "out").read_bytes() == b"before\nwithin\nbehind\n"


@pytest.mark.parametrize("label", ["R6", "R7"])
def test_a_crash_while_the_file_gets_its_name(tmp_path: Path, durable: Hub, label: str) -> None:
    """The very last passages: of one small file there are as many as of chunks, and one more."""
    with FileSender(durable.port, durable=True) as sender:
        sender.give(*pieces(b"small"))
        sender.end_input()
        program = durable.start(crash_at=f"{label}:2")
        with contextlib.suppress(OSError):
            through(sender)
            sender.finish()
        program.wait()
        sender.disconnect()
        resumes(sender, durable)
        assert durable.files == {"report.csv": b"small"}


@pytest.mark.parametrize("named", [False, True])
def test_a_power_cut(tmp_path: Path, named: bool) -> None:
    with power_disk(tmp_path, 128 << 20) as disk:
        _cut_and_go_on(tmp_path, disk, named)


def _cut_and_go_on(tmp_path: Path, disk: PowerDisk, named: bool) -> None:
    incoming = disk.path / "in"
    spool = ("--spool", str(disk.path / "spool"))
    with Hub(tmp_path, *spool, incoming=incoming) as hub, FileSender(hub.port, durable=True) as sender:
        hub.start()
        sender.give(*pieces(b"first", "first"), *FILE)
        sender.end_input()
        sender.connect()
        goal = sender.batches[-2].end if named else half(sender)
        sender.send(goal + (0 if named else 500_000))
        sender.wait_acknowledged(goal)
        disk.cut()
        hub.kill()
        hub.stack.pop_all().close()
        disk.restore()
        program = hub.start()
        through(sender)
        sender.finish()
        program.wait_status(0)
        hub.only_named_parts()
        assert hub.files == {"first": b"first", "report.csv": DATA}


def test_a_receiver_in_memory_that_was_not_heard(hub: Hub) -> None:
    """Everything had come, and the sender does not know: it says much of it again, to another process."""
    hub.start()
    with FileSender(hub.port) as sender:
        sender.give(*FILE, *pieces(b"", "empty"))
        sender.connect()
        sender.send(sender.batches[4].end)
        sender.wait_acknowledged(sender.batches[4].end)
        sender.send()
        wait_until(lambda: len(hub.files) == 2 and not any(part.endswith(".part") for part in hub.parts), "it is not all there")
        sender.disconnect()
        (hub.incoming / "report.csv").rename(hub.incoming / "taken")
        hub.kill()
        program = hub.start()
        sender.end_input()
        through(sender)
        sender.finish()
        program.wait_status(0)
        assert hub.files == {"taken": DATA, "empty": b""}


def test_both_are_killed_and_nobody_goes_on(hub: Hub) -> None:
    """What is left of it is named, and another sender is not touched by it."""
    with FileSender(hub.port) as sender:
        program = hub.start()
        sender.give(*FILE)
        sender.connect()
        sender.send(half(sender))
        sender.wait_acknowledged(half(sender))
        program.kill(signal.SIGTERM)
        program.wait_status(143)
        assert "not received to its end: report.csv from hosta, 2." in program.stderr_text and len(hub.parts) == 1
    with FileSender(hub.port) as another:
        hub.start()
        another.give(*FILE)
        through(another)
        assert hub.files == {"report.csv": DATA}
        assert len([part for part in hub.parts if part.endswith(".part")]) >= 1


def test_a_peer_that_was_started_anew(tmp_path: Path) -> None:
    """It will not go on with what it sent before."""
    with Hub(tmp_path, "-k") as hub:
        program = hub.start("--peer", "127.0.0.1:9")
        with FileSender(hub.port) as sender:
            sender.give(*FILE)
            sender.connect()
            sender.send(half(sender))
            sender.wait_acknowledged(half(sender))
        program.wait_line("lost the connection")
        with FileSender(hub.port) as another:
            another.give(*pieces(b"new", "new"))
            through(another)
            program.wait_line(r"broken off: report.csv from hosta, 2\.\d MB of 5\.0 MB in .*\.part, which nobody")
            assert hub.files == {"new": b"new"}


# Missing ------------------------------------------------------------------------------------------------------------------------


def spoil(hub: Hub) -> None:
    (part,) = hub.parts
    with (hub.incoming / part).open("r+b") as file:
        file.write(b"spoilt")


def remove(hub: Hub) -> None:
    (part,) = hub.parts
    (hub.incoming / part).unlink()


def cut(hub: Hub) -> None:
    (part,) = hub.parts
    os.truncate(hub.incoming / part, 100)


# Each harm with and without a spool, and of one peer, and each of those two with the other.
@pytest.mark.parametrize(
    ("harm", "spool", "one_peer"),
    [
        (spoil, False, False),
        (spoil, True, True),
        (remove, False, True),
        (remove, True, False),
        (cut, False, False),
        (cut, True, True),
    ],
)
def test_a_part_that_is_lost(tmp_path: Path, harm: Callable[[Hub], None], spool: bool, one_peer: bool) -> None:
    peer = ("--peer", "127.0.0.1:9") if one_peer else ()
    with Hub(tmp_path, *peer, spool=spool) as hub, FileSender(hub.port, durable=spool) as sender:
        hub.start()
        sender.give(*FILE, line("behind"), *pieces(b"other", "other"))
        sender.end_input()
        sender.connect()
        sender.send(half(sender))
        sender.wait_acknowledged(half(sender))
        hub.kill()
        harm(hub)
        program = hub.start()
        another = FileSender(hub.port)
        if not one_peer:
            another.connect()
        sender.connect()
        with contextlib.suppress(OSError):
            sender.send()
        assert sender.wait_bye().reason == Reason.STATE_LOSS
        sender.disconnect()
        program.wait_line("(file|report.csv) from hosta (is gone|is not what was sent|has 100 bytes here)")
        if one_peer:
            program.wait_status(MISSING)
        else:
            # Another sender is still served, and then the status remembers it.
            another.give(*pieces(b"fine", "fine"))
            another.end_input()
            another.send()
            another.wait_acknowledged()
            another.finish()
            another.disconnect()
            program.wait_status(MISSING)
            assert hub.files["fine"] == b"fine" and "report.csv" not in hub.files
        program = hub.start("--accept-loss")
        through(sender)
        sender.finish()
        program.wait_status(MISSING)
        assert program.stdout == b"behind\n" and hub.files["other"] == b"other" and "report.csv" not in hub.files
        assert "accepted: " in program.stderr_text
        hub.no_parts()


# Disks --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spool", [False, True])
def test_a_disk_that_is_full_for_a_while(tmp_path: Path, spool: bool) -> None:
    with small_disk(tmp_path, 6 << 20) as disk, Hub(tmp_path, spool=spool, incoming=disk.path / "in") as hub:
        program = hub.start()
        (disk.path / "ballast").write_bytes(b"x" * (4 << 20))
        with FileSender(hub.port, durable=spool) as sender:
            sender.give(*FILE, line("behind"))
            sender.connect()
            sender.send()
            program.wait_line(f"the disk of {disk.path}/in is full")
            assert sender.acknowledged < sender.end and hub.files == {}
            (disk.path / "ballast").unlink()
            sender.wait_acknowledged()
            program.wait_line("has room again")
            assert hub.files == {"report.csv": DATA} and program.stdout == b"behind\n"


def test_a_sync_that_fails(tmp_path: Path) -> None:
    failing = failing_sync(tmp_path, on="/in/")
    with Hub(tmp_path, spool=True) as hub, FileSender(hub.port, durable=True) as sender:
        program = hub.start(env=failing.environment())
        sender.give(*FILE)
        failing.arm()
        sender.connect()
        with contextlib.suppress(OSError):
            sender.send()
        program.wait_status(74)
        # The offer may have come alone: of that, only the directory is synced.
        assert sender.acknowledged <= sender.batches[0].end and "nobody knows what of it is on the disk" in program.stderr_text
        failing.disarm()
        hub.start()
        through(sender)
        assert hub.files == {"report.csv": DATA}


@pytest.mark.parametrize("where", ["file", "missing/in"])
def test_a_directory_that_cannot_be(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    path = str(tmp_path / where)
    with mysocket("-p", "0", "--download-dir", path, stdin=DEVNULL) as program:
        program.wait_status(2)
        assert program.stderr_text.startswith(f"mysocket: Cannot open {path}: ") and "listening" not in program.stderr_text
    daemon = [*TWISTD, f"--pidfile={tmp_path}/pid", f"--logfile={tmp_path}/log", "mysocket", "-p", "0", "--download-dir", path]
    with Program(daemon, stdin=DEVNULL, env={"XDG_RUNTIME_DIR": str(tmp_path)}) as program:
        program.wait_status(2)
        assert f"Cannot open {path}: " in program.stderr_text and not (tmp_path / "log").exists()


# A service ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spool", [False, True])
def test_a_service_takes_files(yard: Yard, tmp_path: Path, spool: bool) -> None:
    incoming = tmp_path / "in"
    port = free_port()
    service = yard.service("--port", port, *(("--spool", "SPOOL") if spool else ()), "--download-dir", incoming)
    with FileSender(port, durable=spool) as sender:
        sender.give(line("before"), *FILE[:12])
        sender.connect()
        sender.send()
        sender.wait_acknowledged()
        (download,) = service.status()["downloads"]
        assert download["name"] == "report.csv" and download["peer"] == "hosta" and download["size"] == len(DATA)
        assert download["offset"] == 11 * CHUNK
        if spool:
            service.restart()
            sender.connect()
        sender.give(*FILE[12:], line("behind"))
        sender.send()
        sender.wait_acknowledged()
        assert service.status()["downloads"] == []
        assert (incoming / "report.csv").read_bytes() == DATA
    if spool:
        consumer = yard.mysocket("attach", "--recv-only", "--json", *service.where)
        wait_until(lambda: consumer.stdout.count(b"\n") == 2, "no messages", 30, consumer)
        assert [json.loads(one)["text"] for one in consumer.stdout.splitlines()] == ["before", "behind"]
