"""Files that are received: whole or not at all, once, and nothing else in the directory is touched."""

from __future__ import annotations

import errno
import os
import queue
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mysocket.core.transfer import Chunk, Part
from mysocket.ends import partfile
from mysocket.ends.directory import open_directory
from mysocket.ends.downloads import OPEN, Downloads
from mysocket.ends.filewriter import GROUP_CHUNKS
from mysocket.ends.partfile import Key
from mysocket.ends.parts import NAMED_KEPT, OPEN_PARTS
from mysocket.ends.words import INTERVAL as INTERVAL_OF_LINES
from mysocket.ends.words import LINES
from mysocket.errors import CannotOpen, DiskFailed, OutputFailed, StateLoss
from tests.support.disks import small_disk
from tests.support.files import chunks, content
from tests.support.incoming import NODE, OTHER, FakeOs, receiver

DATA = content(10_000)
ID = b"i" * 16
CHUNKS = chunks(DATA, id=ID, size=1000)
PART, OVER = Key(NODE, ID).part, Key(NODE, ID).over


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# A file -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_file_is_whole_and_has_its_name(tmp_path: Path, durable: bool, one_by_one: bool) -> None:
    with receiver(tmp_path, durable=durable) as peer:
        if one_by_one:
            peer.receive(*CHUNKS)
        else:
            peer.take(*CHUNKS)
            assert peer.done == [] and peer.files == {}
            peer.work()
        assert peer.done == list(range(len(CHUNKS)))
        assert peer.files == {"report.csv": DATA} and mode_of(tmp_path / "report.csv") == 0o644
        assert peer.latest is not None and peer.latest.path == str(tmp_path / "report.csv")
        assert peer.changes[-1] == ("saved", 10_000) and not peer.downloads.under_way
        assert peer.said == [
            "receiving report.csv (10.0 kB) from hosta",
            f"received report.csv (10.0 kB, sha256 {CHUNKS[-1].digest.hex()[:16]}) from hosta: saved as {tmp_path}/report.csv",
        ]
        assert list(peer.parts) == [PART], "it stays until the end is committed"
        peer.downloads.forget(NODE, ID)
        peer.work()
        assert peer.parts == {} and peer.close() and not peer.failed and not peer.lost


def test_a_part_is_nobody_elses(tmp_path: Path) -> None:
    with receiver(tmp_path / "new") as peer:
        assert mode_of(tmp_path / "new") == 0o700
        peer.receive(*CHUNKS[:3])
        assert peer.parts == {PART: DATA[:2000]} and mode_of(peer.path / PART) == 0o600
        (download,) = peer.downloads.under_way
        assert (download.name, download.size, download.offset, download.peer, download.path, download.state) == (
            ("report.csv", 10_000, 2000, "hosta", None, "receiving")
        )


@pytest.mark.parametrize("durable", [False, True])
def test_chunks_that_wait_are_synced_together(tmp_path: Path, durable: bool) -> None:
    with receiver(tmp_path, durable=durable) as peer:
        peer.take(*CHUNKS[:6])
        peer.work()
        calls = peer.fake.calls
        assert (calls.get("fdatasync", 0), calls.get("fsync", 0)) == ((1, 1) if durable else (0, 0))
        peer.take(*CHUNKS[6:])
        peer.work()
        # The file before its name, the name before it is said.
        assert (calls.get("fdatasync", 0), calls.get("fsync", 0)) == ((1, 3) if durable else (0, 0))


