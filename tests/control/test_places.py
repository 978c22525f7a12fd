"""Where control sockets are: who may listen there, what is replaced, and what is never touched."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mysocket.control import places
from mysocket.control.places import Place, Unusable, connect, entered, listen, listen_at_run_time, names, peer, run_time_places
from mysocket.errors import NoControlSocket
from mysocket.spool.store import CONTROL

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
NOBODY = 65534


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "mysocket"), str(tmp_path))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    os.chmod(tmp_path, 0o700)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def dead(path: Path) -> Path:
    """A socket whose listener was killed."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
    return path


def test_the_name_in_a_spool_is_the_spools() -> None:
    assert places.IN_SPOOL == CONTROL


@pytest.mark.parametrize(
    ("environ", "paths"),
    [
        ({}, ["/run/user/7/mysocket", "/tmp/mysocket-7"]),
        ({"XDG_RUNTIME_DIR": "/x/"}, ["/x/mysocket", "/run/user/7/mysocket", "/tmp/mysocket-7"]),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, ["/run/user/7/mysocket", "/tmp/mysocket-7"]),
        ({"XDG_RUNTIME_DIR": "relative"}, ["/run/user/7/mysocket", "/tmp/mysocket-7"]),
        ({"XDG_RUNTIME_DIR": ""}, ["/run/user/7/mysocket", "/tmp/mysocket-7"]),
    ],
)
def test_the_run_time_directories_in_order(environ: dict[str, str], paths: list[str]) -> None:
    assert [place.path for place in run_time_places(environ, 7)] == paths


def test_the_directory_is_made_closed_to_others_and_the_socket_too(place: Place) -> None:
    before = os.umask(0)
    try:
        listening = listen_at_run_time("9000-x", places=[place])
    finally:
        os.umask(before)
    with listening.socket:
        assert stat.S_IMODE(os.stat(place.path).st_mode) == 0o700
        found = os.stat(listening.path)
        assert stat.S_ISSOCK(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600
        assert listening.path == f"{place.path}/9000-x.sock"
        assert os.listdir(place.path) == ["9000-x.sock"]
        assert not listening.socket.get_inheritable() and not listening.socket.getblocking()
    listening.remove()
    assert os.listdir(place.path) == []


def test_a_umask_that_takes_everything_is_no_hindrance(place: Place) -> None:
    before = os.umask(0o777)
    try:
        listening = listen_at_run_time("9000-x", places=[place])
    finally:
        os.umask(before)
    with listening.socket:
        assert stat.S_IMODE(os.stat(listening.path).st_mode) == 0o600


def test_paths_may_be_longer_than_the_system_takes(tmp_path: Path) -> None:
    home = tmp_path / ("d" * 200)
    home.mkdir()
    place = Place(str(home / "mysocket"), str(home))
    listening = listen_at_run_time("9000-x", places=[place])
    with listening.socket, entered(place) as directory, connect(directory, "9000-x.sock") as connection:
        found = peer(connection)
    assert found == (os.getpid(), os.geteuid(), os.getegid())
    listening.remove()


def test_both_ends_are_told_who_the_other_is(place: Place) -> None:
    listening = listen_at_run_time("9000-x", places=[place])
    with listening.socket, entered(place) as directory, connect(directory, "9000-x.sock"):
        accepted, _ = listening.socket.accept()
        with accepted:
            assert peer(accepted) == (os.getpid(), os.geteuid(), os.getegid())


# Directories that are refused --------------------------------------------------------------------------------------------------


def refused(place: Place, *, create: bool = True) -> str:
    with pytest.raises(Unusable) as problem, entered(place, create=create):
        pass
    return str(problem.value)


def test_a_missing_directory_is_not_made_by_a_client(place: Place) -> None:
    assert refused(place, create=False) == "it does not exist"
    assert not os.path.exists(place.path)


def test_a_missing_home_is_not_made(tmp_path: Path) -> None:
    home = tmp_path / "none"
    assert refused(Place(str(home / "mysocket"), str(home))) == "it does not exist"


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o750, 0o777])
def test_an_open_directory_is_refused_and_left_alone(place: Place, mode: int) -> None:
    os.mkdir(place.path)
    os.chmod(place.path, mode)
    assert "open to others" in refused(place)
    assert stat.S_IMODE(os.stat(place.path).st_mode) == mode


def test_a_symbolic_link_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    os.symlink("real", place.path)
    assert "symbolic link" in refused(place)


def test_a_file_is_refused(place: Place) -> None:
    Path(place.path).touch()
    assert "no directory" in refused(place)


@only_root
def test_a_foreign_directory_is_refused(place: Place) -> None:
    os.mkdir(place.path, 0o700)
    os.chown(place.path, NOBODY, NOBODY)
    assert "it belongs to user" in refused(place)


