"""The service and the commands that talk to it, as real processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import xxhash

from tests.support.processes import DEVNULL, PIPE, ROOT, Program, free_port, mysocket, wait_until
from tests.support.proxy import CuttingProxy
from tests.support.service import Client, Service, Yard, two, yard

__all__ = ["yard"]  # the fixture, used by its name below


def texts(program: Program) -> list[str]:
    """What `attach --recv-only --json` has written, whole lines only."""
    return [json.loads(line)["text"] for line in program.stdout.splitlines(keepends=True) if line.endswith(b"\n")]


def consumed(yard: Yard, service: Service, wanted: int, *options: str) -> list[dict[str, Any]]:
    """So many messages of a consumer, which is then ended well."""
    consumer = yard.mysocket("attach", "--recv-only", "--json", *service.where, *options)
    wait_until(lambda: consumer.stdout.count(b"\n") >= wanted, f"no {wanted} messages", 30, consumer)
    if not wanted:
        wait_until(lambda: consumer.pid in attached(service), "it does not attach", 30, consumer)
    consumer.kill(signal.SIGTERM)
    consumer.wait_status(143)
    return [json.loads(line) for line in consumer.stdout.splitlines()]


def attached(service: Service) -> list[int | None]:
    """The processes of its consumers."""
    return [one["attached"] for one in service.status()["inbox"]["consumers"]]


def position_of(service: Service, name: str = "default") -> int | None:
    consumers = service.status()["inbox"]["consumers"]
    return next((int(one["position"]) for one in consumers if one["name"] == name), None)


# End to end ---------------------------------------------------------------------------------------------------------------------


def test_what_is_sent_here_is_read_there(yard: Yard) -> None:
    here, there = two(yard)
    yard.call("send", *here.where, "hello", "world")
    yard.call("send", *here.where, "--delivered", "two")
    yard.call("send", *here.where, "--delivered", stdin=b"three\nfour\n")
    yard.call("send", *there.where, "--delivered", "--whole", stdin=b"back\nagain")
    assert [one["text"] for one in consumed(yard, there, 4)] == ["hello world", "two", "three", "four"]
    assert [one["text"] for one in consumed(yard, here, 1)] == ["back\nagain"]
    assert consumed(yard, there, 0) == []
    assert yard.call("status", *here.where).stdout.startswith(b"linked ")


def test_lines_without_an_end_stay_two_messages(yard: Yard) -> None:
    here, there = two(yard)
    for text in (b"one", b"two"):
        yard.call("send", *here.where, "--delivered", stdin=text)
    assert [one["text"] for one in consumed(yard, there, 2)] == ["one", "two"]


def test_text_leaves_stdin_alone(yard: Yard, tmp_path: Path) -> None:
    here, _ = two(yard)
    unread = tmp_path / "unread"
    unread.write_bytes(b"not this\n")
    with unread.open("rb") as file:
        yard.call("send", *here.where, "this", stdin=file.fileno())
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == 0


def test_a_person_talks_through_it(yard: Yard) -> None:
    here, there = two(yard)
    with yard.terminal("attach", *here.where) as one, yard.terminal("attach", *there.where) as other:
        one.wait_text("leave; the service goes on")
        other.wait_text("leave; the service goes on")
        one.type("hello\n")
        other.wait_text("hello")
        other.type("how are you?\n")
        one.wait_text("how are you")
        one.type("EXIT\n")
        other.type("\x04")
        assert (one.wait(), other.wait()) == (0, 0)
    assert here.is_running() and there.is_running()


def test_accepted_outlives_a_kill_at_once(yard: Yard) -> None:
    port = free_port()
    here = yard.service("--peer", f"127.0.0.1:{port}", "--spool", "SPOOL")
    for number in range(5):
        yard.call("send", *here.where, f"message {number}")
        here.restart()
    with mysocket("-p", port, "--recv-only", stdin=DEVNULL) as receiver:
        receiver.wait_output(b"message 4\n")
        assert receiver.stdout.split(b"\n")[:-1] == [b"message %d" % number for number in range(5)]


def test_the_outcome_of_a_request_outlives_a_kill(yard: Yard) -> None:
    here = yard.service("--peer", f"127.0.0.1:{free_port()}", "--spool", "SPOOL")
    question = {"do": "send", "id": "ab" * 16}
    with Client(here) as client:
        assert client.ask(question)["accepted"] == 0
        client.say({"piece": 1, "flags": 0, "text": "once\n"})
        while client.hear().get("accepted") != 5:
            pass
    here.restart()
    with Client(here) as client:
        assert client.ask(question)["accepted"] == 5
        client.say({"end": True})
        while client.hear().get("ended") is not True:
            pass
        client.say({"confirm": True})
    assert here.status()["out"]["accepted"] == 5


def test_send_goes_on_behind_a_restart(yard: Yard) -> None:
    here, there = two(yard)
    sender = yard.mysocket("send", *here.where, stdin=PIPE)
    for number in range(4):
        sender.write(b"".join(b"%d\n" % (number * 100 + one) for one in range(100)))
        sender.wait_input_taken()
        here.restart()
    sender.close_stdin()
    sender.wait_status(0)
    assert [int(one["text"]) for one in consumed(yard, there, 400)] == list(range(400))


# A full spool -------------------------------------------------------------------------------------------------------------------


def test_a_full_spool_is_waited_for_and_nothing_is_half_accepted(yard: Yard) -> None:
    port = free_port()
    here = yard.service("--peer", f"127.0.0.1:{port}", "--spool", "SPOOL", "--max-spool", "1M")
    block = (b"x" * 99 + b"\n") * 1000
    full = yard.mysocket("send", *here.where, "-w", "0.5", stdin=block * 20)
    full.wait_status(3)
    found = re.search(r"Of the input (\d+) bytes are accepted", full.stderr_text)
    assert found is not None, full.stderr_text
    accepted = int(found[1])
    assert accepted % 100 == 0 and here.status()["out"]["accepted"] == accepted
    whole = yard.mysocket("send", *here.where, "-w", "0.3", "--whole", stdin=b"y" * 900_000)
    whole.wait_status(3)
    assert "Nothing of it is accepted" in whole.stderr_text
    yard.call("send", *here.where, "-w", "0.1", "nor", "this", status=3)
    waiting = yard.mysocket("send", *here.where, "patience")
    with mysocket("-p", port, "--recv-only", stdin=DEVNULL) as receiver:
        waiting.wait_status(0)
        receiver.wait_output(b"patience\n")
        assert receiver.stdout == (block * 20)[:accepted] + b"patience\n"


def test_delivered_is_a_matter_of_the_peer(yard: Yard) -> None:
    here = yard.service("--peer", f"127.0.0.1:{free_port()}", "--spool", "SPOOL")
    program = yard.mysocket("send", *here.where, "--delivered", "-w", "0.3", "hello")
    program.wait_status(3)
    assert "All of it is accepted" in program.stderr_text and "do not send it again" in program.stderr_text


# Consumers ----------------------------------------------------------------------------------------------------------------------


def test_a_consumer_that_is_killed_gets_it_again_until_it_is_acknowledged(yard: Yard) -> None:
    here, there = two(yard)
    yard.call("send", *here.where, "--delivered", stdin=b"one\ntwo\nthree\n")
    for _ in range(2):
        consumer = yard.mysocket("attach", "--recv-only", "--json", "--ack", "none", *there.where)
        wait_until(lambda: consumer.stdout.count(b"\n") == 3, "no messages", 30, consumer)  # noqa: B023
        consumer.kill(signal.SIGKILL)
        consumer.wait()
        assert texts(consumer) == ["one", "two", "three"]
    second = json.loads(consumer.stdout.splitlines()[1])["position"]
    yard.call("ack", *there.where, "default", str(second))
    there.restart()
    assert [one["text"] for one in consumed(yard, there, 1)] == ["three"]
    there.restart()
    assert consumed(yard, there, 0) == [] and position_of(there) == 14


def test_acknowledged_positions_are_messages_ends(yard: Yard) -> None:
    here, there = two(yard)
    yard.call("send", *here.where, "--delivered", stdin=b"one\ntwo\n")
    consumer = yard.mysocket("attach", "--recv-only", "--json", "--ack", "none", *there.where)
    wait_until(lambda: consumer.stdout.count(b"\n") == 2, "no messages", 30, consumer)
    for position, status, words in ((5, 2, "not where a message ends"), (99, 2, "behind the end")):
        refused = yard.call("ack", *there.where, "default", str(position), status=status)
        assert words in refused.stderr_text
    assert "no consumer nobody here" in yard.call("ack", *there.where, "nobody", "4", status=1).stderr_text
    yard.call("ack", *there.where, "default", "4")
    assert position_of(there) == 4


def test_two_consumers_each_get_all(yard: Yard) -> None:
    here, there = two(yard)
    assert consumed(yard, there, 0, "--as", "second") == []
    first = yard.mysocket("attach", "--recv-only", "--json", "--as", "first", *there.where)
    yard.call("send", *here.where, "--delivered", "for", "both")
    wait_until(lambda: texts(first) == ["for both"], "not at the first", 30, first)
    busy = yard.call("attach", "--recv-only", "--as", "first", *there.where, status=1)
    assert f"attached already, by process {first.pid}" in busy.stderr_text
    assert [one["text"] for one in consumed(yard, there, 1, "--as", "second")] == ["for both"]
    assert consumed(yard, there, 0, "--as", "third", "--from", "now") == []
    state = there.status()["inbox"]
    assert {one["name"]: (one["position"], one["attached"]) for one in state["consumers"]} == {
        "first": (9, first.pid),
        "second": (9, None),
        "third": (9, None),
    }


def test_a_consumer_that_has_gone_stalls_the_peer_until_it_is_forgotten(yard: Yard) -> None:
    here, there = two(yard, "--max-spool", "2M")
    assert consumed(yard, there, 0, "--as", "gone") == []
    block = (b"x" * 999 + b"\n") * 1000
    stalled = yard.mysocket("send", *here.where, "--delivered", stdin=block * 8)
    live = yard.mysocket("attach", "--recv-only", "--as", "live", *there.where)

    def is_full() -> bool:
        inbox = there.status()["inbox"]
        holders = [one["name"] for one in inbox["consumers"] if one["holds"]]
        return inbox["room"] == 0 and holders == ["gone"]

    wait_until(is_full, "the inbox does not fill", 30, stalled, live)
    assert b"gone" in yard.call("status", *there.where).stdout
    assert stalled.running() and there.status()["inbox"]["kept_bytes"] < 4_000_000
    yard.call("forget", *there.where, "gone")
    stalled.wait_status(0)
    wait_until(lambda: len(live.stdout) == len(block) * 8, "not all has come", 30, live)
    assert live.stdout == block * 8
    assert "no consumer gone here" in yard.call("forget", *there.where, "gone", status=1).stderr_text


# Status -------------------------------------------------------------------------------------------------------------------------


def test_status_of_a_link_that_is_up_cut_and_refused(yard: Yard) -> None:
    port = free_port()
    there = yard.service("--port", port, "--spool", "SPOOL", name="there")
    with CuttingProxy(port, lambda frame: True) as proxy:
        proxy._cut_before = lambda frame: False
        here = yard.service("--peer", f"127.0.0.1:{proxy.port}", "--spool", "SPOOL", name="here")
        here.wait_status(linked=True)
        yard.call("send", *here.where, "--delivered", "hello")
        state = here.status()
        assert yard.call("status", *here.where).stdout.startswith(b"linked ")
        (peer,) = state["peers"]
        assert peer["linked"] and peer["durable"] and peer["node"] == there.status()["node"]
        assert state["since"] <= peer["since"] <= time.time() and 0 <= peer["heard"] < 20 and peer["round_trip"] < 5
        assert (state["out"]["accepted"], state["out"]["acknowledged"], state["out"]["waiting_bytes"]) == (6, 6, 0)
        assert state["out"]["waiting_messages"] == 0 and state["pid"] == here.pid and state["spool"] == str(here.spool)
        assert there.status()["inbox"]["end"] == 6
        # Cut, and refused from then on.
        proxy.refuse = True
        proxy._cut_before = lambda frame: True
        yard.call("send", *here.where, "on", "its", "way")
        state = here.wait_status(linked=False)
        text = yard.call("status", *here.where, status=1)
        assert text.stdout.startswith(b"not linked ")
        assert not state["peers"][0]["linked"] and state["peers"][0]["away_since"] <= time.time()
        assert state["peers"][0]["since"] is None
        assert state["out"]["waiting_bytes"] == 11 and state["out"]["waiting_messages"] == 1
        assert time.time() - 60 < state["out"]["oldest"] <= time.time()
        wait_until(lambda: here.status()["dial"]["failed"] > 0, "no attempt has failed")
        dial = here.status()["dial"]
        assert dial["peer"] == f"127.0.0.1:{proxy.port}" and (dial["next_attempt"] is None or dial["next_attempt"] >= 0)
        proxy._cut_before = lambda frame: False
        proxy.refuse = False
        state = here.wait_status(linked=True)
        assert state["totals"]["connections"] >= 2
        yard.call("send", *here.where, "--delivered", "again")
    assert here.status()["out"]["waiting_bytes"] == 0


def test_status_where_nobody_listens(yard: Yard) -> None:
    port = free_port()
    here = yard.service("--peer", f"127.0.0.1:{port}", "--spool", "SPOOL")
    yard.call("send", *here.where, "hello")
    wait_until(lambda: here.status()["dial"]["error"], "no error is known")
    program = yard.call("status", *here.where, status=1)
    assert program.stdout.startswith(b"not linked ") and f"127.0.0.1:{port}".encode() in program.stdout
    state = here.status()
    assert state["peers"] == [] and state["dial"]["failed"] >= 1 and "refused" in state["dial"]["error"]


# Leaving ------------------------------------------------------------------------------------------------------------------------


def assert_left_well(yard: Yard, service: Service) -> None:
    service.wait_gone()
    wait_until(lambda: not service.pid_file.exists(), "the pid file stays")
    assert not (service.spool / "control").exists()
    assert "Traceback" not in service.log and "Unhandled" not in service.log, service.log
    if service.spool.exists():
        yard.call("spool", str(service.spool))


@pytest.mark.parametrize("how", ["stop", "SIGTERM"])
def test_leaving(yard: Yard, how: str) -> None:
    here, there = two(yard)
    attached = yard.mysocket("attach", "--recv-only", "--as", "a", *here.where)
    # One that has not found the service yet would look for it once, and leave.
    wait_until(lambda: here.status()["inbox"]["consumers"], "it does not attach", 30, attached)
    sender = yard.mysocket("send", *here.where, stdin=PIPE)
    for number in range(50):
        sender.write(b"%d\n" % number)
    sender.wait_input_taken()
    if how == "stop":
        yard.call("stop", *here.where)
        # What comes next may begin at once.
        assert not here.is_running() and not here.pid_file.exists()
    else:
        os.kill(here.pid, signal.SIGTERM)
    assert_left_well(yard, here)
    assert [path.name for path in yard.sockets()] == [path.name for path in yard.sockets() if there.args[1] in path.name]
    attached.wait_line("Waiting for it to come back")
    sender.write(b"50\n")
    here.start()
    sender.close_stdin()
    sender.wait_status(0)
    attached.wait_line("the service is back")
    yard.call("send", *here.where, "--delivered", "51")
    assert [int(one["text"]) for one in consumed(yard, there, 52)] == list(range(52))


def test_stop_and_start_and_stop(yard: Yard) -> None:
    """What a script does, one behind the other."""
    here = yard.service("--port", free_port(), "--spool", "SPOOL")
    for _ in range(4):
        yard.call("stop", *here.where)
        here.start()


def test_nobody_is_there_to_be_stopped(yard: Yard) -> None:
    for verb in (["stop"], ["status"], ["attach", "--recv-only"], ["send", "x"], ["ack", "a", "0"], ["forget", "a"]):
        program = yard.call(*verb, status=1)
        assert str(yard.run_time / "mysocket") in program.stderr_text and f"/tmp/mysocket-{os.getuid()}" in program.stderr_text


def test_with_a_spool_and_no_service_send_keeps_it(yard: Yard) -> None:
    here, there = two(yard)
    yard.call("stop", *here.where)
    kept = yard.call("send", "--spool", str(here.spool), "for", "later")
    assert "kept in the spool" in kept.stderr_text
    here.start()
    assert [one["text"] for one in consumed(yard, there, 1)] == ["for later"]


# Kinds of services --------------------------------------------------------------------------------------------------------------


def test_a_service_in_memory(yard: Yard) -> None:
    here, there = free_port(), free_port()
    one = yard.service("--port", here, "--peer", f"127.0.0.1:{there}")
    other = yard.service("--port", there, "--peer", f"127.0.0.1:{here}")
    one.wait_status(linked=True)
    looking = yard.terminal("attach", *other.where)
    looking.wait_text("leave; the service goes on")
    yard.call("send", *one.where, "--delivered", "in", "passing")
    looking.wait_text("in passing")
    for verb in (["attach", "--recv-only"], ["ack", "a", "1"], ["forget", "a"]):
        refused = yard.call(*verb, *other.where, status=2)
        assert "keeps no inbox: it was started without --spool" in refused.stderr_text
    assert one.status()["inbox"] is None and one.status()["spool"] is None
    yard.call("stop", *one.where)


def test_a_service_with_an_output_file(yard: Yard) -> None:
    port, output = free_port(), yard.path / "output"
    service = yard.service("--port", port, "--spool", "SPOOL", "--output", output)
    looking = yard.terminal("attach", *service.where)
    looking.wait_text("leave; the service goes on")
    with mysocket("--peer", f"127.0.0.1:{port}", stdin=b"to the file\n") as sender:
        sender.wait_status(0)
    looking.wait_text("to the file")
    assert output.read_bytes() == b"to the file\n"
    refused = yard.call("attach", "--recv-only", *service.where, status=2)
    assert "keeps no inbox: it was started with --output" in refused.stderr_text


def test_output_to_stdout(yard: Yard) -> None:
    port = free_port()
    with yard.foreground("--port", port, "--spool", "spool", "--output", "-") as service:
        service.wait_line("listening on")
        with mysocket("--peer", f"127.0.0.1:{port}", stdin=b"to stdout\n") as sender:
            sender.wait_status(0)
        service.wait_output(b"to stdout\n")
        yard.call("stop", "--port", port)
        service.wait_status(0)
        assert service.stdout == b"to stdout\n"
    refused = yard.service("--port", port, "--output", "-", start=False).launch()
    refused.wait_status(2)
    assert "a daemon has no stdout" in refused.stderr_text and "Traceback" not in refused.stderr_text


def test_in_the_foreground_with_a_spool_it_keeps_an_inbox_too(yard: Yard) -> None:
    port = free_port()
    with yard.foreground("--port", port, "--spool", "spool") as service:
        service.wait_line("listening on")
        with mysocket("--peer", f"127.0.0.1:{port}", stdin=b"kept\n") as sender:
            sender.wait_status(0)
        consumer = yard.mysocket("attach", "--recv-only", "--port", port)
        consumer.wait_output(b"kept\n")
        service.kill(signal.SIGTERM)
        assert service.wait() in (0, -signal.SIGTERM)
        assert service.stdout == b""


def test_services_that_go_one_way(yard: Yard) -> None:
    port = free_port()
    receiver = yard.service("--port", port, "--spool", "SPOOL", "--recv-only", name="receiver")
    sender = yard.service("--peer", f"127.0.0.1:{port}", "--spool", "SPOOL", "--send-only", name="sender")
    yard.call("send", *sender.where, "--delivered", "one", "way")
    assert [one["text"] for one in consumed(yard, receiver, 1)] == ["one way"]
    assert "only receives (--recv-only)" in yard.call("send", *receiver.where, "back", status=2).stderr_text
    assert "only sends (--send-only)" in yard.call("attach", "--recv-only", *sender.where, status=2).stderr_text
    assert "only sends (--send-only)" in yard.call("forget", "a", *sender.where, status=2).stderr_text


def test_a_hub_has_the_messages_of_all(yard: Yard) -> None:
    port = free_port()
    hub = yard.service("--port", port, "--spool", "SPOOL", name="hub")
    senders = [yard.service("--peer", f"127.0.0.1:{port}", "--spool", "SPOOL", name=f"sender{one}") for one in range(3)]
    for number in range(5):
        for name, sender in enumerate(senders):
            yard.call("send", *sender.where, "--delivered", f"{name}:{number}")
    found = consumed(yard, hub, 15)
    for name in range(3):
        mine = [one for one in found if one["text"].startswith(f"{name}:")]
        assert [one["text"] for one in mine] == [f"{name}:{number}" for number in range(5)]
        assert len({one["stream"] for one in mine}) == 1
    assert hub.status()["peers_total"] == 3 and hub.status()["linked"]


def test_a_hub_sends_to_the_first_that_takes_something(yard: Yard) -> None:
    port = free_port()
    hub = yard.service("--port", port, "--spool", "SPOOL", name="hub")
    yard.service("--peer", f"127.0.0.1:{port}", "--send-only", name="sender")
    hub.wait_status(linked=True)
    yard.call("send", *hub.where, "to whom it may concern")
    with mysocket("--peer", f"127.0.0.1:{port}", stdin=PIPE) as taker:
        wait_until(lambda: taker.stdout == b"to whom it may concern\n", "nothing came", 30, taker)


def test_a_hub_takes_messages_though_the_first_that_came_has_lost_its_spool(yard: Yard) -> None:
    port = free_port()
    hub = yard.service("--port", port, "--spool", "SPOOL", name="hub")
    spool = yard.path / "sender"
    for status in (0, 5):
        yard.call("--peer", f"127.0.0.1:{port}", "--spool", spool, stdin=b"a line\n", status=status)
        shutil.rmtree(spool)
        hub.restart()
    yard.call("--peer", f"127.0.0.1:{port}", "--spool", spool, stdin=b"a line\n", status=5)
    yard.call("send", "-w", "20", *hub.where, "accepted all the same")
    assert hub.status()["out"]["waiting_messages"] == 1


def test_a_peer_may_get_a_spool_later(yard: Yard) -> None:
    here, there = free_port(), free_port()
    one = yard.service("--port", here, "--peer", f"127.0.0.1:{there}", "--spool", "SPOOL")
    before = yard.service("--port", there, "--peer", f"127.0.0.1:{here}")
    yard.call("send", *one.where, "--delivered", "to the log")
    yard.call("stop", *before.where)
    other = yard.service("--port", there, "--peer", f"127.0.0.1:{here}", "--spool", "SPOOL")
    yard.call("send", *one.where, "--delivered", "to the inbox")
    assert [found["text"] for found in consumed(yard, other, 1)] == ["to the inbox"]
    assert one.is_running()


# Which service ------------------------------------------------------------------------------------------------------------------


def test_of_two_services_one_is_chosen(yard: Yard) -> None:
    here, there = two(yard)
    refused = yard.call("status", status=2)
    for service in (here, there):
        assert f"process {service.pid} --port {service.args[1]}" in refused.stderr_text
    assert "--port PORT or --spool DIR" in refused.stderr_text
    for which in (("--port", here.args[1]), ("--spool", str(here.spool))):
        program = yard.call("status", "--json", *which)
        assert json.loads(program.stdout)["pid"] == here.pid
    yard.call("stop", *there.where)
    program = yard.mysocket("status", "--json")
    program.wait()
    assert json.loads(program.stdout)["pid"] == here.pid


def test_the_socket_of_a_killed_service_is_replaced(yard: Yard) -> None:
    here = yard.service("--port", free_port(), "--spool", "SPOOL")
    before = here.socket.stat().st_ino, yard.sockets()
    assert [path.stat().st_mode & 0o777 for path in (*yard.sockets(), here.socket)] == [0o600, 0o600]
    assert (yard.run_time / "mysocket").stat().st_mode & 0o777 == 0o700
    here.kill()
    assert here.socket.exists()
    here.start()
    assert here.socket.stat().st_ino != before[0] and len(yard.sockets()) == 1 and yard.sockets() != before[1]
    yard.call("send", "--port", here.args[1], "x")
    yard.call("send", *here.where, "x")


def test_a_link_in_place_of_the_socket_is_refused(yard: Yard) -> None:
    """By the service, which goes on without that place, and by those who look for it."""
    here = yard.service("--port", free_port(), "--spool", "SPOOL")
    yard.call("stop", *here.where)
    (here.spool / "control").symlink_to(yard.path / "elsewhere")
    here.start()
    assert "symbolic link" in here.log and not (yard.path / "elsewhere").exists()
    assert "symbolic link" in yard.call("stop", *here.where, status=1).stderr_text
    yard.call("stop", "--port", here.args[1])
    (yard.run_time / "mysocket").rename(yard.path / "moved")
    (yard.run_time / "mysocket").symlink_to(yard.path / "moved")
    (here.spool / "control").unlink()
    here.start()
    assert "symbolic link" in here.log and list((yard.path / "moved").iterdir()) == []
    yard.call("stop", *here.where)


def test_another_user_is_refused(yard: Yard) -> None:
    """Who gets past the modes of the directories is still asked who he is, by the kernel's word."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv (apt-get install util-linux)")
    here = yard.service("--port", free_port(), "--spool", "SPOOL")
    script = """
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
except PermissionError:
    sys.exit(13)
data = b""
try:
    s.sendall(b'{"do":"stop"}\\n')
    while chunk := s.recv(65536):
        data += chunk
except BrokenPipeError:
    data = s.recv(65536)
except ConnectionResetError:
    pass  # what we said was not read
print(data.decode())
"""

    def as_nobody() -> tuple[int, str]:
        argv = ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-I", "-c", script, str(here.socket)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, done.stdout + done.stderr

    if as_nobody()[0] != 13:
        pytest.skip("another user cannot run this Python")
    opened = []
    for path in (here.socket, *list(here.socket.parents)[:-1]):
        opened.append((path, path.stat().st_mode & 0o7777))
        path.chmod(0o777 if path == here.socket else opened[-1][1] | 0o111)
    try:
        status, text = as_nobody()
    finally:
        for path, mode in opened:
            path.chmod(mode)
    assert status == 0, text
    (answer,) = [json.loads(line) for line in text.splitlines() if line]
    assert "takes nobody else's word (you are 65534)" in answer["error"] and answer["status"] == 2
    assert here.status()["pid"] == here.pid


def test_a_command_of_another_user_finds_none(yard: Yard) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv (apt-get install util-linux)")
    here = yard.service("--port", free_port(), "--spool", "SPOOL")
    with tempfile.TemporaryDirectory() as place:
        # Virtual environments, and what pytest makes, are open to their owner only.
        os.chmod(place, 0o755)
        for package in (ROOT / "mysocket", Path(xxhash.__file__).parent):
            shutil.copytree(package, Path(place, package.name), ignore=shutil.ignore_patterns("__pycache__"))
        env = {**os.environ, **yard.env, "PYTHONPATH": place, "PYTHONDONTWRITEBYTECODE": "1"}
        python = os.path.realpath(sys.executable)

        def as_nobody(*words: str) -> subprocess.CompletedProcess[str]:
            argv = ["setpriv", "--reuid", "65534", "--clear-groups", python, *words]
            return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, env=env, cwd="/")

        if as_nobody("-c", "import mysocket.cli, xxhash").returncode:
            pytest.skip("another user cannot run this Python")
        done = as_nobody("-m", "mysocket", "status", "--port", here.args[1])
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