def test_an_empty_file(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(*chunks(b"", "empty"))
        assert peer.files == {"empty": b""} and peer.done == [0, 1]


def test_the_umask_counts(tmp_path: Path) -> None:
    downloads = Downloads(open_directory(str(tmp_path)), post=lambda call: call(), now=lambda: 0.0, umask=0o077)
    for chunk in CHUNKS:
        downloads.take(NODE, "hosta", chunk, lambda: None)
    downloads.close(lambda: None)
    assert mode_of(tmp_path / "report.csv") == 0o600


def test_files_of_several_peers_come_at_the_same_time(tmp_path: Path) -> None:
    """Two of them under the same id: they do not know of each other."""
    theirs = chunks(content(8_000, 1), "theirs", id=ID, size=700)
    with receiver(tmp_path) as peer:
        for index in range(max(len(CHUNKS), len(theirs))):
            peer.take(*CHUNKS[index : index + 1])
            peer.take(*theirs[index : index + 1], node=OTHER, peer="hostb")
            if index % 3 == 0:
                peer.work()
        peer.work()
        assert peer.files == {"report.csv": DATA, "theirs": content(8_000, 1)}


def test_many_transfers_do_not_need_as_many_descriptors(tmp_path: Path) -> None:
    files = [chunks(content(3000, number), f"{number}", size=1000) for number in range(OPEN_PARTS + 20)]
    with receiver(tmp_path, durable=True) as peer:
        for index in range(5):
            peer.take(*(file[index] for file in files))
            peer.work()
            fds = len(os.listdir("/proc/self/fd"))
            assert fds < OPEN_PARTS + 60
        assert peer.files == {f"{number}": content(3000, number) for number in range(OPEN_PARTS + 20)}


@pytest.mark.parametrize("durable", [False, True])
def test_more_than_one_peer_has_open_at_a_time(tmp_path: Path, durable: bool) -> None:
    """A flood of offers: what was heard of longest ago is given up, and nothing of any other; nobody's END is silent."""
    first = chunks(content(3000), "first", id=b"f" * 16, size=1000)
    alive = chunks(content(3000, 1), "alive", id=b"a" * 16, size=1000)
    theirs = chunks(content(3000, 2), "theirs", id=b"t" * 16, size=1000)
    with receiver(tmp_path, durable=durable) as peer:
        peer.receive(*theirs[:2], node=OTHER)
        peer.receive(*first[:2], *alive[:2])
        peer.time += 1
        peer.receive(alive[2])
        for number in range(OPEN - 1):
            peer.time += 0.001
            peer.take(chunks(b"x", f"{number}")[0])
        peer.work()
        peer.work()
        assert len(peer.downloads.under_way) == OPEN + 1 and len(peer.parts) == OPEN + 1
        (said,) = [line for line in peer.said if line.startswith("given up: ")]
        assert said.startswith("given up: first from hosta, 1.0 kB of 3.0 kB: it has begun 512 others")
        peer.receive(*alive[3:])
        peer.receive(*theirs[2:], node=OTHER)
        assert peer.files == {"alive": content(3000, 1), "theirs": content(3000, 2)} and not peer.lost
        peer.receive(first[2])
        (error,) = peer.lost
        assert "is gone: 1000 bytes of it had come" in str(error)


def test_a_flood_of_small_files_is_not_a_flood_of_lines(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        for number in range(LINES):
            peer.take(*chunks(b"", f"{number}"))
        peer.work()
        assert len(peer.files) == LINES and len(peer.said) == LINES
        peer.time += INTERVAL_OF_LINES
        peer.receive(*chunks(b"", "last"))
        assert peer.said[LINES] == f"{LINES} more lines about files were left out"
        assert peer.said[LINES + 1].startswith("receiving last") and len(peer.said) == LINES + 3


def test_a_group_is_bounded(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.take(CHUNKS[0], *[CHUNKS[1]] * (2 * GROUP_CHUNKS))
        steps = 0
        while peer.downloads.writer.step(wait=False):
            steps += 1
        peer.hear()
        assert steps == 3 and len(peer.done) == 2 * GROUP_CHUNKS + 1


def test_people_hear_ten_times_a_second_at_most(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        for chunk in CHUNKS[:-1]:
            peer.time += 0.03
            peer.receive(chunk)
        assert [state for state, _ in peer.changes] == ["receiving"] * 3
        peer.receive(CHUNKS[-1])
        assert peer.changes[-1] == ("saved", 10_000)


# What comes again ---------------------------------------------------------------------------------------------------------------


def test_chunks_that_come_again_change_nothing(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        for index in range(len(CHUNKS)):
            peer.receive(CHUNKS[index], *CHUNKS[max(0, index - 3) : index + 1])
        peer.receive(*CHUNKS)
        assert peer.files == {"report.csv": DATA} and not peer.lost and not peer.failed
        assert peer.done == list(range(peer.given))


def test_what_comes_again_from_the_offer_on(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS[:7], *CHUNKS)
        assert peer.files == {"report.csv": DATA}


def test_the_end_that_comes_again_finds_its_file(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS)
        (tmp_path / "report.csv").rename(tmp_path / "moved")
        peer.receive(CHUNKS[-1])
        assert peer.files == {"moved": DATA} and len(peer.said) == 2
    with receiver(tmp_path) as again:
        again.receive(CHUNKS[-1], CHUNKS[5], CHUNKS[0], CHUNKS[-1])
        assert again.files == {"moved": DATA} and not again.lost and not again.said
        again.downloads.forget(NODE, ID)
        again.work()
        assert again.parts == {}
        again.receive(CHUNKS[-1])
        assert again.files == {"moved": DATA}


def test_nothing_is_written_to_a_file_that_has_its_name(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS)
    (tmp_path / "report.csv").write_bytes(b"edited")
    with receiver(tmp_path) as again:
        again.receive(*CHUNKS)
        assert again.files == {"report.csv": b"edited"}


def test_a_restart_in_the_middle(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS[:6])
    with receiver(tmp_path) as again:
        again.receive(*CHUNKS[6:])
        assert again.files == {"report.csv": DATA}
        assert again.said[0] == "receiving a file from hosta: it goes on at 5.0 kB"
        assert again.said[1].startswith("received report.csv (10.0 kB")


@pytest.mark.parametrize("back", [1, 3, 5])
def test_a_restart_that_goes_back(tmp_path: Path, back: int) -> None:
    """What came last was not acknowledged, and is torn: it comes again."""
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS[:6])
    with (tmp_path / PART).open("r+b") as part:
        part.seek(1000 * (6 - back - 1))
        part.write(b"torn" * 100)
        part.seek(0, os.SEEK_END)
        part.write(b"more" * 5000)
    with receiver(tmp_path) as again:
        again.receive(*CHUNKS[6 - back :])
        assert again.files == {"report.csv": DATA}


def test_a_backup_that_links_parts_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with receiver(tmp_path / "in") as peer:
        peer.receive(*CHUNKS[:6])
    os.link(tmp_path / "in" / PART, tmp_path / "backup")
    with receiver(tmp_path / "in") as again:
        again.receive(*CHUNKS[6:])
        assert again.files == {"report.csv": DATA}


# What is missing ----------------------------------------------------------------------------------------------------------------


def lose_the_part(path: Path) -> None:
    path.unlink()


def cut_the_part(path: Path) -> None:
    os.truncate(path, 4999)


LOSSES: list[tuple[Callable[[Path], None], str]] = [
    (lose_the_part, "A file from hosta is gone: 5000 bytes of it had come"),
    (cut_the_part, "A file from hosta has 4999 bytes here, and 5000 had come"),
]


@pytest.mark.parametrize(("lose", "text"), LOSSES)
@pytest.mark.parametrize("accept", [False, True])
def test_a_part_that_is_gone_or_cut_is_missing_data(
    tmp_path: Path, lose: Callable[[Path], None], text: str, accept: bool
) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS[:6])
    lose(tmp_path / PART)
    with receiver(tmp_path, accept_loss=accept) as again:
        again.receive(*CHUNKS[6:])
        assert again.files == {} and not again.failed
        if accept:
            assert again.done == list(range(len(CHUNKS) - 6)) and not again.lost
            (told,) = again.accepted
            assert text in told and str(tmp_path / PART) in told
            again.downloads.forget(NODE, ID)
            again.work()
            assert again.parts == {}
        else:
            (error,) = again.lost
            assert isinstance(error, StateLoss) and text in str(error) and f"(in {PART}); --accept-loss" in str(error)
            assert 0 not in again.done
        assert again.changes[-1][0] == "lost"
        again.receive(*chunks(b"other", "other"))
        assert again.files == {"other": b"other"}, "others go on"


def test_a_part_that_was_changed_is_missing_data(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS[:6])
    with (tmp_path / PART).open("r+b") as part:
        part.write(b"!")
    with receiver(tmp_path) as again:
        again.receive(*CHUNKS[6:])
        (error,) = again.lost
        assert "report.csv from hosta is not what was sent" in str(error) and again.files == {}


def test_a_part_that_is_cut_while_it_is_open(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS[:-1])
        os.truncate(tmp_path / PART, 100)
        peer.receive(CHUNKS[-1])
        assert len(peer.lost) == 1 and peer.files == {}


@pytest.mark.parametrize("accept", [False, True])
def test_a_part_that_is_removed_while_it_is_open(tmp_path: Path, accept: bool) -> None:
    with receiver(tmp_path, accept_loss=accept) as peer:
        peer.receive(*CHUNKS[:4])
        (tmp_path / PART).unlink()
        peer.take(*CHUNKS[4:7])
        peer.work()
        peer.receive(*CHUNKS[7:])
        assert peer.files == {} and len(peer.accepted if accept else peer.lost) == 1
        assert peer.done == [n for n in range(peer.given) if accept or n != 4]
        peer.receive(*chunks(b"other", "other"))
        assert peer.files == {"other": b"other"}


@pytest.mark.parametrize("accept", [False, True])
def test_what_is_lost_is_not_under_way_any_more(tmp_path: Path, accept: bool) -> None:
    """Several chunks of it came together, and the first tells."""
    with receiver(tmp_path, accept_loss=accept) as peer:
        peer.receive(*CHUNKS[:4])
        (tmp_path / PART).unlink()
        peer.take(*CHUNKS[4:7])
        peer.work()
        assert not peer.downloads.under_way and [line for line in peer.said if "goes on" in line] == []


def test_a_part_that_is_replaced_while_it_is_open(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS[:-1])
        os.link(tmp_path / PART, tmp_path / "kept")
        (tmp_path / PART).unlink()
        (tmp_path / PART).write_bytes(DATA)
        peer.receive(CHUNKS[-1])
        assert len(peer.lost) == 1 and "report.csv" not in peer.files


@pytest.mark.parametrize("chunk", [CHUNKS[1], CHUNKS[2], CHUNKS[-1]], ids=["data at 0", "data", "end"])
def test_what_was_never_offered(tmp_path: Path, chunk: Chunk) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(chunk)
        assert bool(peer.lost) == (chunk.offset > 0) and not peer.failed


def test_a_gap(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(CHUNKS[0], CHUNKS[1], CHUNKS[3])
        (error,) = peer.lost
        assert "has 1000 bytes here, and 2000 had come" in str(error)
        assert peer.done == [0, 1]


@pytest.mark.parametrize(
    "end",
    [
        replace(CHUNKS[-1], digest=bytes(32)),
        replace(CHUNKS[-1], offset=9_999),
        replace(CHUNKS[-1], offset=10_001),
        replace(CHUNKS[-1], offset=2**64 - 1),
        replace(CHUNKS[-1], offset=0),
    ],
)
def test_an_end_that_does_not_fit(tmp_path: Path, end: Chunk) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS[:-1], end)
        assert len(peer.lost) == 1 and peer.files == {} and peer.done == list(range(11))


def test_offsets_that_no_file_has(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(replace(CHUNKS[0], offset=2**64 - 1), CHUNKS[1], replace(CHUNKS[1], offset=2**64 - 500))
        assert len(peer.lost) == 1 and not peer.failed


# Cancelling ---------------------------------------------------------------------------------------------------------------------


def test_who_cancels_takes_the_part_with_it(tmp_path: Path) -> None:
    cancel = Chunk(Part.CANCEL, ID, 5000, text="it was changed\n\x1b[2J")
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS[:6], cancel)
        assert peer.changes[-1] == ("cancelled", 5000) and peer.done == list(range(7))
        peer.downloads.forget(NODE, ID)
        peer.work()
        assert peer.parts == {}
        assert peer.said[-1] == r"hosta has cancelled report.csv after 5.0 kB: it was changed\x0a\x1b[2J"
        peer.receive(cancel)
        assert len(peer.said) == 2 and not peer.lost
        peer.receive(*CHUNKS)
        assert peer.files == {"report.csv": DATA}, "and may begin anew"
        peer.receive(cancel)
        assert peer.files == {"report.csv": DATA}
    with receiver(tmp_path) as again:
        again.receive(cancel)
        assert again.files == {"report.csv": DATA} and not again.said


# Names --------------------------------------------------------------------------------------------------------------------------


def test_no_file_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "report.csv").write_bytes(b"mine")
    (tmp_path / "report (2).csv").symlink_to(tmp_path / "nowhere")
    (tmp_path / "report (3).csv").mkdir()
    os.mkfifo(tmp_path / "report (4).csv")
    with receiver(tmp_path) as peer:
        for seed in range(3):
            peer.receive(*chunks(content(5000, seed)))
        assert peer.files == {
            "report.csv": b"mine",
            "report (1).csv": content(5000, 0),
            "report (5).csv": content(5000, 1),
            "report (6).csv": content(5000, 2),
        }
        assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("links", [True, False])
def test_somebody_takes_the_name_first(tmp_path: Path, links: bool) -> None:
    fake = FakeOs()
    if not links:
        fake.faults["link"] = (errno.EPERM, -1)
    with receiver(tmp_path, fake=fake) as peer:
        peer.receive(*CHUNKS[:-1])
        fake.hooks["link"] = lambda: (tmp_path / "report.csv").write_bytes(b"theirs") and None
        peer.receive(CHUNKS[-1])
        assert peer.files == {"report.csv": b"theirs", "report (1).csv": DATA}


@pytest.mark.parametrize(
    "name", ["../../up", "/abs", "..", "", "\0", "-rf", ".hidden", "a" * 1000, "日" * 300, "\x1b]0;x\x07\u202e", "a\nb", "\\x\\y"]
)
def test_a_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    before = set(Path(tmp_path.parent).iterdir())
    with receiver(tmp_path / "in") as peer:
        peer.receive(*chunks(b"data", name))
        assert list(peer.files.values()) == [b"data"] and [path.name for path in tmp_path.iterdir()] == ["in"]
        assert set(Path(tmp_path.parent).iterdir()) == before
        assert all(text.isprintable() for text in peer.said)


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ])
def test_a_name_that_the_file_system_does_not_take(tmp_path: Path, number: int) -> None:
    fake = FakeOs()
    fake.faults["link"] = (number, 1)
    with receiver(tmp_path, fake=fake) as peer:
        peer.receive(*CHUNKS)
        assert peer.files == {f"file-{ID.hex()[:16]}": DATA}


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS])
def test_without_hard_links(tmp_path: Path, number: int) -> None:
    fake = FakeOs()
    fake.faults["link"] = (number, -1)
    (tmp_path / "report.csv").write_bytes(b"mine")
    with receiver(tmp_path, fake=fake, durable=True) as peer:
        peer.receive(*CHUNKS)
        assert peer.files == {"report.csv": b"mine", "report (1).csv": DATA} and list(peer.parts) == [OVER]
        assert mode_of(tmp_path / "report (1).csv") == 0o644
    with receiver(tmp_path, fake=fake) as again:
        again.receive(*CHUNKS[5:], *CHUNKS)
        assert len(again.files) == 2 and not again.lost, "what comes again finds what it has made"
        again.downloads.forget(NODE, ID)
        again.work()
        assert again.parts == {}