@only_root
def test_nothing_is_made_in_a_foreign_home(place: Place, tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    assert "it belongs to user" in refused(place)
    assert os.listdir(tmp_path) == []
    os.chown(tmp_path, os.geteuid(), os.getegid())


def test_the_service_takes_the_first_place_that_can_be_used(place: Place, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    os.chmod(tmp_path / "open", 0o755)
    listening = listen_at_run_time("1-a", places=[Place(str(tmp_path / "open"), None), place])
    listening.socket.close()
    assert listening.path.startswith(place.path)
    listening.remove()


def test_without_any_place_all_reasons_are_told(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    os.chmod(tmp_path / "open", 0o755)
    with pytest.raises(NoControlSocket) as problem:
        listen_at_run_time("1-a", places=[Place(str(tmp_path / "open"), None), Place(str(tmp_path / "no/mysocket"), None)])
    assert "/open: it is open to others" in str(problem.value) and "/no/mysocket: it does not exist" in str(problem.value)


# What is in the way -----------------------------------------------------------------------------------------------------------


def test_a_stale_socket_is_replaced(directory: int, tmp_path: Path) -> None:
    dead(tmp_path / "control")
    listening = listen(directory, str(tmp_path), "control")
    with listening.socket, connect(directory, "control"):
        assert os.listdir(tmp_path) == ["control"]
    listening.remove()


def test_a_live_one_is_never_stolen(directory: int, tmp_path: Path) -> None:
    first = listen(directory, str(tmp_path), "control")
    with first.socket:
        with pytest.raises(Unusable, match="another process listens on control"):
            listen(directory, str(tmp_path), "control")
        with connect(directory, "control"):
            first.socket.accept()[0].close()
    assert os.listdir(tmp_path) == ["control"]
    first.remove()


def test_a_live_one_whose_queue_is_full_is_not_stale(directory: int, tmp_path: Path) -> None:
    busy = socket.socket(socket.AF_UNIX)
    busy.bind(str(tmp_path / "control"))
    busy.listen(0)
    waiting = []
    with busy:
        with pytest.raises(Unusable, match="too many others"):
            while True:
                waiting.append(connect(directory, "control"))
        with pytest.raises(Unusable, match="another process"):
            listen(directory, str(tmp_path), "control")
        for one in waiting:
            one.close()


def test_the_holder_of_the_lock_replaces_whatever_listens_and_the_other_removes_nothing(directory: int, tmp_path: Path) -> None:
    first = listen(directory, str(tmp_path), "control", held=True)
    second = listen(directory, str(tmp_path), "control", held=True)
    first.remove()
    first.remove()
    with first.socket, second.socket, connect(directory, "control"):
        second.socket.accept()[0].close()
    second.remove()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("thing", ["link", "dangling", "file", "directory", "fifo"])
def test_what_is_no_socket_is_refused_and_left(directory: int, tmp_path: Path, thing: str, held: bool) -> None:
    where = tmp_path / "control"
    match thing:
        case "link":
            where.symlink_to(dead(tmp_path / "other"))
        case "dangling":
            where.symlink_to(tmp_path / "nothing")
        case "file":
            where.write_text("mine")
        case "directory":
            where.mkdir()
        case "fifo":
            os.mkfifo(where)
    before = os.lstat(where)
    with pytest.raises(Unusable, match=r"symbolic link|no socket"):
        listen(directory, str(tmp_path), "control", held=held)
    with pytest.raises(Unusable):
        connect(directory, "control")
    assert os.path.samestat(os.lstat(where), before)


@only_root
@pytest.mark.parametrize("held", [True, False])
def test_a_foreign_socket_is_refused(directory: int, tmp_path: Path, held: bool) -> None:
    os.chown(dead(tmp_path / "control"), NOBODY, NOBODY)
    with pytest.raises(Unusable, match="control belongs to user"):
        listen(directory, str(tmp_path), "control", held=held)
    with pytest.raises(Unusable, match="control belongs to user"):
        connect(directory, "control")


def test_what_was_left_half_made_is_made_anew(directory: int, tmp_path: Path) -> None:
    dead(tmp_path / ".control.new")
    listening = listen(directory, str(tmp_path), "control")
    with listening.socket:
        assert os.listdir(tmp_path) == ["control"]
    listening.remove()


def test_a_start_removes_the_sockets_of_killed_services_and_nothing_else(place: Place) -> None:
    here = Path(place.path)
    here.mkdir(mode=0o700)
    for name in ("1-a.sock", ".2-b.sock.new", "other"):
        dead(here / name)
    (here / "notes.sock").write_text("a file")
    (here / "link.sock").symlink_to(here / "1-a.sock")
    alive = listen_at_run_time("3-c", places=[place])
    assert sorted(os.listdir(here)) == ["3-c.sock", "link.sock", "notes.sock", "other"]
    mine = listen_at_run_time("4-d", places=[place])
    assert sorted(os.listdir(here)) == ["3-c.sock", "4-d.sock", "link.sock", "notes.sock", "other"]
    for listening in (alive, mine):
        listening.socket.close()
        listening.remove()


def test_starts_at_the_same_time_do_not_remove_each_other(place: Place) -> None:
    os.mkdir(place.path, 0o700)
    found = []

    def start(number: int) -> None:
        found.append(listen_at_run_time(f"{number}-x", places=[place]))

    threads = [threading.Thread(target=start, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with entered(place) as directory:
        assert len(names(directory)) == len(found) == 20
        for name in names(directory):
            connect(directory, name).close()
    for listening in found:
        listening.socket.close()
        listening.remove()
    assert os.listdir(place.path) == []


def test_one_who_keeps_the_lock_is_named_in_the_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(places, "PATIENCE", 0.1)
    os.mkdir(place.path, 0o700)
    other = os.open(place.path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(NoControlSocket, match="locked"):
        listen_at_run_time("1-a", places=[place])
    os.close(other)
    listening = listen_at_run_time("1-a", places=[place])
    # Who listens does not keep the lock.
    again = listen_at_run_time("2-b", places=[place])
    for one in (listening, again):
        one.socket.close()
        one.remove()


def test_no_descriptor_is_left_open(place: Place, directory: int, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    listening = listen_at_run_time("1-a", places=[place])
    with entered(place) as fd:
        connect(fd, "1-a.sock").close()
    listening.socket.close()
    with entered(place) as fd, suppress(Unusable):
        connect(fd, "1-a.sock")
    listening.remove()
    (tmp_path / "control").write_text("mine")
    for act in (lambda: listen(directory, str(tmp_path), "control"), lambda: connect(directory, "none")):
        with suppress(Unusable):
            act()
    assert len(os.listdir("/proc/self/fd")) == before
