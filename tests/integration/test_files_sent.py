"""Files that are sent by real processes: services that are killed in the middle, sessions that leave, peers that take none.

The side that takes them is real, too (``--download-dir``); what it does with hostile ones is tested elsewhere.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mysocket.core.batch import Kind, Piece
from mysocket.ends.filereader import FileReader
from mysocket.services.upload import PREFIX, Mark
from mysocket.spool.interface import Bookmark
from tests.support.processes import at_terminal, free_port, mysocket, wait_until
from tests.support.service import Client, Service, Yard, yard
from tests.support.spools import close, opened, settle

__all__ = ["yard"]

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(size: int, name: str = "report.bin", *, sparse: bool = False) -> Path:
        path = tmp_path / name
        path.write_bytes(b"" if sparse else os.urandom(size))
        os.truncate(path, size)
        return path

    return make


def downloads(tmp_path: Path) -> Path:
    path = tmp_path / "downloads"
    path.mkdir(exist_ok=True)
    return path


def complete(path: Path) -> list[str]:
    """The files that have their names."""
    return sorted(name for name in os.listdir(path) if not name.startswith("."))


def two(yard: Yard, into: Path, *, spools: bool = True) -> tuple[Service, Service]:
    """A service that sends, and one that takes files."""
    here, hub = free_port(), free_port()
    spool = ("--spool", "SPOOL") if spools else ()
    one = yard.service("--port", here, "--peer", f"127.0.0.1:{hub}", *spool, name="here")
    other = yard.service("--port", hub, "--peer", f"127.0.0.1:{here}", *spool, "--download-dir", into, name="hub")
    one.wait_status(linked=True)
    return one, other


@pytest.mark.parametrize("spools", [False, True])
@pytest.mark.parametrize("size", [0, 1, 30_000_000])
def test_a_file_arrives(yard: Yard, make: Make, tmp_path: Path, spools: bool, size: int) -> None:
    into, path = downloads(tmp_path), make(size)
    here, _ = two(yard, into, spools=spools)
    yard.call("send", *here.where, "--file", path, "--delivered")
    assert complete(into) == ["report.bin"] and (into / "report.bin").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("moment", [0, 2])
def test_a_sending_service_is_killed_in_the_middle(yard: Yard, make: Make, tmp_path: Path, moment: int) -> None:
    """The client finds it again, and each chunk is accepted once: the file is right, and there is one."""
    into, path = downloads(tmp_path), make(60_000_000)
    here, _ = two(yard, into)
    program = yard.mysocket("send", *here.where, "--file", path, "--delivered", "-v")
    with Client(here) as client:

        def accepted() -> bool:
            return client.ask({"do": "status"})["status"]["out"]["accepted"] > moment * 10_000_000

        wait_until(accepted, "nothing is accepted")
    here.kill()
    here.start()
    program.wait_status(0)
    assert "Looking for it again" in program.stderr_text
    assert complete(into) == ["report.bin"] and (into / "report.bin").read_bytes() == path.read_bytes()


def test_the_taking_service_is_killed_in_the_middle(yard: Yard, make: Make, tmp_path: Path) -> None:
    into, path = downloads(tmp_path), make(60_000_000)
    here, hub = two(yard, into)
    program = yard.mysocket("send", *here.where, "--file", path, "--delivered")
    for share in (1, 3):
        with Client(here) as client:
            wait_until(
                lambda client=client, share=share: (
                    client.ask({"do": "status"})["status"]["out"]["acknowledged"]  # type: ignore[misc]
                    > share * 10_000_000
                ),
                "nothing is acknowledged",
            )
        hub.restart()
    program.wait_status(0)
    assert complete(into) == ["report.bin"] and (into / "report.bin").read_bytes() == path.read_bytes()


def test_a_client_that_is_killed_leaves_an_unfinished_transfer_and_nothing_more(yard: Yard, make: Make, tmp_path: Path) -> None:
    into, path = downloads(tmp_path), make(300_000_000, sparse=True)
    here, _ = two(yard, into)
    program = yard.mysocket("send", *here.where, "--file", path)
    with Client(here) as client:
        wait_until(lambda: client.ask({"do": "status"})["status"]["out"]["accepted"] > 5_000_000, "nothing is accepted")
    program.kill(signal.SIGKILL)
    program.wait()
    yard.call("send", *here.where, "--delivered", "hello")
    assert complete(into) == []
    yard.call("send", *here.where, "--file", make(5), "--delivered")
    assert complete(into) == ["report.bin"]


def test_ctrl_c_cancels_it_on_both_sides(yard: Yard, make: Make, tmp_path: Path) -> None:
    into, path = downloads(tmp_path), make(300_000_000, sparse=True)
    here, hub = two(yard, into)
    program = yard.mysocket("send", *here.where, "--file", path)
    with Client(here) as client:
        wait_until(lambda: client.ask({"do": "status"})["status"]["out"]["accepted"] > 5_000_000, "nothing is accepted")
    program.kill(signal.SIGINT)
    program.wait_status(130)
    assert "The transfer is cancelled" in program.stderr_text
    wait_until(lambda: "the sender was interrupted" in hub.log or None, "the hub was not told")
    yard.call("send", *here.where, "--delivered", "hello")
    assert complete(into) == []


def test_a_peer_that_takes_no_files_is_said_at_once_and_messages_go_on(yard: Yard, make: Make) -> None:
    here, hub = free_port(), free_port()
    one = yard.service("--port", here, "--peer", f"127.0.0.1:{hub}", "--spool", "SPOOL", name="here")
    yard.service("--port", hub, "--peer", f"127.0.0.1:{here}", "--spool", "SPOOL", name="hub")
    one.wait_status(linked=True)
    program = yard.call("send", *one.where, "--file", make(1_000_000), status=4)
    assert "takes no files: it was started without --download-dir" in program.stderr_text
    assert "Nothing of it is accepted" in program.stderr_text
    yard.call("send", *one.where, "--delivered", "hello")


def test_what_waits_for_a_peer_that_takes_files_comes_when_it_does(yard: Yard, make: Make, tmp_path: Path) -> None:
    into, path = downloads(tmp_path), make(3_000_000)
    here, hub = free_port(), free_port()
    one = yard.service("--port", here, "--peer", f"127.0.0.1:{hub}", "--spool", "SPOOL", name="here")
    yard.call("send", *one.where, "before")
    yard.call("send", *one.where, "--file", path)
    yard.call("send", *one.where, "behind")
    other = yard.service("--port", hub, "--peer", f"127.0.0.1:{here}", "--spool", "SPOOL", name="hub")
    wait_until(lambda: "and one waits to be sent" in one.log or None, "nobody is told")
    wait_until(lambda: one.status()["out"]["acknowledged"] == 7 or None, "what is before it does not arrive")
    other.args += ["--download-dir", str(into)]
    other.restart()
    wait_until(lambda: one.status()["out"]["waiting_bytes"] == 0 or None, "it does not go on")
    assert (into / "report.bin").read_bytes() == path.read_bytes()
    assert one.log.count("and one waits to be sent") == 1


def test_a_finite_session_ends_with_4_where_one_waits(tmp_path: Path, make: Make) -> None:
    with mysocket("send", "--spool", tmp_path / "spool", "--file", make(1000)) as sent:
        sent.wait_status(0)
    port = free_port()
    peer = f"127.0.0.1:{port}"
    with mysocket("-p", port, "--recv-only", "-k", stdin=b"") as receiver:
        receiver.listening_port()
        with mysocket("--peer", peer, "--spool", tmp_path / "spool", stdin=b"more\n") as sender:
            sender.wait_status(4)
            assert "refused: it takes no files (it was started without --download-dir), and one waits" in sender.stderr_text
    into = downloads(tmp_path)
    with mysocket("-p", port, "--recv-only", "--download-dir", into, stdin=b"") as receiver:
        receiver.listening_port()
        with mysocket("--peer", peer, "--spool", tmp_path / "spool", stdin=b"") as sender:
            sender.wait_status(0)
    assert complete(into) == ["report.bin"]


# Uploads of a session that are gone on with -------------------------------------------------------------------------------------


def asked_for(spool: Path, *paths: Path) -> None:
    """What a session leaves that was asked for files and killed at once."""
    held = opened(spool)
    held.append(Piece(Kind.LINES, 0, b"typed before\n"))
    settle(held)
    for number, path in enumerate(paths):
        reader = FileReader(str(path), bytes(16))
        reader.close()
        mark = Mark(str(path), reader.stamp, 0, 0, float(number))
        held.mark(Bookmark(PREFIX + (b"%016d" % number).hex(), mark.encode()))
    settle(held)
    close(held)


def gone_on(one: Service, times: int) -> None:
    """Wait until the service has said so often that it goes on with a file: it listens before it says so."""
    wait_until(lambda: one.log.count("going on with") == times, f"it does not go on with it:\n{one.log}")


def test_a_service_goes_on_with_what_a_session_has_left_though_it_is_killed(yard: Yard, make: Make, tmp_path: Path) -> None:
    into, path = downloads(tmp_path), make(75_000_000)
    here, hub = free_port(), free_port()
    # The spool is smaller than the file: it is never at its end before the other service is there.
    with_spool = ("--spool", "SPOOL", "--max-spool", "60M")
    one = yard.service("--port", here, "--peer", f"127.0.0.1:{hub}", *with_spool, name="here", start=False)
    asked_for(one.spool, path)
    for kills in range(3):
        one.start()
        gone_on(one, kills + 1)
        with Client(one) as client:
            wait_until(
                lambda client=client, kills=kills: (
                    client.ask({"do": "status"})["status"]["out"]["accepted"]  # type: ignore[misc]
                    > kills * 20_000_000
                ),
                f"nothing is accepted:\n{one.log}",
            )
        one.kill()
    one.start()
    gone_on(one, 4)
    assert f"{path}, of which 0 of 75000000 bytes" in one.log
    other = yard.service("--port", hub, "--peer", f"127.0.0.1:{here}", "--spool", "SPOOL", "--download-dir", into, name="hub")
    wait_until(lambda: complete(into), f"it does not arrive:\n{one.log}\n{other.log}")
    assert (into / "report.bin").read_bytes() == path.read_bytes()
    wait_until(lambda: one.status()["out"]["waiting_bytes"] == 0 or None, "something is left")
    one.restart()
    assert one.log.count("going on with") == 4, "it is done"
    assert complete(into) == ["report.bin"]


def test_a_session_at_a_terminal_goes_on_and_waits_for_it(make: Make, tmp_path: Path) -> None:
    into, path = downloads(tmp_path), make(40_000_000)
    asked_for(tmp_path / "spool", path)
    with mysocket("-p", 0, "--recv-only", "-k", "--download-dir", into, stdin=b"") as receiver:
        peer = f"127.0.0.1:{receiver.listening_port()}"
        with mysocket("--peer", peer, "--spool", tmp_path / "spool", stdin=b"piped\n") as other:
            other.wait_status(0)
            assert f"not sent to its end: {path}, of which 0 of 40000000 bytes are accepted" in other.stderr_text
        assert complete(into) == []
        with at_terminal("--plain-terminal", "--peer", peer, "--spool", tmp_path / "spool") as terminal:
            terminal.wait_text("going on with ")
            terminal.type("EXIT\n")
            assert terminal.wait() == 0, terminal.screen_text
        assert (into / "report.bin").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_session_that_leaves_says_what_the_next_one_goes_on_with(make: Make, tmp_path: Path, how: int) -> None:
    into, path = downloads(tmp_path), make(30_000_000)
    asked_for(tmp_path / "spool", path)
    port = free_port()
    # Nobody takes it, and the spool is small: it cannot come to its end.
    with at_terminal(
        "--plain-terminal", "--peer", f"127.0.0.1:{port}", "--spool", tmp_path / "spool", "--max-spool", "8M"
    ) as terminal:
        terminal.wait_text("going on with ")
        terminal.type("EXIT\n")
        terminal.wait_text("waiting until report.bin")
        terminal.kill(how)
        assert terminal.wait() == 128 + how
        assert "not sent to its end: " in terminal.screen_text and "goes on with it" in terminal.screen_text
    with mysocket("-p", port, "--recv-only", "-k", "--download-dir", into, stdin=b"") as receiver:
        receiver.listening_port()
        with at_terminal("--plain-terminal", "--peer", f"127.0.0.1:{port}", "--spool", tmp_path / "spool") as terminal:
            terminal.wait_text("going on with ")
            terminal.type("EXIT\n")
            assert terminal.wait() == 0, terminal.screen_text
        assert (into / "report.bin").read_bytes() == path.read_bytes()