# What somebody has put there ----------------------------------------------------------------------------------------------------


def plant_symlink(path: Path) -> None:
    path.symlink_to(path.parent / "victim")


def plant_fifo(path: Path) -> None:
    os.mkfifo(path)


def plant_directory(path: Path) -> None:
    path.mkdir()


def plant_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(path.parent)
        try:
            one.bind(path.name)
        finally:
            os.chdir(here)


@pytest.mark.parametrize("plant", [plant_symlink, plant_fifo, plant_directory, plant_socket])
@pytest.mark.parametrize("first", [0, 1, 11])
def test_what_is_no_part_is_not_written_to(tmp_path: Path, plant: Callable[[Path], None], first: int) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    plant(tmp_path / PART)
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS[first:])
        (error,) = peer.failed
        assert isinstance(error, OutputFailed) and str(tmp_path / PART) in str(error) and peer.done == []
        assert peer.files == {"victim": b"precious"} and peer.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_a_part_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(b"x" * 5000)
    os.chown(tmp_path / PART, 12345, 12345)
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS[6:])
        assert isinstance(peer.failed[0], OutputFailed) and (tmp_path / PART).read_bytes() == b"x" * 5000


@pytest.mark.parametrize("link", [False, True])
def test_a_directory_that_is_swapped(tmp_path: Path, link: bool) -> None:
    (tmp_path / "in").mkdir()
    with receiver(tmp_path / "in") as peer:
        peer.receive(*CHUNKS[:5])
        (tmp_path / "in").rename(tmp_path / "old")
        if link:
            (tmp_path / "elsewhere").mkdir()
            (tmp_path / "in").symlink_to("elsewhere")
        else:
            (tmp_path / "in").mkdir()
        peer.receive(*CHUNKS[5:])
        assert list((tmp_path / "in").iterdir()) == []
        assert (tmp_path / "old" / "report.csv").read_bytes() == DATA
        assert peer.latest is not None and peer.latest.path == str(tmp_path / "old" / "report.csv")


