"""Crashes at every label of docs/promise.md, with real processes: what was accepted comes out, in order, once.

Each label with each of these:

kill   the process that passes the label dies
cut    and every connection is reset at that moment, with what is on the way
both   and the other process is killed at that moment too
twice  and when it is run again, it dies at the same label again

Then both run without labels until the sender leaves with 0. The input is given again from where its spool says it was accepted.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest

from mysocket.core.reader import FrameReader
from mysocket.core.wire import Frame
from mysocket.failpoints import LABELS
from mysocket.spool.ledger import MAX_REPEAT
from mysocket.spool.store import CONTROL
from tests.soak.messages import compare
from tests.support.crashes import Pair
from tests.support.disks import failing_sync, small_disk
from tests.support.processes import PIPE, ROOT, mysocket, wait_until
from tests.support.service import Client

HOW = ("kill", "cut", "both", "twice")
SENDER = ("S0", "S1", "S2", "S3", "S4", "S5", "S6", "S7")
RECEIVER = ("R1", "R2", "R3", "R4", "R5", "R6", "R7")
#: What both pass: in some of the runs the one dies there, in some the other.
EITHER = ("H1", "H2")
#: Passages after the first at which the labels kill in some of the runs; so many there are with any timing.
LATER = {"S0": 3, "S4": 4, "S5": 2, "R1": 3, "R4": 2}


def lines(size: int, seed: int = 0) -> bytes:
    """About so many bytes of numbered lines, empty ones and one longer than a batch among them."""
    choose = random.Random(seed)
    made: list[bytes] = []
    total = 0
    while total < size:
        made.append(b"" if choose.random() < 0.1 else b"%d %s" % (len(made), b"x" * choose.randrange(2000)))
        total += len(made[-1]) + 1
    made.insert(len(made) // 2, b"long " + b"y" * 300_000)
    return b"\n".join(made) + b"\n"


DATA = lines(1_200_000)


def crash(pair: Pair, victim: str, label: str, how: str = "kill") -> None:
    """Run what does not run, the victim with the label, and wait until that has killed it."""
    for relay in pair.relays:
        relay.abrupt = how == "cut"
    pair.start(**{victim: label})


def dies(pair: Pair, victim: str, how: str = "kill") -> None:
    """The victim dies at its label, and with it what else is to go; the sender does not leave by itself."""
    one, other = (pair.sender, pair.receiver) if victim == "sender" else (pair.receiver, pair.sender)
    status = pair.over(one)
    for relay in pair.relays:
        if how == "cut":
            relay.reset()
        relay.abrupt = False
    assert status == -signal.SIGKILL, f"status {status} instead of a kill\n{one.report()}"
    if how == "both":
        assert pair.kill(other) == -signal.SIGKILL, f"it had ended before\n{other.report()}"
    else:
        assert other.running(), f"it does not run any more\n{other.report()}"


def ends_well(pair: Pair, data: bytes) -> None:
    """Without labels the sender gets rid of everything: the file is what was given, and stays so."""
    pair.start()
    pair.feed(data)
    pair.sender.wait_status(0, 60)
    assert same(pair.output.read_bytes(), data), pair.sender.report()
    pair.receiver.kill(signal.SIGTERM)
    pair.receiver.wait_status(143)
    assert same(pair.output.read_bytes(), data), pair.receiver.report()
    state = pair.sender_spool.state()
    assert state is not None and state.retired == state.end and state.input_complete
    assert [(entry.mark.position, entry.mark.at_end) for entry in pair.receiver_spool.received()] == [(state.end, True)]


def same(found: bytes, wanted: bytes) -> bool:
    """Equal; else it is said where not. Pytest would take a minute to show it."""
    if found == wanted:
        return True
    at = next((index for index, (one, two) in enumerate(zip(found, wanted, strict=False)) if one != two), None)
    print(f"{len(found)} bytes instead of {len(wanted)}, different from byte {at} on")
    if at is not None:
        print(f"found {found[at - 50 : at + 50]!r}\nwanted {wanted[at - 50 : at + 50]!r}")
    return False


# What the table of docs/promise.md says of the spools after a first passage.


def accepted(pair: Pair) -> int:
    state = pair.sender_spool.state()
    return state.end if state is not None else 0


def received(pair: Pair) -> int:
    return max((entry.mark.position for entry in pair.receiver_spool.received()), default=0)


def written(pair: Pair) -> int:
    return pair.output.stat().st_size


AFTER: dict[str, Callable[[Pair], bool]] = {
    "S0": lambda pair: accepted(pair) == 0,
    "S1": lambda pair: accepted(pair) == 0,
    "S3": lambda pair: accepted(pair) > 0,
    "S6": lambda pair: (state := pair.sender_spool.state()) is not None and state.retired == 0,
    "S7": lambda pair: (state := pair.sender_spool.state()) is not None and state.retired > 0,
    "R1": lambda pair: received(pair) == 0 and written(pair) == 0,
    "R3": lambda pair: received(pair) > 0 and written(pair) > 0,
    "R5": lambda pair: received(pair) == 0 and written(pair) == 0,
    "R6": lambda pair: received(pair) == 0 and 0 < written(pair) < len(DATA),
    "R7": lambda pair: received(pair) == 0 and written(pair) > 0,
}


CASES = [
    *(("sender", label, how) for label in SENDER for how in HOW),
    *(("receiver", label, how) for label in RECEIVER for how in HOW),
    *((victim, label, how) for label in EITHER for how, victim in zip(HOW, ("sender", "receiver") * 2, strict=True)),
    ("receiver", "H2", "kill"),
]


@pytest.mark.parametrize(("victim", "label", "how"), CASES)
def test_the_file_has_everything_once(victim: str, label: str, how: str, tmp_path: Path) -> None:
    passage = LATER.get(label, 1) if how == "both" else 1
    # Both connections stand only after a while, and there must be something left to commit for the second time.
    parts = [DATA] if how in ("kill", "both") and label != "H2" else [DATA[:800_000], DATA[:1_400_000]]
    with Pair(tmp_path) as pair:
        for part in parts if how == "twice" else parts[:1]:
            crash(pair, victim, f"{label}:{passage}", how)
            pair.feed(part, end=part is DATA)
            dies(pair, victim, how)
            if passage == 1 and part is parts[0] and label in AFTER:
                assert AFTER[label](pair), f"{label}: the spools say something else\n{pair.sender.report()}"
        ends_well(pair, DATA)


@pytest.mark.parametrize("how", HOW)
def test_r8_the_row_of_a_sender_without_a_spool_is_trimmed_later(how: str, tmp_path: Path) -> None:
    """It has said that its input has ended and is acknowledged, and has left."""
    times = 2 if how == "twice" else 1
    with Pair(tmp_path, durable_sender=False) as pair:
        for _ in range(times):
            crash(pair, "receiver", "R8", how)
            pair.feed(DATA)
            assert pair.over(pair.receiver) == -signal.SIGKILL
            for relay in pair.relays if how == "cut" else []:
                relay.reset()
            if how == "both":
                pair.kill(pair.sender)
            else:
                pair.sender.wait_status(0)
            assert [entry.mark.at_end for entry in pair.receiver_spool.received()] == [True]
        pair.start()
        pair.feed(DATA)
        pair.sender.wait_status(0)
        assert same(pair.output.read_bytes(), DATA * (times + 1))
        pair.receiver.kill(signal.SIGTERM)
        pair.receiver.wait_status(143)
        assert pair.receiver_spool.received() == []


def test_s4_leaves_part_of_a_frame_on_the_wire() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        port = listener.getsockname()[1]
        with mysocket("--peer", f"127.0.0.1:{port}", "--send-only", stdin=PIPE, env={"MYSOCKET_CRASH_AT": "S4"}) as sender:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as stream:
                part = stream.read()
            assert sender.wait() == -signal.SIGKILL
    frames: list[Frame] = []
    FrameReader().feed(part, frames)
    assert part and not frames


@pytest.mark.parametrize("hub", [False, True], ids=["one peer", "hub"])
def test_inputs_without_a_last_end_of_line_follow_each_other_as_they_are(hub: bool, tmp_path: Path) -> None:
    """A stream that comes back is no other one, whatever was killed meanwhile."""
    with Pair(tmp_path, hub=hub) as pair:
        for number in range(3):
            pair.begin_input()
            pair.start()
            pair.feed(b"no end")
            pair.sender.wait_status(0)
            if number == 1:
                pair.kill(pair.receiver)
        assert pair.output.read_bytes() == b"no endno endno end"


# A service: the inbox

#: Labels that a service passes, and at which passage: a consumer that comes is the first who passes R8.
INBOX = {"R1": 2, "R2": 1, "R3": 2, "R4": 2, "R8": 2}


def messages(data: bytes) -> list[dict[str, object]]:
    """The whole lines of what --json wrote."""
    return [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


def same_messages(found: list[dict[str, object]]) -> bool:
    """Every message of DATA once, in order, each at its position in the inbox."""
    positions = [one["position"] for one in found]
    ends = [len(line) for line in DATA.splitlines(keepends=True)]
    assert positions == list(accumulate(ends)), "positions"
    return same("".join(f"{one['text']}\n" for one in found).encode(), DATA)


@pytest.mark.parametrize("how", ["kill", "twice"])
@pytest.mark.parametrize("label", sorted(INBOX))
def test_the_inbox_has_everything_once(label: str, how: str, tmp_path: Path) -> None:
    """For one who reads it all the time, and goes on where it was; and for one who has read nothing yet."""
    with Pair(tmp_path, to_file=False, service=True) as pair:
        pair.start_receiver(crash_at=f"{label}:{INBOX[label]}")
        reader = pair.consumer("reader")
        if label != "R8":
            with Client(pair.receiver_spool.path / CONTROL) as late:
                late.ask({"do": "attach", "as": "late", "from": "oldest"})
        parts = [DATA[:800_000], DATA[:1_400_000]] if how == "twice" else [DATA]
        for part in parts:
            crash(pair, "receiver", label)
            pair.feed(part, end=part is DATA)
            assert pair.over(pair.receiver) == -signal.SIGKILL, pair.report()
        pair.start()
        pair.feed(DATA)
        pair.sender.wait_status(0, 60)
        wait_until(lambda: reader.stdout.count(b"\n") >= DATA.count(b"\n"), "not all is read", 30, reader, pair.receiver)
        assert same_messages(messages(reader.stdout))
        reader.kill(signal.SIGTERM)
        reader.wait_status(143)
        assert same_messages(messages(reader.stdout))
        pair.receiver.kill(signal.SIGTERM)
        pair.receiver.wait_status(-signal.SIGTERM)  # so twistd ends
        kept = pair.receiver_spool.inbox()
        assert kept.end == len(DATA) and kept.consumers["reader"].position == len(DATA)
        assert kept.begin == (len(DATA) if label == "R8" else 0)
        with mysocket("spool", pair.receiver_spool.path, "--inbox", "--json") as listing:
            listing.wait_status(0)
            assert label == "R8" and listing.stdout == b"" or same_messages(messages(listing.stdout))


# At least once: stdout

LONG = lines(6_000_000, seed=1)


def progress(pair: Pair) -> int:
    """What the receiver has committed, in bytes of the one input."""
    return min(received(pair), len(LONG))


@pytest.mark.parametrize(("victim", "label"), [("receiver", label) for label in ("R3", "R6", "R7", "R7:3")] + [("sender", "S5")])
def test_stdout_repeats_only_what_was_not_committed(victim: str, label: str, tmp_path: Path) -> None:
    """Each process goes on at the position that the one before has committed, byte for byte."""
    begins = [0]
    with Pair(tmp_path, to_file=False) as pair:
        for part in LONG[:4_000_000], LONG[:5_000_000]:
            crash(pair, victim, label)
            pair.feed(part, end=False)
            dies(pair, victim)
            if victim == "receiver":
                begins.append(progress(pair))
            label = label[:2]
        pair.start()
        pair.feed(LONG)
        pair.sender.wait_status(0, 60)
        pair.kill(pair.receiver)
        assert progress(pair) == len(LONG)
        begins.append(len(LONG))
        assert len(pair.written) == len(begins) - 1
        for output, begin, committed in zip(pair.written, begins, begins[1:], strict=False):
            assert same(output, LONG[begin : begin + len(output)])
            assert committed <= begin + len(output) <= committed + MAX_REPEAT


@pytest.mark.parametrize("label", ["R6", "R7:3"])
def test_in_json_what_is_repeated_is_marked(label: str, tmp_path: Path) -> None:
    """Messages of an earlier process are marked when they come again, those of the first one never are."""
    with Pair(tmp_path, receive=["--json"], to_file=False) as pair:
        begins = []
        for part in DATA[:600_000], DATA[:900_000]:
            crash(pair, "receiver", label)
            pair.feed(part, end=False)
            dies(pair, "receiver")
            begins.append(progress(pair))
            label = label[:2]
        pair.start()
        pair.feed(DATA)
        pair.sender.wait_status(0, 60)
        pair.kill(pair.receiver)
        assert len(pair.written) == 3
        texts: dict[int, str] = {}
        seen: set[int] = set()
        for number, output in enumerate(pair.written):
            whole = output[: output.rfind(b"\n") + 1]  # the last line may have been cut short by the crash
            for message in map(json.loads, whole.splitlines()):
                position, marked = message["position"], message.get("maybe_repeat", False)
                assert texts.setdefault(position, message["text"]) == message["text"]
                assert marked or position not in seen, f"process {number} does not mark position {position}"
                assert not marked or number and position <= begins[number - 1] + MAX_REPEAT, "marked, and never written before"
            seen = set(texts)
        assert same("".join(text + "\n" for _, text in sorted(texts.items())).encode(), DATA)


# Disks


def test_d1_a_full_disk_of_the_sender(tmp_path: Path) -> None:
    """It dies when it finds its disk full; run again it retires what it has, and takes the rest."""
    with small_disk(tmp_path, 4 << 20) as disk, Pair(tmp_path, sender_spool=disk.path / "a") as pair:
        pair.start_sender(crash_at="D1")
        pair.feed(LONG)
        assert pair.over(pair.sender) == -signal.SIGKILL
        assert 0 < accepted(pair) < len(LONG)
        ends_well(pair, LONG)


def test_d1_a_full_disk_of_the_output(tmp_path: Path) -> None:
    with small_disk(tmp_path, 4 << 20) as disk, Pair(tmp_path, output=disk.path / "out") as pair:
        ballast = disk.path / "ballast"
        ballast.write_bytes(bytes(2 << 20))
        crash(pair, "receiver", "D1")
        pair.feed(LONG[:3_500_000], end=False)
        dies(pair, "receiver")
        assert 0 < written(pair) < 3_000_000
        ballast.unlink()
        ends_well(pair, LONG[:3_500_000])


@pytest.mark.parametrize("victim", ["sender", "receiver"])
def test_d2_a_sync_fails(victim: str, tmp_path: Path) -> None:
    """It dies when a commit fails, before anybody hears of it; what is on the disk then counts."""
    sync = failing_sync(tmp_path)
    with Pair(tmp_path) as pair:
        if victim == "sender":
            pair.start_sender(crash_at="D2", env=sync.environment())
        else:
            pair.start_receiver(crash_at="D2", env=sync.environment())
        pair.start()
        pair.feed(DATA[:400_000], end=False)
        wait_until(lambda: pair.output.exists() and written(pair) > 0, "nothing was written", 30, pair.sender, pair.receiver)
        sync.arm()
        pair.feed(DATA[:800_000], end=False)
        dies(pair, victim)
        sync.disarm()
        ends_well(pair, DATA)


# All together


def test_no_label_is_left_out() -> None:
    assert {*SENDER, *RECEIVER, *EITHER, "R8", "D1", "D2"} == LABELS


def test_the_soak_kills_and_counts() -> None:
    """A tiny one; `python -m tests.soak` is the long form."""
    command = [sys.executable, "-m", "tests.soak", "--kills", "6", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    names, numbers = (line.split() for line in done.stdout.splitlines()[1:3])
    counted = dict(zip(names, map(int, numbers), strict=True))
    assert counted["kills"] >= 6 and counted["sent"] == counted["delivered"]
    assert counted["lost"] == counted["duplicated"] == counted["reordered"] == 0


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        (b"0 a\n\n1 b\n2 c\n", (0, 0, 0)),
        (b"0 a\n\n1 b\n", (1, 0, 0)),
        (b"0 a\n1 b\n2 c\n", (1, 0, 0)),
        (b"0 a\n\n1 b\n1 b\n2 c\n", (0, 1, 0)),
        (b"0 a\n\n\n1 b\n2 c\n", (0, 1, 0)),
        (b"0 a\n\n2 c\n1 b\n", (0, 0, 1)),
        (b"0 a\n\n1 b\n2 c", (1, 0, 0)),
        (b"", (4, 0, 0)),
    ],
)
def test_the_soak_sees_what_is_wrong(found: bytes, wrong: tuple[int, int, int]) -> None:
    count = compare(b"0 a\n\n1 b\n2 c\n", found)
    assert (count.lost, count.duplicated, count.reordered) == wrong and count.wrong == any(wrong)
