"""Metrics of real services: they tell the truth through resets and restarts, and whoever reads them disturbs nobody."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import parser as plain
from prometheus_client.openmetrics import parser as open_metrics

from mysocket.core.wire import Ack, Frame
from tests.support.processes import PIPE, ROOT, Program, free_port, mysocket, wait_until
from tests.support.proxy import CuttingProxy
from tests.support.service import Service, Yard, yard

__all__ = ["yard"]  # the fixture, used by its name below

PLACE = r"metrics at http://(127\.0\.0\.1|\[::1\]):(\d+)/metrics"


def metrics_port(service: Service | Program) -> int:
    """Where it says that it serves metrics, last."""

    def found() -> list[tuple[str, str]]:
        return re.findall(PLACE, service.log if isinstance(service, Service) else service.stderr_text)

    return int(wait_until(found, "no metrics")[-1][1])


def fetch(port: int, path: str = "/metrics", host: str = "127.0.0.1", **headers: str) -> tuple[int, str]:
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=20)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def metrics(port: int, accept: str = "text/plain") -> dict[str, float]:
    """The samples by their names, those of a label or two as ``name,value``; node ids are left out."""
    status, text = fetch(port, Accept=accept)
    assert status == 200
    parse = open_metrics if "openmetrics" in accept else plain
    return {
        ",".join(
            [sample.name, *(value for name, value in sorted(sample.labels.items()) if name not in ("node", "name"))]
        ): sample.value
        for family in parse.text_string_to_metric_families(text)
        for sample in family.samples
    }


def wait_metrics(port: int, true: Callable[[dict[str, float]], bool], what: str) -> dict[str, float]:
    """Metrics of which that is true."""

    def look() -> dict[str, float] | None:
        found = metrics(port)
        return found if true(found) else None

    return wait_until(look, what)


def own_sums(found: dict[str, float]) -> None:
    """What is true of a sender at every moment."""
    accepted, acknowledged = found["mysocket_accepted_position_bytes"], found["mysocket_acknowledged_position_bytes"]
    assert accepted == acknowledged + found["mysocket_waiting_bytes"]
    assert found["mysocket_resent_bytes_total"] <= found["mysocket_sent_bytes_total"]


def test_through_resets_and_a_restart_the_sums_add_up(yard: Yard, tmp_path: Path) -> None:
    seen, cutting = 0, True

    def cut_before(frame: Frame) -> bool:
        nonlocal seen
        seen += isinstance(frame, Ack)
        return cutting and isinstance(frame, Ack) and seen % 3 == 0

    copy = tmp_path / "copy"
    hub_port = free_port()
    hub = yard.service(*("--port", hub_port, "--recv-only", "--spool", "SPOOL", "--output", copy, "--metrics", 0), name="hub")
    with CuttingProxy(hub_port, cut_before) as proxy:
        sender = yard.service("--peer", f"127.0.0.1:{proxy.port}", "--spool", "SPOOL", "--metrics", 0, name="sender")
        there, here = metrics_port(hub), metrics_port(sender)
        data = b""
        for number in range(40):
            part = b"".join(b"%d.%d %s\n" % (number, line, b"x" * (line % 90)) for line in range(5000))
            yard.call("send", "--spool", sender.spool, stdin=part)
            data += part
            own_sums(metrics(here))
            if proxy.cuts >= 4 and number >= 3:
                break
        cutting = False

        def settled(found: dict[str, float]) -> bool:
            return found["mysocket_open_connections"] == 1 and found["mysocket_connections_total"] == proxy.cuts + 1

        said = wait_metrics(
            here, lambda found: settled(found) and found["mysocket_acknowledged_position_bytes"] == len(data), "not acknowledged"
        )
        heard = wait_metrics(
            there, lambda found: settled(found) and found["mysocket_peer_committed_position_bytes"] == len(data), "not committed"
        )
        assert proxy.cuts >= 3 and copy.read_bytes() == data
        own_sums(said)
        assert said["mysocket_accepted_position_bytes"] == len(data) and said["mysocket_waiting_bytes"] == 0
        assert said["mysocket_waiting_messages"] == said["mysocket_waiting_oldest_seconds"] == 0
        assert heard["mysocket_peer_taken_position_bytes"] == heard["mysocket_received_bytes_total"] == len(data)
        assert said["mysocket_sent_bytes_total"] - said["mysocket_resent_bytes_total"] == len(data)
        fresh = said["mysocket_sent_batches_total"] - said["mysocket_resent_batches_total"]
        assert fresh == heard["mysocket_received_batches_total"]
        assert said["mysocket_reconnects_total"] == proxy.cuts >= heard["mysocket_reconnects_total"]
        for found in (said, heard):
            assert found["mysocket_linked"] == found["mysocket_peer_linked"] == 1 <= found["mysocket_round_trip_seconds_count"]
            assert found["mysocket_round_trip_seconds_bucket,+Inf"] == found["mysocket_round_trip_seconds_count"]
            assert found["mysocket_commit_seconds_count,spool"] > 3 and found["mysocket_commit_seconds_sum,spool"] > 0
            assert not sum(value for name, value in found.items() if name.startswith("mysocket_rejected_total"))
        assert said["mysocket_commit_seconds_count,output"] == 0 < heard["mysocket_commit_seconds_count,output"]

        # Positions go on over a restart, counters begin anew.
        sender.restart()
        here = metrics_port(sender)
        again = wait_metrics(here, lambda found: bool(found["mysocket_linked"]), "not linked again")
        assert again["mysocket_accepted_position_bytes"] == again["mysocket_acknowledged_position_bytes"] == len(data)
        assert again["mysocket_sent_bytes_total"] == again["mysocket_reconnects_total"] == 0
        yard.call("send", "--delivered", "--spool", sender.spool, stdin=b"one more\n")
        same = wait_metrics(here, lambda found: found["mysocket_sent_bytes_total"] > 0, "nothing sent")
        open_text = metrics(here, "application/openmetrics-text")
        assert same["mysocket_sent_bytes_total"] == open_text["mysocket_sent_bytes_total"] == 9
        # The hub was linked with this node before.
        heard = wait_metrics(there, lambda found: found["mysocket_peer_committed_position_bytes"] == len(data) + 9, "not there")
        assert heard["mysocket_received_bytes_total"] == len(data) + 9 and heard["mysocket_reconnects_total"] >= 1


def files_of(service: Service) -> int:
    return len(list(Path(f"/proc/{service.pid}/fd").iterdir()))


#: What a thousand connections say: nothing, something without an end, a request whose answer nobody reads, something else.
SAID = (b"", b"GET /metrics HTTP/1.1\r\nX: ", b"GET /metrics HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\0" * 99)


def test_a_hostile_scraper_does_not_disturb_messages(yard: Yard) -> None:
    port = free_port()
    hub = yard.service("--port", port, "--recv-only", "--spool", "SPOOL", "--metrics", 0, name="hub")
    served = metrics_port(hub)
    files = files_of(hub)
    with mysocket("--peer", f"127.0.0.1:{port}", "--send-only") as sender, contextlib.ExitStack() as stack:
        wait_metrics(served, lambda found: bool(found["mysocket_linked"]), "not linked")
        for turn, said in enumerate(SAID, 1):
            for _ in range(250):
                one = stack.enter_context(socket.create_connection(("127.0.0.1", served), timeout=10))
                with contextlib.suppress(OSError):  # it may be dropped already
                    one.sendall(said)
            sender.write(b"a line\n")
            wait_metrics(served, lambda found, size=7 * turn: found["mysocket_received_bytes_total"] == size, "not received")  # type: ignore[misc]
            wait_until(lambda: files_of(hub) <= files + 32 + 8, "it holds more than 32 of them")
            stack.close()
        sender.close_stdin()
        sender.wait_status(0)
    found = wait_metrics(served, lambda found: not found["mysocket_linked"], "still linked")
    assert found["mysocket_received_bytes_total"] == 7 * len(SAID) + 1  # and the end mark
    assert len([line for line in hub.log.splitlines() if "metrics" in line or "HTTP" in line]) == 1
    assert "Traceback" not in hub.log


def test_health_changes_with_the_link(yard: Yard) -> None:
    port = free_port()
    service = yard.service("--peer", f"127.0.0.1:{port}", "--spool", "SPOOL", "--metrics", 0)
    served = metrics_port(service)
    wait_until(lambda: "refused the connection" in fetch(served, "/healthz")[1], "nothing was tried")
    status, text = fetch(served, "/healthz")
    assert status == 503 and text.startswith(f"not linked with 127.0.0.1:{port}: ") and text.count("\n") == 1
    assert metrics(served)["mysocket_dials_failed_total"] >= 1
    with mysocket("-p", port, "--recv-only") as hub:
        wait_until(lambda: fetch(served, "/healthz")[0] == 200, "not linked")
        assert fetch(served, "/healthz")[1].startswith("linked with ")
        hub.kill()
        wait_until(lambda: fetch(served, "/healthz")[0] == 503, "still linked")
    yard.call("stop", "--spool", service.spool)
    with pytest.raises(ConnectionRefusedError):
        fetch(served)


def test_strangers_are_counted_and_metrics_are_on_loopback_in_both_families() -> None:
    with mysocket("-p", 0, "--peer", "192.0.2.1:9", "--recv-only", "--metrics", 0) as program:
        port, served = program.listening_port(), metrics_port(program)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
            assert stranger.recv(1) == b""
        found = wait_metrics(served, lambda found: found["mysocket_rejected_total,not_allowed"] == 1, "not counted")
        assert sum(value for name, value in found.items() if name.startswith("mysocket_rejected_total")) == 1
        with contextlib.suppress(OSError):
            socket.create_connection(("::1", served), timeout=10).close()
            assert fetch(served, "/healthz", "::1")[0] == 503


def test_a_raw_session_has_metrics_too() -> None:
    with mysocket("--raw", "-p", 0, "--bind", "127.0.0.1", "--recv-only", "-k", "--metrics", "127.0.0.1:0") as program:
        port, served = program.listening_port(), metrics_port(program)
        assert fetch(served, "/healthz")[0] == 503
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"hello\n")
            program.wait_output(b"hello\n")
            found = wait_metrics(served, lambda found: found["mysocket_received_bytes_total"] == 6, "not counted")
            assert found["mysocket_linked"] == found["mysocket_open_connections"] == found["mysocket_connections_total"] == 1
            assert fetch(served, "/healthz") == (200, "linked\n")
        wait_until(lambda: fetch(served, "/healthz")[0] == 503, "still linked")


def test_a_port_that_is_taken_is_status_2_before_anything_is_sent(yard: Yard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        for where in (str(port), f"127.0.0.1:{port}"):
            with mysocket("-p", 0, "--metrics", where, stdin=PIPE) as program:
                program.wait_status(2)
                assert re.search(rf"127\.0\.0\.1:{port}\b.*(?i:use)", program.stderr_text), program.stderr_text
        daemon = yard.service("--port", free_port(), "--metrics", port, start=False)
        launched = daemon.launch()
        launched.wait_status(2)
        assert f"127.0.0.1:{port}" in launched.stderr_text and not daemon.log


def test_what_no_option_asks_for_is_not_loaded() -> None:
    """A plain session starts in a fifth of a second, and each of these would be a part of that."""
    rich = "prometheus_client twisted.web tomllib twisted.internet.inotify mysocket.configfile mysocket.services.sources"
    rich += " mysocket.services.outputs mysocket.services.exposition mysocket.services.notify mysocket.inputs.follow"
    source = (
        "import sys, mysocket.service, mysocket.services.desk, mysocket.services.rawstream, mysocket.tap\n"
        "print([name for name in sys.argv[1:] if name in sys.modules])"
    )
    command = [sys.executable, "-c", source, *rich.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    assert done.stdout == "[]\n"