def test_a_directory_that_is_removed(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with receiver(tmp_path / "in") as peer:
        (tmp_path / "in").rmdir()
        peer.receive(*CHUNKS)
        assert isinstance(peer.failed[0], OutputFailed) and peer.done == []


def test_only_a_directory_of_ones_own_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, text in [("file", "Not a directory"), ("missing/in", "No such file")]:
        with pytest.raises(CannotOpen, match=text):
            open_directory(str(tmp_path / path))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CannotOpen, match="Too many levels"):
        open_directory(str(tmp_path / "loop"))
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    os.close(open_directory(str(tmp_path / "link")).fd)
    if os.geteuid() == 0:
        os.chown(tmp_path / "there", 12345, -1)
        with pytest.raises(CannotOpen, match="it belongs to user 12345"):
            open_directory(str(tmp_path / "there"))


#: A user that owns nothing.
NOBODY = 65534


def test_a_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir(0o500)
    user = os.geteuid()
    if user == 0:
        # Root writes everywhere: be somebody else for a moment. He stands in it, for he may not come from above.
        os.chown(tmp_path / "in", NOBODY, -1)
    before = Path.cwd()
    os.chdir(tmp_path / "in")
    try:
        if user == 0:
            os.seteuid(NOBODY)
        with pytest.raises(CannotOpen, match="cannot be written"):
            open_directory(".")
    finally:
        os.seteuid(user)
        os.chdir(before)


