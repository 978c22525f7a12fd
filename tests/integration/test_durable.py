"""Spools with real processes: what a run leaves is sent by the next; one process holds a spool; the output file."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from mysocket.spool.lock import open_directory
from mysocket.spool.store import FILES, State, Store
from tests.support.processes import DEVNULL, LINKED, PIPE, Program, acquaint, at_terminal, free_port, mysocket, pair, wait_until

LINES = b"".join(b"%d\n" % number for number in range(1000))


def state(spool: Path) -> State:
    """What a spool that nobody holds says."""
    directory = open_directory(str(spool), role="spool", create=False, known=FILES)
    try:
        store = Store(directory, 1024**2, readonly=True)
        try:
            return store.state()
        finally:
            store.close()
    finally:
        directory.close()


def receiver(port: int, directory: Path, *options: str | Path, spool: str = "b") -> Program:
    return mysocket("-p", port, "--recv-only", "--spool", directory / spool, *options, stdin=DEVNULL)


# From one run to the next -------------------------------------------------------------------------------------------------------


def test_a_run_without_a_peer_keeps_everything_and_the_next_delivers_it(tmp_path: Path) -> None:
    port = free_port()
    to = ("--peer", f"127.0.0.1:{port}", "--spool", tmp_path / "a")
    with mysocket(*to, "-w", "0.3", stdin=LINES) as first:
        first.wait_status(3)
    assert f"1000 messages ({len(LINES)} bytes)" in first.stderr_text and f"kept in {tmp_path / 'a'}" in first.stderr_text
    kept = state(tmp_path / "a")
    assert (kept.input_size, kept.input_complete, kept.end) == (len(LINES), True, len(LINES) + 1)
    with receiver(port, tmp_path, "--output", tmp_path / "out") as hub, mysocket(*to, stdin=DEVNULL) as second:
        acquaint(hub, second)
        second.wait_status(0)
        hub.wait_status(0)
    assert (tmp_path / "out").read_bytes() == LINES
    assert state(tmp_path / "a").retired == len(LINES) + 1


def test_the_backlog_goes_first_and_then_the_own_input(tmp_path: Path) -> None:
    port = free_port()
    to = ("--peer", f"127.0.0.1:{port}", "--spool", tmp_path / "a")
    for word in (b"one\n", b"two\n"):
        with mysocket(*to, "-w", "0.2", stdin=word) as sender:
            sender.wait_status(3)
    with receiver(port, tmp_path) as hub, mysocket(*to, stdin=b"three\n") as sender:
        sender.wait_status(0)
        hub.wait_status(0)
    assert hub.stdout == b"one\ntwo\nthree\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_at_once_and_says_what_is_kept_where(tmp_path: Path, number: int, status: int) -> None:
    with mysocket("--peer", f"127.0.0.1:{free_port()}", "--spool", tmp_path / "a", stdin=PIPE) as sender:
        sender.write(b"one\ntwo\nthr")
        sender.wait_input_taken()
        sender.kill(number)
        sender.wait_status(status)
    assert "2 messages (8 bytes)" in sender.stderr_text and f"kept in {tmp_path / 'a'}" in sender.stderr_text
    kept = state(tmp_path / "a")
    assert (kept.input_size, kept.input_complete) == (8, False), "half a line is not accepted"


def test_an_input_that_was_broken_off_goes_on_in_the_next_run(tmp_path: Path) -> None:
    port = free_port()
    to = ("--peer", f"127.0.0.1:{port}", "--spool", tmp_path / "a")
    with mysocket(*to, stdin=PIPE) as sender:
        sender.write(LINES[:2000])
        sender.wait_input_taken()
        sender.kill(signal.SIGTERM)
        sender.wait_status(143)
    accepted = state(tmp_path / "a").input_size
    assert 0 < accepted <= 2000
    with receiver(port, tmp_path, "--output", tmp_path / "out") as hub, mysocket(*to, stdin=LINES[accepted:]) as sender:
        sender.wait_status(0)
        hub.wait_status(0)
    assert (tmp_path / "out").read_bytes() == LINES
    kept = state(tmp_path / "a")
    assert (kept.input_size, kept.input_complete) == (len(LINES), True)


def test_nothing_to_send_and_nothing_to_take_is_done_at_once(tmp_path: Path) -> None:
    with mysocket("--peer", f"127.0.0.1:{free_port()}", "--send-only", "--spool", tmp_path / "a", stdin=DEVNULL) as sender:
        sender.wait_status(0)


def test_recv_only_leaves_the_backlog_where_it_is(tmp_path: Path) -> None:
    port = free_port()
    to = ("--peer", f"127.0.0.1:{port}", "--spool", tmp_path / "a")
    with mysocket(*to, "-w", "0.2", stdin=b"kept\n") as sender:
        sender.wait_status(3)
    with mysocket("-p", port, "-k", stdin=b"hello\n") as hub, mysocket(*to, "--recv-only") as other:
        other.wait_status(0)
        assert "with --recv-only they are not sent" in other.stderr_text
        assert hub.stdout == b"" and other.stdout == b"hello\n"
    assert state(tmp_path / "a").retired == 0


def test_both_directions_survive_a_kill_of_both(tmp_path: Path) -> None:
    options = [["--spool", str(tmp_path / name), "--output", str(tmp_path / f"{name}.out")] for name in "ab"]
    here, there = free_port(), free_port()
    ports = [("-p", here, "--peer", f"127.0.0.1:{there}"), ("-p", there, "--peer", f"127.0.0.1:{here}")]
    with mysocket(*ports[0], *options[0], stdin=PIPE) as one, mysocket(*ports[1], *options[1], stdin=PIPE) as two:
        for program in (one, two):
            program.write(LINES)
        for name in "ab":
            wait_until((tmp_path / f"{name}.out").exists, "no output", 30, one, two)
            wait_until(lambda name=name: (tmp_path / f"{name}.out").stat().st_size, "nothing arrives", 30, one, two)  # type: ignore[misc]
        for program in (one, two):
            program.kill()
            program.wait()
    rest = [LINES[state(tmp_path / name).input_size :] for name in "ab"]
    with mysocket(*ports[0], *options[0], stdin=rest[0]) as one, mysocket(*ports[1], *options[1], stdin=rest[1]) as two:
        acquaint(one, two)
        one.wait_status(0)
        two.wait_status(0)
    assert [(tmp_path / f"{name}.out").read_bytes() for name in "ab"] == [LINES, LINES]


def test_a_person_with_a_spool_leaves_with_one_interrupt(tmp_path: Path) -> None:
    with at_terminal("--plain-terminal", "--peer", f"127.0.0.1:{free_port()}", "--spool", tmp_path / "a") as person:
        person.wait_text("Type EXIT")
        person.type("hello\n")
        spool = tmp_path / "a" / "spool.mdb"
        wait_until(lambda: b"hello\n" in spool.read_bytes(), "the line is not kept", 30, person)
        person.type("\x03")
        person.wait_status(130)
        assert "1 message (6 bytes)" in person.screen_text


# One process holds a spool ------------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with receiver(0, tmp_path) as first:
        first.listening_port()
        with receiver(0, tmp_path) as second:
            second.wait_status(2)
    assert f"process {first.pid} (session)" in second.stderr_text


@pytest.mark.parametrize("options", [("--raw",), ("--udp",)])
def test_no_spool_without_acknowledgements(tmp_path: Path, options: tuple[str, ...]) -> None:
    with receiver(0, tmp_path, *options) as program:
        program.wait_status(2)
    assert not (tmp_path / "b").exists()


def test_a_directory_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "letter").write_text("dear")
    with receiver(0, tmp_path) as program:
        program.wait_status(2)
    assert os.listdir(tmp_path / "b") == ["letter"]


def test_a_file_that_is_no_spool(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir(mode=0o700)
    (tmp_path / "b" / "spool.mdb").write_bytes(b"x" * 100_000)
    (tmp_path / "b" / "spool.mdb").chmod(0o600)
    with receiver(0, tmp_path) as program:
        program.wait_status(2)
    assert "damaged" in program.stderr_text


# The output file ----------------------------------------------------------------------------------------------------------------


def test_what_was_in_the_file_before_stays(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"before\n")
    with receiver(0, tmp_path, "--output", tmp_path / "out") as hub:
        with mysocket("--peer", f"127.0.0.1:{hub.listening_port()}", stdin=b"new\n") as sender:
            sender.wait_status(0)
        hub.wait_status(0)
    assert (tmp_path / "out").read_bytes() == b"before\nnew\n"


def test_a_tail_that_was_not_committed_goes_when_the_sender_has_it(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "out"
    to = ("--peer", f"127.0.0.1:{port}", "--spool", tmp_path / "a")
    with receiver(port, tmp_path, "--output", out, "-k") as hub, mysocket(*to, stdin=b"one\n") as sender:
        sender.wait_status(0)
        hub.kill(signal.SIGINT)
        hub.wait()
    with out.open("ab") as file:
        file.write(b"tw")  # as a process leaves it that is killed while it writes
    with receiver(port, tmp_path, "--output", out) as hub:
        hub.listening_port()
        assert out.read_bytes() == b"one\ntw", "nothing goes before somebody has agreed to hold it"
        with mysocket(*to, stdin=b"two\n") as sender:
            sender.wait_status(0)
        hub.wait_status(0)
    assert out.read_bytes() == b"one\ntwo\n"


def test_a_file_that_was_cut_is_a_loss(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "out"
    to = ("--peer", f"127.0.0.1:{port}", "--spool", tmp_path / "a")
    with receiver(port, tmp_path, "--output", out) as hub, mysocket(*to, stdin=b"one\ntwo\n") as sender:
        sender.wait_status(0)
        hub.wait_status(0)
    os.truncate(out, 4)
    with receiver(port, tmp_path, "--output", out) as hub:
        hub.wait_status(5)
    assert "has 4 bytes, but 8 were written" in hub.stderr_text
    with receiver(port, tmp_path, "--output", out, "--accept-loss") as hub, mysocket(*to, stdin=b"three\n") as sender:
        sender.wait_status(0)
        hub.wait_status(0)
    assert out.read_bytes() == b"one\nthree\n"


def test_a_file_that_was_moved_away_meanwhile(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "out"
    to = ("--peer", f"127.0.0.1:{port}", "--spool", tmp_path / "a")
    for word in (b"one\n", b"two\n"):
        with receiver(port, tmp_path, "--output", out) as hub, mysocket(*to, stdin=word) as sender:
            sender.wait_status(0)
            hub.wait_status(0)
        if word == b"one\n":
            out.rename(tmp_path / "out.1")
    assert "another file than before" in hub.stderr_text
    assert (tmp_path / "out.1").read_bytes() == b"one\n" and out.read_bytes() == b"two\n"


@pytest.mark.parametrize("durable", [True, False])
def test_sighup_goes_on_in_a_new_file(tmp_path: Path, durable: bool) -> None:
    out = tmp_path / "out"
    spools = [["--spool", str(tmp_path / name)] for name in "ab"] if durable else [[], []]
    with pair(
        [*spools[0], "--send-only"], [*spools[1], "--output", str(out), "--recv-only"], second_is={"stdin": DEVNULL}
    ) as both:
        sender, hub = both
        sender.write(b"one\n")
        wait_until(lambda: out.exists() and out.read_bytes() == b"one\n", "the first line", 30, hub)
        out.rename(tmp_path / "out.1")
        hub.kill(signal.SIGHUP)
        wait_until(out.exists, "no new file", 30, hub)
        sender.write(b"two\n")
        sender.close_stdin()
        sender.wait_status(0)
        hub.wait_status(0)
    assert (tmp_path / "out.1").read_bytes() == b"one\n" and out.read_bytes() == b"two\n"


def test_somebody_else_who_writes_to_the_file_is_noticed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = (
        ["--spool", str(tmp_path / "a"), "--send-only"],
        ["--spool", str(tmp_path / "b"), "--output", str(out), "--recv-only"],
    )
    with pair(*options, second_is={"stdin": DEVNULL}) as (sender, hub):
        sender.write(b"one\n")
        wait_until(lambda: out.exists() and out.read_bytes() == b"one\n", "the first line", 30, hub)
        with out.open("ab") as file:
            file.write(b"graffiti\n")
        sender.write(b"two\n")
        hub.wait_status(5)
    assert "something else writes to it" in hub.stderr_text


def test_two_receivers_do_not_share_a_file(tmp_path: Path) -> None:
    with receiver(0, tmp_path, "--output", tmp_path / "out") as first:
        first.listening_port()
        with receiver(0, tmp_path, "--output", tmp_path / "out", spool="other") as second:
            second.wait_status(2)
    assert "another mysocket writes to it" in second.stderr_text


def test_a_spool_and_an_output_that_is_no_file(tmp_path: Path) -> None:
    with receiver(0, tmp_path, "--output", "/dev/null") as hub:
        with mysocket("--peer", f"127.0.0.1:{hub.listening_port()}", "--spool", tmp_path / "a", stdin=LINES) as sender:
            sender.wait_status(0)
        hub.wait_status(0)


def test_json_marks_what_a_killed_process_may_have_written(tmp_path: Path) -> None:
    port = free_port()
    to = ("--peer", f"127.0.0.1:{port}", "--spool", tmp_path / "a")
    with receiver(port, tmp_path, "--json", "-k") as hub, mysocket(*to, stdin=b"one\n") as sender:
        sender.wait_status(0)
        hub.kill()
        hub.wait()
    marked = []
    for data in (b"two\n", b"%s\n" % (b"x" * 99) * 50_000):  # the second reaches beyond the 4 MiB that may come again
        with receiver(port, tmp_path, "--json") as hub, mysocket(*to, stdin=data) as sender:
            sender.wait_status(0)
            hub.wait_status(0)
        marked += [json.loads(line).get("maybe_repeat", False) for line in hub.stdout.splitlines()]
    assert marked[0] and marked[1], "a run that leaves cleanly does not settle what the killed one has written"
    assert marked == sorted(marked, reverse=True) and not marked[-1]


def test_many_senders_into_one_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with receiver(0, tmp_path, "--output", out, "-k") as hub:
        port = hub.listening_port()
        lines = [b"".join(b"%d %d\n" % (sender, number) for number in range(2000)) for sender in range(3)]
        senders = [
            mysocket("--peer", f"127.0.0.1:{port}", "--spool", tmp_path / f"s{number}", stdin=data)
            for number, data in enumerate(lines)
        ]
        try:
            for sender in senders:
                sender.wait_line(LINKED)
            for sender in senders:
                sender.wait_status(0)
        finally:
            for sender in senders:
                sender.close()
    found = out.read_bytes().splitlines(keepends=True)
    assert [b"".join(line for line in found if line.startswith(b"%d " % sender)) for sender in range(3)] == lines
