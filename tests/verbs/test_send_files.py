"""`mysocket send --file`: transfers that arrive once, are given up with a last word, or say what became of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from mysocket import failpoints
from mysocket.cli import main
from mysocket.control import client, sender
from mysocket.control.places import Place
from mysocket.control.protocol import Line, error_line
from mysocket.core.batch import Kind, Piece
from mysocket.core.transfer import CHUNK, Chunk, Part, read_chunk
from mysocket.ends.filereader import FileReader
from mysocket.spool.lock import open_directory
from mysocket.spool.store import FILES, Store
from mysocket.verbs.files import Files, Meter
from tests.support.control import Drop, FakeService, Kept
from tests.support.processes import MYSOCKET, ROOT, Program, at_terminal, mysocket

Capture = pytest.CaptureFixture[str]
Make = Callable[..., str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    found = Place(str(tmp_path / "mysocket"), str(tmp_path))
    monkeypatch.setattr(client, "run_time_places", lambda *_: [found])
    return found


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    path = tmp_path / "spool"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(size: int, name: str = "file") -> str:
        path = tmp_path / name
        path.write_bytes(os.urandom(size))
        os.utime(path, (1e9, 1e9))
        return str(path)

    return make


def chunks(pieces: list[Piece]) -> list[Chunk]:
    assert all(piece.kind is Kind.FILE for piece in pieces)
    return [read_chunk(piece.payload) for piece in pieces]


def arrived(pieces: list[Piece]) -> dict[str, bytes]:
    """The files in a stream: each is there once, whole."""
    open_: dict[bytes, bytearray] = {}
    found: dict[str, bytes] = {}
    for chunk in chunks(pieces):
        if chunk.part is Part.OFFER:
            assert chunk.id not in open_
            open_[chunk.id] = bytearray()
        elif chunk.part is Part.DATA:
            assert chunk.offset == len(open_[chunk.id])
            open_[chunk.id] += chunk.data
        else:
            assert chunk.part is Part.END and chunk.text not in found
            data = bytes(open_.pop(chunk.id))
            assert sha256(data).digest() == chunk.digest and len(data) == chunk.offset
            found[chunk.text] = data
    assert not open_
    return found


def read(path: str) -> bytes:
    return Path(path).read_bytes()


# With a service -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK, 5_000_000])
def test_a_file_is_one_transfer(place: Place, make: Make, size: int, capfd: Capture) -> None:
    path = make(size)
    with FakeService(place) as service:
        assert main(["send", "--file", path]) == 0
        service.wait_heard(lambda lines: {"confirm": True} in lines)
    assert arrived(service.kept.pieces) == {"file": read(path)} and service.heard[0]["do"] == "send"
    assert sum("do" in line for line in service.heard) == 1
    assert capfd.readouterr() == ("", "")


def test_several_files_are_one_request(place: Place, make: Make) -> None:
    paths = [make(size, name) for size, name in ((1_000_000, "a"), (0, "b"), (300_000, "c"))]
    with FakeService(place) as service:
        assert main(["send", *(f"--file={path}" for path in paths), "--delivered"]) == 0
    assert arrived(service.kept.pieces) == {os.path.basename(path): read(path) for path in paths}
    assert list(arrived(service.kept.pieces)) == ["a", "b", "c"]
    assert len({line["id"] for line in service.heard if "id" in line}) == 1


def test_the_same_file_twice_is_two_transfers(place: Place, make: Make) -> None:
    path = make(10)
    with FakeService(place) as service:
        assert main(["send", "--file", path, "--file", path]) == 0
    ids = [chunk.id for chunk in chunks(service.kept.pieces) if chunk.part is Part.OFFER]
    assert len(ids) == 2 and ids[0] != ids[1]


def test_a_transfer_follows_from_its_request(make: Make) -> None:
    path = make(10)

    def ids(request: bytes) -> list[bytes]:
        files, found = Files([path, path], request), list[bytes]()
        while not files.ended:
            found += [chunk.id for chunk in chunks(files.read())]
        return found

    assert ids(b"a" * 16) == ids(b"a" * 16)
    assert not set(ids(b"a" * 16)) & set(ids(b"b" * 16))
    assert all(len(id) == 16 for id in ids(b"a" * 16))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hello"], "--file and TEXT exclude each other"),
        (["--whole"], "--file and --whole exclude each other"),
        (["--stream"], "--file and --stream exclude each other"),
        (["-0"], "--file and --null exclude each other"),
    ],
)
def test_a_file_is_sent_alone(place: Place, make: Make, words: list[str], said: str, capfd: Capture) -> None:
    with FakeService(place) as service:
        assert main(["send", "--file", make(1), *words]) == 2
    assert said in capfd.readouterr().err and not service.heard


def test_what_cannot_be_sent_keeps_the_others_back(place: Place, make: Make, tmp_path: Path, capfd: Capture) -> None:
    os.mkfifo(tmp_path / "fifo")
    with FakeService(place) as service:
        for wrong in (tmp_path / "nothing", tmp_path, tmp_path / "fifo", "/dev/zero"):
            assert main(["send", "--file", make(1), "--file", str(wrong)]) == 2
            assert f"Cannot send {wrong}: " in capfd.readouterr().err
    assert not service.heard
    assert main(["send", "--file", ""]) == 2


def test_stdin_is_not_touched_and_may_be_closed(place: Place, make: Make, spool: Path) -> None:
    with FakeService(spool) as service:
        done = subprocess.run(
            ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *MYSOCKET, "send", "--spool", str(spool), "--file", make(10)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert (done.returncode, done.stderr) == (0, "") and len(service.kept.pieces) == 3


def test_no_twisted_and_no_hashes_where_there_is_no_file(tmp_path: Path) -> None:
    for words, wanted in (
        (["send", "--spool", str(tmp_path / "a"), "hello"], False),
        (
            ["send", "--spool", str(tmp_path / "b"), "--file", __file__],
            True,
        ),
    ):
        code = "import sys\nfrom mysocket.cli import main\nassert main(sys.argv[1:]) == 0\n"
        code += "print('twisted' in sys.modules, 'mysocket.ends.filereader' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == f"False {wanted}\n"


def test_a_refusal_is_final(place: Place, make: Make, capfd: Capture) -> None:
    def hook(line: Line, count: int) -> Line | None:
        return error_line("hub takes no files", 4) if "piece" in line else None

    with FakeService(place, on_line=hook) as service:
        assert main(["send", "--file", make(1_000_000)]) == 4
    assert "hub takes no files" in capfd.readouterr().err
    assert not service.kept.pieces


@pytest.mark.parametrize("number", [2, 4, 9, 20])
def test_a_lost_connection_repeats_nothing(place: Place, make: Make, number: int) -> None:
    path = make(4_000_000)

    def hook(line: Line, count: int) -> None:
        if count == number:
            raise Drop

    with FakeService(place, on_line=hook) as service:
        assert main(["send", "--quiet", "--file", path]) == 0
    assert arrived(service.kept.pieces) == {"file": read(path)}


def test_accepted_and_not_answered_is_not_sent_again(place: Place, make: Make) -> None:
    path, left = make(3_000_000), [3]

    def after() -> None:
        left[0] -= 1
        if not left[0]:
            raise Drop

    with FakeService(place, after=after) as service:
        assert main(["send", "--quiet", "--file", path]) == 0
    assert arrived(service.kept.pieces) == {"file": read(path)}


def test_a_service_in_memory_that_ends_leaves_it_unknown(place: Place, make: Make, capfd: Capture) -> None:
    kept = Kept()

    def leave(line: Line, count: int) -> None:
        if count == 5:
            raise Drop

    with FakeService(place, on_line=leave, kept=kept) as service:
        original = sender.again

        def gone(*args: object, **rest: object) -> object:
            service._listening.remove()
            return original(*args, **rest)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sender, "again", gone)
            patch.setattr(sender, "REUNION", 0.3)
            assert main(["send", "--file", make(3_000_000)]) == 1
    assert "Of the transfer" in capfd.readouterr().err


# Given up -----------------------------------------------------------------------------------------------------------------------


def test_ctrl_c_is_followed_by_a_last_word(spool: Path, make: Make) -> None:
    path = make(50_000_000)
    stalled = [False]

    def slow(line: Line, count: int) -> None:
        if "piece" in line:
            stalled[0] = True
            time.sleep(0.02)

    with FakeService(spool, on_line=slow) as service, mysocket("send", "--spool", spool, "--file", path) as program:
        service.wait_heard(lambda lines: sum("piece" in line for line in lines) > 5)
        program.kill(signal.SIGINT)
        program.wait_status(130)
        assert program.stderr_text == (
            "mysocket: Interrupted. The transfer is cancelled, and the other side will be told so; "
            "to send the file, begin anew.\n"
        )
    *before, last = chunks(service.kept.pieces)
    assert last.part is Part.CANCEL and last.id == before[0].id and last.text == "the sender was interrupted"
    assert last.offset == sum(len(chunk.data) for chunk in before) < 50_000_000


def test_ctrl_c_where_nothing_was_taken(spool: Path, make: Make) -> None:
    with FakeService(spool) as service:
        service.full.set()
        with mysocket("send", "--spool", spool, "--file", make(5_000_000)) as program:
            service.wait_heard(lambda lines: any("piece" in line for line in lines))
            program.kill(signal.SIGINT)
            program.wait_status(130)
            assert program.stderr_text == "mysocket: Interrupted. Nothing of it is accepted.\n"
        assert {"withdraw": True} in service.heard and not service.kept.pieces


def test_no_room_in_time_is_3(place: Place, make: Make, capfd: Capture) -> None:
    count = [0]
    with FakeService(place) as service:

        def hook(line: Line, number: int) -> None:
            count[0] += "piece" in line
            if count[0] == 4:
                service.full.set()

        service._on_line = hook
        assert main(["send", "-w", "0.5", "--file", make(5_000_000)]) == 3
    said = capfd.readouterr().err
    assert "Not accepted within 0.5 s (-w). Of the transfer" in said and "begin anew" in said
    assert chunks(service.kept.pieces)[-1].part is Part.DATA


def test_a_file_that_changes_is_cancelled(place: Place, make: Make, capfd: Capture) -> None:
    path = make(20_000_000)

    def hook(line: Line, count: int) -> None:
        if "piece" in line and count == 8:
            with open(path, "ab") as more:
                more.write(b"x")

    with FakeService(place, on_line=hook) as service:
        assert main(["send", "--file", make(10, "first"), "--file", path]) == 1
    said = capfd.readouterr().err
    assert f"{path} was changed while it was sent" in said and "The transfer is cancelled" in said
    last = chunks(service.kept.pieces)[-1]
    assert last.part is Part.CANCEL and last.text == "it had 20000000 bytes, and has 20000001"
    first = chunks(service.kept.pieces)[:3]
    assert [chunk.part for chunk in first] == [Part.OFFER, Part.DATA, Part.END] and last.id != first[0].id


@pytest.mark.parametrize("said", range(12))
def test_each_transfer_that_was_begun_gets_a_last_word_and_no_other(make: Make, said: int) -> None:
    files = Files([make(10, "a"), make(3 * CHUNK, "b"), make(10, "c")], bytes(16))
    given = files.read() + files.read()
    if said > 8:
        given += files.read()
    spoken, dropped = given[:said], given[said:]
    last = chunks(files.cancel("why", dropped))
    begun: dict[bytes, int] = {}
    for chunk in chunks(spoken):
        if chunk.part is Part.OFFER:
            begun[chunk.id] = 0
        elif chunk.part is Part.DATA:
            begun[chunk.id] += len(chunk.data)
        else:
            del begun[chunk.id]
    assert {chunk.id: chunk.offset for chunk in last} == begun and files.ended
    assert all(chunk.part is Part.CANCEL for chunk in last)


# Without a service --------------------------------------------------------------------------------------------------------------


def pieces_in(path: Path) -> list[Piece]:
    directory = open_directory(str(path), role="spool", create=False, known=FILES)
    try:
        store = Store(directory, 0, readonly=True)
        found = [Piece(Kind(b.kind), b.flags, bytes(b.payload)) for b, _, _ in store.batches(store.state().retired)]
        store.close()
    finally:
        directory.close()
    return found


def test_a_spool_without_a_service_keeps_it(tmp_path: Path, make: Make, capfd: Capture) -> None:
    paths = [make(9_000_000, "a"), make(0, "b")]
    assert main(["send", "--spool", str(tmp_path / "new"), "--file", paths[0], "--file", paths[1]]) == 0
    assert "kept in the spool" in capfd.readouterr().err
    assert arrived(pieces_in(tmp_path / "new")) == {"a": read(paths[0]), "b": read(paths[1])}


def test_ctrl_c_while_the_spool_is_full(tmp_path: Path, make: Make) -> None:
    path, spool = make(12_000_000), tmp_path / "new"
    code = "import sys\nfrom mysocket.verbs import send\nsend.MAX_SPOOL = 6_000_000\nfrom mysocket.cli import main\n"
    code += "sys.exit(main(sys.argv[1:]))"
    with Program([sys.executable, "-c", code, "send", "--spool", str(spool), "--file", path]) as program:
        program.wait_line("is full; waiting for room")
        program.kill(signal.SIGINT)
        program.wait_status(130)
        assert "Interrupted. The transfer is cancelled, and the other side will be told so" in program.stderr_text
    *before, last = chunks(pieces_in(spool))
    assert last.part is Part.CANCEL and last.offset == sum(len(chunk.data) for chunk in before) > 0


def test_a_change_in_the_midst_is_cancelled_in_the_spool(
    tmp_path: Path, make: Make, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, spool = make(12_000_000), tmp_path / "new"
    reads, original = [0], FileReader.read

    def changed(self: FileReader, *size: int) -> list[Piece]:
        reads[0] += 1
        if reads[0] == 7:
            os.truncate(path, 5)
        return original(self, *size)

    monkeypatch.setattr(FileReader, "read", changed)
    assert main(["send", "--spool", str(spool), "--file", path]) == 1
    assert "was changed while it was sent" in (said := capfd.readouterr().err) and "is cancelled, and the other" in said
    assert chunks(pieces_in(spool))[-1].part is Part.CANCEL


def test_nothing_kept_needs_no_last_word(tmp_path: Path, make: Make, capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    path, spool, original = make(100), tmp_path / "new", FileReader.read

    def changed(self: FileReader, *size: int) -> list[Piece]:
        os.truncate(path, 5)
        return original(self, *size)

    monkeypatch.setattr(FileReader, "read", changed)
    assert main(["send", "--spool", str(spool), "--file", path]) == 1
    assert "Nothing of it is accepted" in capfd.readouterr().err and not (spool / "spool.mdb").exists()


@pytest.mark.parametrize("label", ["S1", "S3"])
def test_killed_in_the_midst_leaves_whole_chunks(tmp_path: Path, make: Make, label: str) -> None:
    spool = tmp_path / "new"
    with mysocket("send", "--spool", spool, "--file", make(12_000_000), env={failpoints.VARIABLE: f"{label}:2"}) as program:
        program.wait_status(-signal.SIGKILL)
    found = chunks(pieces_in(spool))
    assert found[0].part is Part.OFFER and all(chunk.part is Part.DATA for chunk in found[1:]) and len(found) > 10


def test_a_service_that_takes_the_spool_meanwhile_gets_the_rest(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mysocket.errors import SpoolLocked
    from mysocket.spool import direct

    path, spool = make(12_000_000), tmp_path / "new"
    spool.mkdir(mode=0o700)
    original, calls = direct.append, list[int]()
    services = list[FakeService]()

    def taken(where: str, *args: object, **rest: object) -> int:
        calls.append(1)
        if len(calls) == 2:
            services.append(FakeService(spool))
            raise SpoolLocked(directory=where, pid=1, role="service")
        return original(where, *args, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(direct, "append", taken)
    # What the fake one leaves in the directory is the socket only.
    assert main(["send", "--quiet", "--spool", str(spool), "--file", path]) == 0
    services[0].close()
    assert arrived(pieces_in(spool) + services[0].kept.pieces) == {"file": read(path)}


# What is seen -------------------------------------------------------------------------------------------------------------------


def test_the_meter_draws_now_and_then() -> None:
    drawn, now = list[str](), [0.0]
    meter = Meter(10_000_000, drawn.append, lambda: now[0])
    for number in range(100):
        now[0] = number * 0.01
        meter.show(number * 100_000)
    assert len(drawn) == 4
    assert drawn[0] == "\r\x1b[K2.0 MB of 10.0 MB (20 %) accepted, 10.0 MB/s"
    meter.clear()
    assert drawn[-1] == "\r\x1b[K"
    empty = Meter(0, drawn.append, lambda: now[0])
    now[0] += 1
    empty.show(60)
    assert "(100 %)" in drawn[-1]


def test_progress_is_drawn_at_a_terminal_and_goes_away(spool: Path, make: Make) -> None:
    def slow(line: Line, count: int) -> None:
        time.sleep(0.03 * ("piece" in line))

    with FakeService(spool, on_line=slow), at_terminal("send", "--spool", spool, "--file", make(8_000_000)) as terminal:
        assert terminal.wait() == 0
        text = terminal.screen.decode()
    assert " of 8.0 MB (" in text and text.endswith("\r\x1b[K")
    with (
        FakeService(spool, on_line=slow),
        at_terminal("send", "--quiet", "--spool", spool, "--file", make(3_000_000)) as terminal,
    ):
        assert terminal.wait() == 0 and terminal.screen == b""