def test_a_start_removes_only_old_parts_that_have_a_name(tmp_path: Path) -> None:
    named = Key(OTHER, ID).part
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS, node=OTHER)
        peer.receive(*CHUNKS[:5])
    (tmp_path / ".mysocket-mine.part").touch()
    with receiver(tmp_path) as again:
        again.downloads.writer.parts.clean()
        assert set(again.parts) == {PART, named, ".mysocket-mine.part"}, "its end may come again"
        again.downloads.writer.parts.clean(time.time() + NAMED_KEPT + 60)
        assert set(again.parts) == {PART, ".mysocket-mine.part"} and again.files == {"report.csv": DATA}


# Disks --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("what", ["pwrite", "make", "link"])
def test_a_full_disk_is_waited_for(tmp_path: Path, number: int, what: str) -> None:
    fake = FakeOs()
    with receiver(tmp_path, fake=fake, durable=True) as peer:
        fake.faults[what] = (number, 3)
        peer.take(*CHUNKS)
        peer.work()
        before = {"make": 0, "pwrite": 1, "link": 11}[what]
        assert peer.done == list(range(before)) and peer.full == [str(tmp_path)]
        for _ in range(2):
            peer.time += 0.5
            peer.work()
            assert len(peer.done) == before, "not yet"
            peer.time += 0.6
            peer.work()
        assert peer.full == [str(tmp_path)] and len(peer.done) == before
        peer.time += 1
        peer.work()
        assert peer.full == [str(tmp_path), ""] and peer.done == list(range(len(CHUNKS)))
        assert peer.files == {"report.csv": DATA} and not peer.failed


