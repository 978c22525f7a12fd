"""The link on loopback, with real processes: what goes in at one end comes out at the other, and the status is true."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from mysocket.carriers.build import LAST_RETRY
from tests.support.processes import (
    BANNER,
    CLOSED,
    DEVNULL,
    LINKED,
    LISTENING,
    LISTENING_ANYHOW,
    LOST,
    MYSOCKET,
    PIPE,
    UNDELIVERED,
    Program,
    acquaint,
    at_terminal,
    free_port,
    mysocket,
    pair,
    read_some,
    wait_until,
)


@contextlib.contextmanager
def one_way(
    *send: str, receive: tuple[str, ...] = (), stdin: bytes | Path | int = PIPE, stdout: Path | int = PIPE
) -> Iterator[tuple[Program, Program]]:
    """A `--send-only` sender and a `--recv-only` receiver which know each other, with these further options."""
    with pair(
        ["--send-only", *send],
        ["--recv-only", *receive],
        first_is={"stdin": stdin},
        second_is={"stdin": DEVNULL, "stdout": stdout},
    ) as (sender, receiver):
        yield sender, receiver


def both_end_well(*programs: Program) -> None:
    """Every one of these leaves with 0."""
    for program in programs:
        program.wait_status(0, 60)


# Two ends


@pytest.mark.parametrize("first", [0, 1])
def test_either_may_start_first(first: int) -> None:
    ports = [free_port(), free_port()]
    with contextlib.ExitStack() as stack:
        programs = []
        for index in (first, 1 - first):
            program = stack.enter_context(mysocket(ports[index], "127.0.0.1", ports[1 - index]))
            program.listening_port()  # the second one starts when the first has been dialling in vain for a while
            program.write(f"from {index}\n".encode())
            programs.append(program)
        acquaint(*programs)
        early, late = programs
        late.wait_output(f"from {first}\n".encode())
        early.wait_output(f"from {1 - first}\n".encode())
        for program in programs:
            program.close_stdin()
        both_end_well(early, late)


def test_lines_go_both_ways_in_turn() -> None:
    with pair() as (one, two):
        for number in range(50):
            question, answer = f"question {number}\n".encode(), f"answer {number}\n".encode()
            one.write(question)
            two.wait_output(question)
            two.write(answer)
            one.wait_output(answer)
        one.close_stdin()
        two.close_stdin()
        both_end_well(one, two)
        assert two.stdout == b"".join(b"question %d\n" % n for n in range(50))
        assert one.stdout == b"".join(b"answer %d\n" % n for n in range(50))


def test_the_line_of_a_pipe_that_stays_open_arrives_at_once() -> None:
    with one_way() as (sender, receiver):
        sender.write(b"first\nhalf a li")
        assert receiver.wait_output(b"first\n") in (b"first\n", b"first\nhalf a li")
        sender.write(b"ne\n")
        receiver.wait_output(b"half a line\n")
        sender.close_stdin()
        both_end_well(sender, receiver)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_it_talks_to_itself(host: str) -> None:
    port = free_port()
    with mysocket(port, host, port, stdin=b"to myself\nno newline") as program:
        program.wait_status(0)
        assert program.stdout == b"to myself\nno newline"


def test_the_classic_and_the_named_form_are_the_same() -> None:
    here, there = free_port(), free_port()
    with (
        mysocket(here, "localhost", there, stdin=b"classic\n") as classic,
        mysocket("--port", there, "--peer", f"localhost:{here}", stdin=b"named\n") as named,
    ):
        acquaint(classic, named)
        both_end_well(classic, named)
        assert (classic.stdout, named.stdout) == (b"named\n", b"classic\n")


def test_it_says_where_it_listens_with_whom_it_is_linked_and_that_it_lost_him() -> None:
    with pair() as (one, two):
        assert one.listening_port() != two.listening_port()
        one.wait_line(LINKED)
        two.wait_line(LINKED)
        two.kill()
        one.wait_line(LOST)
        assert re.search(LISTENING, one.stderr_text.splitlines()[0]), "the first line says where it listens"


# What passes unchanged

PAYLOADS: dict[str, Callable[[], bytes]] = {
    "lines": lambda: b"".join(b"line %d\n" % n for n in range(10_000)),
    "nothing": lambda: b"",
    "one newline": lambda: b"\n",
    "empty lines": lambda: b"\n\n\na\n\n",
    "no final newline": lambda: b"first\nlast, without newline",
    "NUL bytes": lambda: b"a\0b\n\0\0\n\0",
    "invalid UTF-8": lambda: b"\xff\xfe\n\xc3\n\x80abc\xed\xa0\x80\n",
    "CR LF": lambda: b"one\r\ntwo\r\rthree\n\r",
    "EXIT": lambda: b"EXIT\nafter it\nEXIT",
    "all bytes": lambda: bytes(range(256)) * 1000,
    "a line of 10 MB": lambda: b"x" * 10_000_000 + b"\nand a short one\n",
    "a batch exactly": lambda: b"y" * (256 * 1024 - 1) + b"\n",
    "a batch and a byte": lambda: b"y" * (256 * 1024) + b"\n",
    "random": lambda: os.urandom(5_000_000),
    "100 MB of zeros": lambda: bytes(100_000_000),
}


FROM_FILES = ("lines", "nothing", "no final newline", "a line of 10 MB", "100 MB of zeros")


@pytest.mark.parametrize(("name", "by"), [(name, "pipe") for name in PAYLOADS] + [(name, "file") for name in FROM_FILES])
def test_what_goes_in_comes_out(name: str, by: str, tmp_path: Path) -> None:
    payload = PAYLOADS[name]()
    given: bytes | Path = payload
    if by == "file":
        given = tmp_path / "input"
        given.write_bytes(payload)
    with one_way(stdin=given, stdout=tmp_path / "copy") as (sender, receiver):
        both_end_well(sender, receiver)
    copy = (tmp_path / "copy").read_bytes()
    assert len(copy) == len(payload)
    assert hashlib.sha256(copy).digest() == hashlib.sha256(payload).digest()


@pytest.mark.parametrize("option", ["--whole", "-0", "--stream"])
@pytest.mark.parametrize("name", ["nothing", "no final newline", "NUL bytes", "random"])
def test_however_the_input_is_cut_the_output_is_the_same(option: str, name: str) -> None:
    payload = PAYLOADS[name]()
    with one_way(option, stdin=payload) as (sender, receiver):
        both_end_well(sender, receiver)
        assert receiver.stdout == payload


# How messages are cut and shown


def records(program: Program) -> list[dict[str, object]]:
    """The JSON objects on stdout, one a line."""
    return [json.loads(line) for line in program.stdout.splitlines()]


def test_json_has_one_object_a_line() -> None:
    given = "plain\n\nünïcode \x1b \0\n".encode() + b"not \xff UTF-8\nlast"
    with one_way(receive=("--json",), stdin=given) as (sender, receiver):
        both_end_well(sender, receiver)
        got = records(receiver)
    assert [record.get("text") for record in got] == ["plain", "", "ünïcode \x1b \0", None, "last"]
    assert base64.b64decode(str(got[3]["base64"])) == b"not \xff UTF-8"
    assert len({record["stream"] for record in got}) == 1
    positions = [int(str(record["position"])) for record in got]
    assert positions == sorted(set(positions)), "every message has a position of its own, in order"
    for record in got:
        assert set(record) == {"time", "peer", "stream", "position", "base64" if "base64" in record else "text"}
        assert record["peer"]
        moment = datetime.fromisoformat(str(record["time"]))
        assert moment.utcoffset() == timedelta(0), "the time is UTC"


def test_whole_makes_one_message_of_the_input() -> None:
    text = "several\nlines\n\nand no last newline"
    with one_way("--whole", receive=("-J",), stdin=text.encode()) as (sender, receiver):
        both_end_well(sender, receiver)
        assert [record["text"] for record in records(receiver)] == [text]


@pytest.mark.parametrize("option", ["-0", "--null"])
def test_null_cuts_at_nul_bytes(option: str) -> None:
    with one_way(option, receive=("--json",), stdin=b"a file\nname\0another\0\0last") as (sender, receiver):
        both_end_well(sender, receiver)
        assert [record["text"] for record in records(receiver)] == ["a file\nname", "another", "", "last"]


def test_stream_passes_what_is_not_yet_a_line() -> None:
    with one_way("--stream") as (sender, receiver):
        sender.write(b"password: ")
        receiver.wait_output(b"password: ")
        sender.close_stdin()
        both_end_well(sender, receiver)
        assert receiver.stdout == b"password: "


@pytest.mark.parametrize("option", ["-T", "--timestamps"])
def test_timestamps_stand_before_each_line(option: str) -> None:
    with one_way(receive=(option,), stdin=b"first\n\nlast\n") as (sender, receiver):
        both_end_well(sender, receiver)
        lines = receiver.stdout.decode().split("\n")
    assert lines.pop() == ""
    moments, texts = zip(*(line.split(" ", 1) if " " in line else (line, "") for line in lines), strict=True)
    assert texts == ("first", "", "last")
    for moment in moments:
        assert datetime.fromisoformat(moment).utcoffset() is not None, "RFC 3339 has the offset"
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:\d\d|Z)", moment)


def test_output_appends_to_a_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"before\n")
    for text in (b"first run\n", b"second run\n"):
        with one_way(receive=("--output", str(log)), stdin=text) as (sender, receiver):
            both_end_well(sender, receiver)
            assert receiver.stdout == b""
    assert log.read_bytes() == b"before\nfirst run\nsecond run\n"


# The four ends


@pytest.mark.parametrize("kind", ["/dev/null", "closed", "recv-only"])
def test_a_node_without_input_leaves_when_the_peer_has_finished(kind: str) -> None:
    given = {"/dev/null": DEVNULL, "closed": CLOSED, "recv-only": PIPE}[kind]
    options = ["--recv-only"] if kind == "recv-only" else []
    with pair(options, first_is={"stdin": given}) as (silent, other):
        other.write(b"all there is\n")
        silent.wait_output(b"all there is\n")
        assert silent.running()
        other.close_stdin()
        both_end_well(silent, other)
        assert other.stdout == b""


def test_recv_only_never_touches_stdin() -> None:
    read, write = os.pipe()
    try:
        os.write(write, b"untouched")
        with pair(["--recv-only"], first_is={"stdin": read}, second_is={"stdin": b"a line\n"}) as (receiver, sender):
            both_end_well(receiver, sender)
        assert read_some(read, 100) == b"untouched"
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("kind", ["file", "pipe", "/dev/null"])
def test_wherever_stdout_goes(kind: str, tmp_path: Path) -> None:
    places: dict[str, Path | int] = {"file": tmp_path / "copy", "pipe": PIPE, "/dev/null": DEVNULL}
    to = places[kind]
    payload = b"a line\n" * 100_000
    with one_way(stdin=payload, stdout=to) as (sender, receiver):
        both_end_well(sender, receiver)
        if kind == "pipe":
            assert receiver.stdout == payload
    if kind == "file":
        assert (tmp_path / "copy").read_bytes() == payload


def test_a_closed_stdout_is_refused_before_anything_is_lost_in_it(tmp_path: Path) -> None:
    for options in ((), ("--output", "-")):
        with mysocket("-p", 0, "--recv-only", *options, stdout=CLOSED) as receiver:
            receiver.wait_status(2)
            assert "stdout" in receiver.stderr_text
    with mysocket("-p", 0, "--recv-only", "--output", tmp_path / "copy", stdout=CLOSED) as receiver:
        port = receiver.listening_port()
        with mysocket("--peer", f"127.0.0.1:{port}", stdin=b"a line\n", stdout=CLOSED) as sender:
            sender.wait_status(2)
        with mysocket("--peer", f"127.0.0.1:{port}", "--send-only", stdin=b"a line\n", stdout=CLOSED) as sender:
            both_end_well(sender, receiver)
    assert (tmp_path / "copy").read_bytes() == b"a line\n"


def test_a_reader_that_has_gone_ends_the_receiver_with_1_and_a_sentence() -> None:
    read, write = os.pipe()
    with one_way(stdout=write) as (sender, receiver):
        os.close(write)
        sender.write(b"first\n")
        try:
            assert read_some(read, 6) == b"first\n"
        finally:
            os.close(read)  # as `head -1` does
        sender.write(b"second\n" * 100_000)
        receiver.wait_status(1)
        assert re.search(r"mysocket: .*(output|stdout|reader)", receiver.stderr_text), receiver.report()
        sender.kill()


def test_a_slow_reader_loses_nothing_and_holds_the_sender_back() -> None:
    read, write = os.pipe()
    payload = os.urandom(1 << 20) * 40
    with one_way(stdin=payload, stdout=write) as (sender, receiver):
        os.close(write)
        sender.wait_line(LINKED)
        digest, total = hashlib.sha256(), 0
        try:
            with pytest.raises(AssertionError, match="has not read its input"):
                sender.wait_input_taken(2)  # 40 MB do not fit into the windows: the input waits
            while data := read_some(read, 1 << 20):
                digest.update(data)
                total += len(data)
        finally:
            os.close(read)
        both_end_well(sender, receiver)
        assert total == len(payload)
        assert digest.digest() == hashlib.sha256(payload).digest()


@pytest.mark.parametrize("how", ["leaves", "is killed"])
def test_descriptors_it_shares_with_others_stay_blocking(how: str) -> None:
    """O_NONBLOCK belongs to the open file description: set there, it would break the shell or the next program on it."""
    (in_read, in_write), (out_read, out_write) = os.pipe(), os.pipe()
    try:
        with one_way(stdin=in_read, stdout=out_write) as (sender, receiver):
            os.write(in_write, b"a line\n")
            assert read_some(out_read, 100) == b"a line\n"
            if how == "is killed":
                sender.kill()
                receiver.kill()
            else:
                os.close(in_write)
                in_write = -1
            sender.wait()
            receiver.wait()
            for shared in (in_read, out_write):
                assert not fcntl.fcntl(shared, fcntl.F_GETFL) & os.O_NONBLOCK
    finally:
        for descriptor in (in_read, in_write, out_read, out_write):
            if descriptor >= 0:
                os.close(descriptor)


# One side dials, the other listens


def test_dial_only_and_listen_only_talk_both_ways() -> None:
    with (
        mysocket("-p", 0, stdin=b"down\n") as hub,
        mysocket("--peer", f"127.0.0.1:{hub.listening_port()}", stdin=b"up\n") as leaf,
    ):
        acquaint(hub, leaf)
        both_end_well(leaf, hub)
        assert (hub.stdout, leaf.stdout) == (b"up\n", b"down\n")


def test_many_senders_into_one_listener() -> None:
    """Twenty processes at once: every line arrives whole and once, those of one sender in order; 0 when all have finished."""
    senders, lines = 20, 300
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(mysocket("-p", 0, "--recv-only"))
        peer = f"127.0.0.1:{hub.listening_port()}"
        nodes = [stack.enter_context(mysocket("--peer", peer, "--send-only")) for _ in range(senders)]
        acquaint(hub, nodes[0])
        for node in nodes:  # all are there before the first one finishes: else the hub might leave before the last has come
            node.wait_line(LINKED, 60)
        for name, node in enumerate(nodes):
            text = [f"sender {name} line {number} {'x' * (number * 37 % 2000)}\n" for number in range(lines)]
            for start in range(0, lines, 10):  # in many writes, so that the streams mix
                node.write("".join(text[start : start + 10]).encode())
        for node in nodes:
            node.close_stdin()
        for node in nodes:
            node.wait_status(0, 60)
        hub.wait_status(0)
        seen: dict[int, int] = {}
        for line in hub.stdout.decode().splitlines():
            match = re.fullmatch(r"sender (\d+) line (\d+) (x*)", line)
            assert match, f"not a whole line: {line[:200]!r}"
            name, number = int(match[1]), int(match[2])
            assert number == seen.get(name, 0), f"sender {name}: line {number} where {seen.get(name, 0)} was due"
            assert len(match[3]) == number * 37 % 2000
            seen[name] = number + 1
        assert seen == dict.fromkeys(range(senders), lines)


def test_a_last_line_without_newline_does_not_join_another_senders_line() -> None:
    with mysocket("-p", 0, "--recv-only") as hub:
        peer = f"127.0.0.1:{hub.listening_port()}"
        with mysocket("--peer", peer, "--send-only") as one, mysocket("--peer", peer, "--send-only") as two:
            acquaint(hub, one, two)
            one.wait_line(LINKED)
            two.wait_line(LINKED)
            one.write(b"one, unended")
            one.close_stdin()
            one.wait_status(0)
            two.write(b"two\n")
            hub.wait_output(b"two\n")
            two.close_stdin()
            both_end_well(two, hub)
            assert hub.stdout.splitlines() == [b"one, unended", b"two"]


def test_keep_open_stays_for_the_next_sender() -> None:
    with mysocket("-p", 0, "--recv-only", "-k") as hub:
        peer = f"127.0.0.1:{hub.listening_port()}"
        for text in (b"first\n", b"second\n"):
            with mysocket("--peer", peer, "--send-only", stdin=text) as sender:
                acquaint(hub, sender)
                sender.wait_status(0)
                hub.wait_output(text)
        assert hub.running()
        hub.kill(signal.SIGTERM)
        hub.wait_status(143)
        assert hub.stdout == b"first\nsecond\n"


def test_unix_sockets_by_endpoint_strings(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with mysocket("--port", f"unix:{path}", stdin=b"down\n") as hub:
        hub.wait_line(LISTENING_ANYHOW)
        assert path.is_socket()
        with mysocket("--peer", f"unix:{path}", stdin=b"up\n") as leaf:
            acquaint(hub, leaf)
            both_end_well(leaf, hub)
            assert (hub.stdout, leaf.stdout) == (b"up\n", b"down\n")


# A peer that goes away


def test_a_receiver_killed_for_good_gives_3_and_names_what_was_not_delivered() -> None:
    with one_way("-w", "5") as (sender, receiver):
        sender.write(b"delivered\n")
        receiver.wait_output(b"delivered\n")
        receiver.kill()
        receiver.wait()
        sender.write(b"not any more\nnor this\n")
        sender.close_stdin()
        sender.wait_status(3)
        assert re.search(UNDELIVERED, sender.stderr_text), sender.report()
        # What was written may have been killed before it was acknowledged.
        assert re.search(r"\b[23]\b messages", sender.stderr_text), sender.report()


def test_a_killed_sender_never_gives_the_receiver_a_0() -> None:
    with one_way(receive=("-w", "2")) as (sender, receiver):
        sender.write(b"the beginning\n")
        receiver.wait_output(b"the beginning\n")
        sender.kill()
        receiver.wait_status(3)
        assert receiver.stdout == b"the beginning\n"


def test_a_new_sender_after_a_killed_one_ends_the_receiver_with_5() -> None:
    here, there = free_port(), free_port()
    with mysocket("-p", here, "--peer", f"127.0.0.1:{there}", "--recv-only") as receiver:
        send = ("-p", there, "--peer", f"127.0.0.1:{here}", "--send-only")
        with mysocket(*send) as killed:
            acquaint(receiver, killed)
            killed.write(b"the beginning\n")
            receiver.wait_output(b"the beginning\n")
            killed.kill()
            killed.wait()
        with mysocket(*send, stdin=b"another stream\n") as fresh:
            acquaint(receiver, fresh)
            receiver.wait_status(5)
            fresh.wait_status(0)
        assert receiver.stdout == b"the beginning\nanother stream\n"


def test_a_restarted_receiver_gets_what_is_left() -> None:
    """What the killed receiver had acknowledged is gone with it; what it had not goes to the next one."""
    here, there = free_port(), free_port()
    with mysocket("-p", here, "--peer", f"127.0.0.1:{there}", "--send-only") as sender:
        receive = ("-p", there, "--peer", f"127.0.0.1:{here}", "--recv-only")
        with mysocket(*receive) as killed:
            acquaint(sender, killed)
            sender.write(b"to the first\n")
            killed.wait_output(b"to the first\n")
            killed.kill()
            killed.wait()
        sender.wait_line(LOST)
        sender.write(b"to the second\n")
        sender.close_stdin()
        with mysocket(*receive) as fresh:
            acquaint(sender, fresh)
            fresh.wait_output(b"to the second\n")
            sender.wait_status(0)
            fresh.wait()
            # The acknowledgement of the first line may have died with its receiver: then, and only then, it comes again.
            assert fresh.stdout in (b"to the second\n", b"to the first\nto the second\n")


# Leaving


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_with_nothing_undelivered(number: int, status: int) -> None:
    with pair() as (one, two):
        one.write(b"a line\n")
        two.wait_output(b"a line\n")
        two.write(b"and back\n")
        one.wait_output(b"and back\n")
        two.kill(number)
        two.wait_status(status)
    with mysocket("-p", 0, "--peer", f"127.0.0.1:{free_port()}") as alone:
        alone.listening_port()
        alone.kill(number)
        alone.wait_status(status)


def test_the_first_sigint_waits_for_what_is_undelivered_and_the_second_leaves() -> None:
    with one_way() as (sender, receiver):
        sender.write(b"a line\n")
        receiver.wait_output(b"a line\n")
        receiver.kill(signal.SIGSTOP)
        sender.write(b"one\ntwo\nthree\n")
        sender.wait_input_taken()
        sender.kill(signal.SIGINT)
        sender.wait_line(UNDELIVERED)
        assert re.search(UNDELIVERED, sender.stderr_text), sender.report()
        assert sender.running()
        sender.kill(signal.SIGINT)
        sender.wait_status(130)


def test_after_the_first_sigint_it_leaves_once_all_is_delivered() -> None:
    with one_way() as (sender, receiver):
        sender.write(b"a line\n")
        receiver.wait_output(b"a line\n")
        receiver.kill(signal.SIGSTOP)
        sender.write(b"the rest\n")
        sender.wait_input_taken()
        sender.kill(signal.SIGINT)
        sender.wait_line(UNDELIVERED)
        receiver.kill(signal.SIGCONT)
        receiver.wait_output(b"the rest\n")
        sender.wait_status(130)


def test_sigterm_leaves_at_once_also_with_messages_undelivered() -> None:
    with one_way() as (sender, receiver):
        sender.write(b"a line\n")
        receiver.wait_output(b"a line\n")
        receiver.kill(signal.SIGSTOP)
        sender.write(b"undelivered\n")
        sender.wait_input_taken()
        sender.kill(signal.SIGTERM)
        sender.wait_status(143)


def test_linger_bounds_the_wait_for_the_peer() -> None:
    with pair(["-q", "500ms"], first_is={"stdin": b"mine\n"}) as (one, two):
        two.wait_output(b"mine\n")
        one.wait_status(0)
        assert two.running()


# At a terminal whose lines the kernel edits; the screen has tests of its own (test_screen.py)


def test_a_conversation_at_two_terminals_and_exit_ends_each() -> None:
    here, there = free_port(), free_port()
    with (
        at_terminal("--plain-terminal", here, "localhost", there) as one,
        at_terminal("--plain-terminal", there, "localhost", here) as two,
    ):
        acquaint(one, two)
        for terminal in (one, two):
            terminal.wait_text(re.escape(BANNER))
            terminal.wait_text(LINKED)
        one.type("hello from one\n")
        two.wait_text(r"(?m)hello from one$")
        two.type("hello from two\n")
        one.wait_text(r"(?m)hello from two$")
        one.type("EXIT\n")
        one.wait_status(0)  # the other one is a person: not waited for
        two.type("EXIT\n")
        two.wait_status(0)
        assert "EXIT" not in two.screen_text.replace("\nEXIT\n", "\n").replace(BANNER, ""), "EXIT is not sent"


def test_exit_at_a_terminal_and_a_peer_without_input() -> None:
    here, there = free_port(), free_port()
    with (
        at_terminal("--plain-terminal", here, "127.0.0.1", there) as person,
        mysocket(there, "127.0.0.1", here, stdin=DEVNULL) as listener,
    ):
        acquaint(person, listener)
        person.wait_text(re.escape(BANNER))
        person.type("one\nEXIT of what?\n exit\nEXIT\n")
        both_end_well(person, listener)
        assert listener.stdout == b"one\nEXIT of what?\n exit\n"


def test_control_d_is_like_exit() -> None:
    here, there = free_port(), free_port()
    with (
        at_terminal("--plain-terminal", here, "127.0.0.1", there) as person,
        mysocket(there, "127.0.0.1", here, stdin=DEVNULL) as listener,
    ):
        acquaint(person, listener)
        person.wait_text(re.escape(BANNER))
        person.type("one\n")
        listener.wait_output(b"one\n")
        person.type("\x04")
        both_end_well(person, listener)


def test_control_c_at_a_terminal() -> None:
    with at_terminal("--plain-terminal", port := free_port(), "127.0.0.1", port) as person:
        person.wait_text(LINKED)
        person.type("\x03")
        person.wait_status(130)


def test_it_talks_to_itself_at_a_terminal() -> None:
    port = free_port()
    with at_terminal("--plain-terminal", port, "localhost", port) as person:
        person.wait_text(LINKED)
        person.type("anybody there?\n")
        person.wait_text(r"anybody there\?\n(.*\n)*?.*anybody there\?\n")  # the echo, then the message
        person.type("EXIT\n")
        person.wait_status(0)


def test_no_banner_without_a_terminal() -> None:
    with one_way(stdin=b"a line\n") as (sender, receiver):
        both_end_well(sender, receiver)
        assert BANNER not in sender.stderr_text + receiver.stderr_text


HOSTILE = b"\x1b[2J\x1b]0;title\x07red\r\x08\x7f \xc2\x9b31m \xe2\x80\xae\xe2\x81\xa6bidi \x9b \xff \x00end of it\n"


def test_control_characters_are_shown_escaped_on_a_terminal() -> None:
    here, there = free_port(), free_port()
    with (
        at_terminal("--plain-terminal", here, "127.0.0.1", there, stderr_apart=True) as person,
        mysocket(there, "127.0.0.1", here) as sender,
    ):
        acquaint(person, sender)
        person.wait_line(LINKED)
        sender.write(HOSTILE + "gr\u00fc\u00df dich, \u4f60\u597d\n".encode())
        person.wait_text("\u4f60\u597d")  # what is printable stays as it is
        shown = person.screen.replace(b"\r\n", b"\n")
        for forbidden in (*(bytes([c]) for c in range(32) if c != 10), b"\x7f", b"\xc2\x9b", b"\xe2\x80\xae", b"\xe2\x81\xa6"):
            assert forbidden not in shown, f"{forbidden!r} reached the terminal: {shown!r}"
        assert "gr\u00fc\u00df dich" in person.screen_text
        assert b"end of it" in shown


def test_control_characters_are_exact_in_a_pipe() -> None:
    with one_way(stdin=HOSTILE) as (sender, receiver):
        both_end_well(sender, receiver)
        assert receiver.stdout == HOSTILE


def test_the_terminal_is_as_it_was_afterwards() -> None:
    with at_terminal("--plain-terminal", port := free_port(), "127.0.0.1", port) as person:
        person.wait_text(re.escape(BANNER))
        before = person.flags()
        person.type("EXIT\n")
        person.wait_status(0)
        assert person.flags() == before


# What bad input gets


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with mysocket("-p", port, "--peer", "127.0.0.1:1") as program:
            program.wait_status(2)
            assert re.search(rf"mysocket: .*{port}.*(in use|taken)|mysocket: .*(in use|taken).*{port}", program.stderr_text), (
                program.report()
            )


def test_an_unknown_host_with_a_limit() -> None:
    with mysocket("-p", 0, "--peer", "no-such-host.invalid:9000", "-w", 2) as program:
        program.listening_port()  # never waits for DNS before listening
        program.wait_status(3, 4)
        assert "no-such-host.invalid" in program.stderr_text


def test_a_refused_connection_with_a_limit() -> None:
    with mysocket("--peer", f"127.0.0.1:{free_port()}", "-w", 2, stdin=b"for nobody\n") as program:
        program.wait_status(3)
        assert re.search(r"(?i)refused", program.stderr_text), program.report()
        assert re.search(UNDELIVERED, program.stderr_text), program.report()


def test_the_habit_of_nc_gets_the_right_form() -> None:
    with mysocket("example.org", 9000) as program:
        program.wait_status(2)
        assert re.search(r"--peer", program.stderr_text), program.report()
        assert program.stdout == b""


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("-p", "70000"),
        ("-p", "no port"),
        ("--peer", "no port"),
        ("--no-such-option",),
        ("--pee", "localhost:9"),
        ("1", "b", "2", "3"),
    ],
)
def test_usage_errors(args: tuple[str, ...]) -> None:
    with mysocket(*args, stdin=DEVNULL) as program:
        program.wait_status(2)
        assert "mysocket" in program.stderr_text
        assert program.stdout == b""


def test_version_and_help_are_answers_not_errors() -> None:
    for option in ("--version", "--help", "-h"):
        with mysocket(option, stdin=DEVNULL) as program:
            program.wait_status(0)
            assert program.stdout
            assert program.stderr_text == ""


# Strangers

needs_nc = pytest.mark.skipif(shutil.which("nc") is None, reason="nc is missing (apt-get install netcat-openbsd)")


@needs_nc
def test_a_stranger_gets_one_line_and_the_real_sender_still_gets_through() -> None:
    with mysocket("-p", 0, "--recv-only") as receiver:
        port = receiver.listening_port()
        with Program(["nc", "127.0.0.1", str(port)], stdin=b"GET / HTTP/1.0\r\n\r\n") as stranger:
            acquaint(receiver, stranger)
            stranger.wait()  # without -N nc keeps its side open and waits for the other's end: the receiver closed
            assert re.fullmatch(rb"[^\n]*(?i:mysocket)[^\n]*\n", stranger.stdout), stranger.stdout
        with mysocket("--peer", f"127.0.0.1:{port}", "--send-only", stdin=b"a friend\n") as sender:
            acquaint(receiver, sender)
            both_end_well(sender, receiver)
        assert receiver.stdout == b"a friend\n"


def test_a_stranger_with_garbage_after_the_magic_is_closed() -> None:
    with mysocket("-p", 0, "--recv-only") as receiver:
        port = receiver.listening_port()
        for garbage in (
            b"\xff" * 4,
            b"\xff\xff\xff\xff\x01",
            b"\0\0\0\0",
            b"\0\0\0\x05\x63abcd",
            b"\0\0\0\x05\x01nope",
            os.urandom(5000),
        ):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
                with contextlib.suppress(OSError):
                    stranger.sendall(b"\x89MSK\r\n\x1a\x01" + garbage)
                    stranger.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while stranger.recv(4096):
                        pass
        with mysocket("--peer", f"127.0.0.1:{port}", "--send-only", stdin=b"a friend\n") as sender:
            acquaint(receiver, sender)
            both_end_well(sender, receiver)
        assert receiver.stdout == b"a friend\n"


def test_silent_strangers_do_not_keep_a_good_peer_out() -> None:
    with mysocket("-p", 0, "--recv-only") as receiver, contextlib.ExitStack() as stack:
        port = receiver.listening_port()
        strangers = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(200)]
        wait_until(lambda: sum(map(still_open, strangers)) <= 8, "more than 8 strangers are held", 10, receiver)
        begun = time.monotonic()
        with mysocket("--peer", f"127.0.0.1:{port}", "--send-only", stdin=b"a friend\n") as sender:
            acquaint(receiver, sender)
            # At most 10 s for the handshakes that never come, and one more turn of the back-off.
            sender.wait_status(0, 15 + LAST_RETRY)
            receiver.wait_status(0)
        assert time.monotonic() - begun < 15 + LAST_RETRY
        assert receiver.stdout == b"a friend\n"


def still_open(connection: socket.socket) -> bool:
    """False once the other side has closed; nothing was sent to us before that."""
    if not select.select([connection], [], [], 0)[0]:
        return True
    try:
        data = connection.recv(1)
    except ConnectionResetError:
        return False
    assert data == b"", "a silent stranger was told something"
    return False


def test_two_shells_and_a_pipe() -> None:
    """The command lines of the documentation, given to a real shell."""
    here, there = free_port(), free_port()
    program = shlex.join(MYSOCKET)
    with (
        Program(
            ["/bin/sh", "-c", f"{program} -p {there} --peer 127.0.0.1:{here} --recv-only | wc -l"], stdin=DEVNULL, group=True
        ) as counting,
        Program(
            ["/bin/sh", "-c", f"seq 100000 | {program} -p {here} --peer 127.0.0.1:{there} --send-only && echo sent"],
            stdin=DEVNULL,
            group=True,
        ) as sending,
    ):
        acquaint(counting, sending)
        both_end_well(counting, sending)
        assert counting.stdout.strip() == b"100000"
        assert sending.stdout == b"sent\n"


def test_the_head_of_a_pipe_in_a_real_shell() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is missing: PIPESTATUS tells the status of the receiver")
    here, there = free_port(), free_port()
    receive = f"{shlex.join(MYSOCKET)} -p {there} --peer 127.0.0.1:{here} --recv-only"
    with (
        Program([bash, "-c", f"{receive} | head -1; exit ${{PIPESTATUS[0]}}"], stdin=DEVNULL, group=True) as receiver,
        mysocket("-p", here, "--peer", f"127.0.0.1:{there}", "--send-only", "-w", 2) as sender,
    ):
        acquaint(receiver, sender)
        sender.write(b"the head\n")
        receiver.wait_output(b"the head\n")
        sender.write(b"more\n" * 200_000)
        receiver.wait_status(1)
        sender.wait_status(3)
        assert receiver.stdout == b"the head\n"


def test_exit_with_something_undelivered_says_what_is_waited_for() -> None:
    with at_terminal("--plain-terminal", "-p", 0, "--peer", f"127.0.0.1:{free_port()}") as terminal:
        terminal.wait_text(re.escape(BANNER))
        terminal.type("for nobody yet\n")
        terminal.type("EXIT\n")
        terminal.wait_text(r"1 message \(15 bytes\) not delivered yet; waiting for 127.0.0.1")
        terminal.type("\x03")
        terminal.wait_text("Interrupt again")
        terminal.type("\x03")
        assert terminal.wait() == 130