@pytest.mark.parametrize("together", [False, True])
def test_who_cancels_does_not_wait_for_room(tmp_path: Path, together: bool) -> None:
    """The disk is full of that very file, and what cancels it comes behind what has no room."""
    fake = FakeOs()
    cancel = Chunk(Part.CANCEL, ID, 6000, text="too large for you")
    with receiver(tmp_path, fake=fake, durable=True) as peer:
        peer.receive(*CHUNKS[:4])
        fake.faults["pwrite"] = (errno.ENOSPC, -1)
        peer.take(*CHUNKS[4:6])
        if not together:
            peer.work()
            assert peer.full and len(peer.done) == 4
        peer.take(CHUNKS[6], cancel)
        peer.time += 1
        peer.work()
        assert peer.changes[-1][0] == "cancelled" and peer.done == list(range(peer.given)) and not peer.lost
        assert PART in peer.parts, "until that is committed"
        peer.downloads.forget(NODE, ID)
        peer.work()
        assert PART not in peer.parts
        fake.faults.clear()
        peer.receive(*chunks(b"other", "other"))
        assert peer.files == {"other": b"other"} and peer.full[1:] in ([], [""]) and peer.close()


def test_who_leaves_does_not_wait_for_room(tmp_path: Path) -> None:
    fake = FakeOs()
    fake.faults["pwrite"] = (errno.ENOSPC, -1)
    with receiver(tmp_path, fake=fake) as peer:
        peer.take(*CHUNKS)
        peer.work()
        assert peer.close() and peer.done == [0]


def test_a_real_disk_that_is_full(tmp_path: Path) -> None:
    data = content(3 << 20)
    file = chunks(data)
    with small_disk(tmp_path, 2 << 20) as disk, receiver(disk.path / "in", durable=True) as peer:
        peer.take(*file)
        peer.work()
        assert peer.full == [str(peer.path)] and 2 < len(peer.done) < len(file) and not peer.failed
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk.path)], check=True, timeout=60)
        peer.time += 1
        peer.work()
        assert peer.full[1:] == [""] and peer.files == {"report.csv": data}
        assert peer.close()


def test_a_file_that_is_larger_than_the_file_system_takes(tmp_path: Path) -> None:
    """It would be sent again and again, and nothing behind it would ever arrive: it is lost, which can be accepted."""
    fake = FakeOs()
    with receiver(tmp_path, fake=fake) as peer:
        peer.receive(*CHUNKS[:4])
        fake.faults["pwrite"] = (errno.EFBIG, -1)
        peer.receive(*CHUNKS[4:])
        (error,) = peer.lost
        assert "The file report.csv from hosta cannot be kept: File too large (in .mysocket-" in str(error) and not peer.failed
        assert str(tmp_path) not in str(error), "the peer hears it"
    with receiver(tmp_path, fake=fake, accept_loss=True) as peer:
        peer.receive(*CHUNKS[4:])
        assert len(peer.accepted) == 1 and peer.done == list(range(peer.given)) and peer.files == {}
        peer.downloads.forget(NODE, ID)
        fake.faults.clear()
        peer.receive(*chunks(b"other", "other"))
        assert peer.files == {"other": b"other"} and peer.parts.keys() != {PART}


@pytest.mark.parametrize(
    ("what", "kind"),
    [("pwrite", OutputFailed), ("make", OutputFailed), ("link", OutputFailed), ("fdatasync", DiskFailed), ("fsync", DiskFailed)],
)
def test_a_disk_that_fails_ends_it(tmp_path: Path, what: str, kind: type[Exception]) -> None:
    fake = FakeOs()
    fake.faults[what] = (errno.EIO, 1)
    with receiver(tmp_path, fake=fake, durable=True) as peer:
        peer.take(*CHUNKS[:5])
        peer.work()
        peer.take(*CHUNKS[5:])
        peer.work()
        (error,) = peer.failed
        assert isinstance(error, kind) and error.status == 74 and str(tmp_path) in str(error)
        assert peer.done == (list(range(5)) if what == "link" else []), "nobody knows what of a group is there"
        peer.receive(*chunks(b"more"))
        assert len(peer.failed) == 1 and peer.files == {} and peer.close()


# Leaving ------------------------------------------------------------------------------------------------------------------------


def test_what_was_given_is_written_before_it_closes(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.take(*CHUNKS)
        assert peer.close() and peer.files == {"report.csv": DATA} and len(peer.done) == len(CHUNKS)


def test_hashing_does_not_hold_up_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partfile, "BLOCK", 100)
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS[:-1])
    with receiver(tmp_path) as again:
        again.take(CHUNKS[-1])
        assert again.close() and again.done == [] and again.files == {}
    with receiver(tmp_path) as last:
        last.receive(CHUNKS[-1])
        assert last.files == {"report.csv": DATA}


def test_who_was_given_up_says_nothing(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.take(*CHUNKS)
        peer.downloads.abandon()
        peer.work()
        assert peer.done == [] and peer.said == []


def test_what_is_left_is_named(tmp_path: Path) -> None:
    with receiver(tmp_path) as peer:
        peer.receive(*CHUNKS[:4])
        peer.receive(*chunks(b"theirs" * 100, "theirs\n", id=b"j" * 16)[:2], node=OTHER, peer="hostb")
        one, two = f"{tmp_path}/{PART}", f"{tmp_path}/{Key(OTHER, b'j' * 16).part}"
        assert peer.downloads.left() == [
            f"report.csv from hosta, 3.0 kB of 10.0 kB in {one}",
            f"theirs_ from hostb, 600 bytes of 600 bytes in {two}",
        ]
        peer.downloads.broken_off(besides=OTHER)
        assert peer.said[-1].startswith("broken off: report.csv from hosta, 3.0 kB of 10.0 kB in ")
        assert [download.peer for download in peer.downloads.under_way] == ["hostb"]
        assert peer.changes[-1] == ("lost", 3000) and set(peer.parts) == {PART, Key(OTHER, b"j" * 16).part}


@pytest.mark.parametrize("durable", [False, True])
def test_the_thread(tmp_path: Path, durable: bool) -> None:
    data, posted = content(9 << 20), queue.SimpleQueue[Callable[[], None]]()
    directory = open_directory(str(tmp_path))
    downloads = Downloads(directory, post=posted.put, now=time.monotonic, durable=durable)
    done: list[int] = []
    downloads.start()
    file = chunks(data)
    for number, chunk in enumerate(file):
        downloads.take(NODE, "hosta", chunk, lambda number=number: done.append(number))  # type: ignore[misc]
    closed: list[bool] = []
    while len(done) < len(file):
        posted.get(timeout=60)()
    downloads.forget(NODE, file[0].id)
    downloads.close(lambda: closed.append(True))
    while not closed:
        posted.get(timeout=60)()
    assert done == list(range(len(file))) and os.listdir(tmp_path) == ["report.csv"]
    assert (tmp_path / "report.csv").read_bytes() == data


def test_a_thread_that_breaks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posted = queue.SimpleQueue[Callable[[], None]]()
    failed: list[Any] = []
    monkeypatch.setattr("threading.excepthook", lambda args: None)
    downloads = Downloads(open_directory(str(tmp_path)), post=posted.put, now=time.monotonic, failed=failed.append)
    monkeypatch.setattr(downloads.writer.parts, "take", lambda key, chunk: 1 // 0)
    downloads.start()
    downloads.take(NODE, "hosta", CHUNKS[0], lambda: None)
    posted.get(timeout=60)()
    assert "ZeroDivisionError" in str(failed[0])
