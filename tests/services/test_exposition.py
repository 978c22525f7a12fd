"""Metrics and health: what is served is what the table says, whoever asks for it, and however."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import parser as plain
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as open_metrics
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from mysocket._version import __version__
from mysocket.commandline import parse_command_line
from mysocket.core.batch import LineCutter
from mysocket.core.wire import Input
from mysocket.ends.descriptors import What
from mysocket.ends.escape import one_line
from mysocket.ends.intake import InputFacts, OutputFacts
from mysocket.ends.stdio import Ends
from mysocket.errors import ConnectionRefused, DiskFailed
from mysocket.metrics import Rejected
from mysocket.services import exposition, measures, scrapes
from mysocket.services.base import EndpointService
from mysocket.services.exposition import Exposition, families
from mysocket.services.linked import LinkService
from mysocket.services.measures import METRICS, Sample, measure
from mysocket.services.rawdatagram import RawDatagramService
from mysocket.services.rawstream import RawStreamService
from mysocket.services.state import LISTED, Backlog
from mysocket.spool.disk import DiskSpool
from mysocket.watch import Voice
from tests.support.network import Connection, Person, run
from tests.support.spools import close, opened, settle
from tests.test_docs import blocks, rows, section

NOW = 1_800_000_000.0
OPEN = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


class Guest:
    """A service, as the network in memory sees a person."""

    def __init__(self, service: LinkService) -> None:
        self.node = service.node
        self._service = service

    def protocol(self, *, dialler: bool) -> Any:
        return Person.protocol(SimpleNamespace(clock=self._service.reactor, node=self.node), dialler=dialler)  # type: ignore[arg-type]


class Reactor(MemoryReactorClock):
    """A reactor whose threads do what they are asked to at once."""

    def callFromThread(self, call: Callable[..., object], *args: Any) -> None:
        call(*args)


class House:
    """Services that share a clock, and are not started."""

    def __init__(self) -> None:
        self.clock = Reactor()
        self.told: list[str] = []
        self._undo = ExitStack()

    def service(self, *argv: str, kind: Callable[..., EndpointService] = LinkService, **named: Any) -> Any:
        settings = parse_command_line(argv)
        ends = Ends(self.clock, stdin=What.CLOSED, max_message=settings.max_message, stays=True)
        service: Any = kind(settings, self.clock, voice=Voice(self.told.append), ends=ends, **named)
        return service

    def spool(self, **named: Any) -> DiskSpool:
        path = self._undo.enter_context(TemporaryDirectory())
        spool = opened(Path(path) / "spool", wall=lambda: NOW - 60, **named)
        self._undo.callback(close, spool)
        return spool

    def link(self, service: LinkService, person: Person) -> Connection:
        if not service.node.character.hub and not service.node.links:
            service.node.start()
        connection = Connection(person, Guest(service))  # type: ignore[arg-type]
        run(connection)
        if isinstance(service.node.spool, DiskSpool):
            settle(service.node.spool)
        return connection

    def close(self) -> None:
        self._undo.close()


@contextmanager
def house_built() -> Iterator[House]:
    built = House()
    try:
        yield built
    finally:
        built.close()


@pytest.fixture
def house() -> Iterator[House]:
    with house_built() as built:
        yield built


class Wire(StringTransport):
    """A transport that tells its protocol when it is aborted, as TCP does."""

    def abortConnection(self) -> None:
        if not self.disconnected:
            self.disconnected = True
            self.protocol.connectionLost(Failure(ConnectionDone()))

    loseConnection = abortConnection


class Scraper:
    """One connection."""

    def __init__(self, served: Exposition) -> None:
        self.transport = Wire()
        self.channel = served.factory.buildProtocol(None)
        self.transport.protocol = self.channel
        self.channel.makeConnection(self.transport)

    def send(self, data: bytes) -> bytes:
        self.channel.dataReceived(data)
        return self.answer

    @property
    def answer(self) -> bytes:
        return bytes(self.transport.value())

    @property
    def closed(self) -> bool:
        return bool(self.transport.disconnected)


def ask(served: Exposition, what: str = "GET /metrics", **headers: str) -> bytes:
    """The answer to a request, when the disk has told what it was asked for."""
    lines = [f"{what} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    scraper, service = Scraper(served), served._service
    scraper.send("\r\n".join([*lines, "", ""]).encode())
    if isinstance(service, LinkService) and isinstance(service.node.spool, DiskSpool):
        settle(service.node.spool)
    return scraper.answer


def body(answer: bytes, status: int = 200) -> str:
    head, _, text = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    length = re.search(rb"^Content-Length: (\d+)\r?$", head, re.MULTILINE)
    assert length is not None and int(length[1]) == len(text)
    assert b"\r\nConnection: close" in head
    return text.decode()


def exposed(service: EndpointService) -> Exposition:
    return Exposition(service, ("127.0.0.1", 0), wall=lambda: NOW)


def read(served: Exposition, accept: str = "text/plain") -> dict[str, Metric]:
    """The families, read by the library's own parser."""
    text = body(ask(served, Accept=accept))
    parse = open_metrics if "openmetrics" in accept else plain
    found = list(parse.text_string_to_metric_families(text))
    assert len({family.name for family in found}) == len(found)
    return {family.name: family for family in found}


def values(service: EndpointService) -> dict[tuple[str, ...], float]:
    """All samples: the name and the values of the labels, in the order of the table."""
    found = {}
    for family in read(exposed(service)).values():
        for sample in family.samples:
            metric = METRICS.get(sample.name)
            names = metric.labels if metric is not None else sorted(sample.labels)
            key = (sample.name, *(sample.labels[name] for name in names))
            assert key not in found
            found[key] = sample.value
    return found


def busy(house: House) -> Iterator[EndpointService]:
    """A session of every kind; together they have values for every metric."""
    spool = house.spool(keep_received=True)
    service = house.service("-p", "9000", spool=spool, attended=True, downloads=None)
    person = Person(house.clock, 7, name="hosta", input=Input.OPEN)
    assert spool.inbox is not None
    spool.inbox.join("default")
    house.link(service, person)
    facts = InputFacts("follow:/var/log/app.log", 5, 1, 2, 3, 4, False)
    outputs = [OutputFacts("tcp:a:1", True, 7, 8, 9, "away"), OutputFacts("file", None, 1, 0, 0, None)]
    kind = type("WithPlaces", (LinkService,), {"input_facts": [facts], "output_facts": outputs})
    yield service
    yield house.service("--peer", "hub:9001", kind=kind)
    yield house.service("--peer", "hub:9001", "--raw", kind=RawStreamService)
    yield house.service("--peer", "hub:9001", "--raw", "--udp", kind=RawDatagramService)


# The table ----------------------------------------------------------------------------------------------------------------------


def test_what_is_served_is_the_table(house: House) -> None:
    seen: set[str] = set()
    for service in busy(house):
        for accept in ("text/plain", OPEN):
            found = read(exposed(service), accept)
            open_names = [name.removesuffix("_total").removesuffix("_info") for name in METRICS]
            assert [*found] == (open_names if accept == OPEN else [name.removesuffix("_total") for name in METRICS])
            for (name, metric), family in zip(METRICS.items(), found.values(), strict=True):
                kind = "gauge" if metric.kind == "info" and accept != OPEN else metric.kind
                assert (family.type, family.documentation) == (kind, metric.help)
                endings = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
                for sample in family.samples:
                    assert sample.name in {name + ending for ending in endings}
                    assert sample.labels.keys() - {"le"} == set(metric.labels)
                    seen.add(name)
    assert seen == set(METRICS)  # none is there for nothing


def test_names_are_those_of_prometheus() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"mysocket_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (metric.kind == "counter") and name.endswith("_info") == (metric.kind == "info")
        assert metric.kind != "histogram" or name.endswith("_seconds")
        assert metric.help and "\n" not in metric.help and metric.help.endswith(".")


def test_the_manual_lists_exactly_what_is_served() -> None:
    table = [row for row in rows(section("docs/operations.md", "## Metrics")) if row[0].startswith("`mysocket_")]
    listed = [(row[0].strip("`"), row[1], tuple(re.findall(r"`(\w+)`", row[2]))) for row in table]
    assert listed == [(metric.name, metric.kind, metric.labels) for metric in METRICS.values()]
    assert all(len(row) == 4 and row[3] for row in table)


def test_the_manual_lists_every_reason() -> None:
    assert [row[0].strip("`") for row in rows(section("docs/operations.md", "### Rejected"))[2:]] == [*Rejected]


def test_the_alerts_ask_for_what_there_is() -> None:
    (rules,) = blocks(section("docs/operations.md", "### Alerts"), "yaml")
    expressions = re.findall(r"expr: (.*)", rules)
    names = {name for text in expressions for name in re.findall(r"mysocket_\w+", text)}
    assert len(expressions) >= 8 and {name.removesuffix("_bucket").removesuffix("_count") for name in names} <= set(METRICS)
    reasons = re.search(r'reason=~"([^"]+)"', rules)
    assert reasons is not None and set(reasons[1].split("|")) <= set(Rejected)


# Values -------------------------------------------------------------------------------------------------------------------------


def test_a_service_says_who_it_is_and_since_when(house: House) -> None:
    service = house.service("-p", "9000")
    found = values(service)
    assert found["mysocket_info", __version__, service.node.id.hex(), one_line(service.node.character.name)] == 1
    assert found["mysocket_start_time_seconds",] == NOW and found["mysocket_linked",] == 0


def test_what_waits_in_a_spool(house: House) -> None:
    spool = house.spool()
    service = house.service("--peer", "hub:9001", spool=spool)
    spool.append(LineCutter().feed(b"one\n" * 10)[0])
    settle(spool)
    spool.append(LineCutter().feed(b"two\n")[0])
    assert totals(service)["mysocket_uncommitted_bytes"] == 4  # the disk is asked before it commits
    found = totals(service)
    assert found["mysocket_accepted_position_bytes"] == found["mysocket_waiting_bytes"] == 44
    assert found["mysocket_acknowledged_position_bytes"] == found["mysocket_uncommitted_bytes"] == 0
    assert (found["mysocket_waiting_messages"], found["mysocket_waiting_oldest_seconds"]) == (11, 60)
    assert 0 < found["mysocket_spool_room_bytes"] < found["mysocket_spool_capacity_bytes"]
    spool.seek(0)
    assert spool.read(0) is not None
    spool.retire(40)
    found = totals(service)
    assert (found["mysocket_acknowledged_position_bytes"], found["mysocket_waiting_bytes"]) == (40, 4)
    spool.retire(44)
    found = totals(service)
    assert found["mysocket_waiting_bytes"] == found["mysocket_waiting_oldest_seconds"] == 0


def test_what_is_acknowledged_while_the_disk_is_asked_waits_no_more(house: House) -> None:
    spool = house.spool()
    service = house.service("--peer", "hub:9001", spool=spool)
    found = {sample.name: sample.value for sample in measure(service, since=0.0, backlog=Backlog(3, NOW - 60), wall=NOW)}
    assert found["mysocket_waiting_bytes"] == found["mysocket_waiting_oldest_seconds"] == 0


def totals(service: EndpointService) -> dict[str, float]:
    """The samples without labels."""
    return {key[0]: value for key, value in values(service).items() if len(key) == 1}


def test_a_stream_that_is_only_received_has_no_positions_here(house: House) -> None:
    found = values(house.service("-p", "9000", "--recv-only"))
    assert not any("position" in key[0] or "waiting" in key[0] for key in found)


def test_peers_are_listed_and_not_without_end(house: House) -> None:
    service = house.service("-p", "9000", spool=house.spool(keep_received=True))
    for seed in range(LISTED + 20):
        person = Person(house.clock, 100 + seed, name="same name", input=Input.OPEN)
        connection = house.link(service, person)
        assert person.input is not None
        person.input.accept(LineCutter().feed(b"hello\n"))
        run(connection)
        if seed < LISTED:
            connection.cut()
            run(connection)
    found = values(service)
    assert found["mysocket_peers",] == LISTED + 20
    linked = [value for key, value in found.items() if key[0] == "mysocket_peer_linked"]
    assert len(linked) == LISTED and sum(linked) == 20  # those that are here come first
    assert len([key for key in found if key[0] == "mysocket_peer_heard_seconds"]) == 20
    assert found["mysocket_connections_total",] == LISTED + 20 and found["mysocket_open_connections",] == 20
    assert found["mysocket_received_bytes_total",] == 6 * (LISTED + 20)


def test_raw_sessions_count_what_they_turn_away(house: House) -> None:
    service = house.service("-p", "9000", "--raw", "--udp", kind=RawDatagramService)
    service._received(b"hello", ("192.0.2.1", 5))
    service._received(b"hello\n", ("127.0.0.1", 5))
    found = values(service)
    assert found["mysocket_rejected_total", "not_allowed"] == 1
    assert (found["mysocket_received_batches_total",], found["mysocket_received_bytes_total",]) == (1, 6)


# Names from elsewhere -----------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters() | st.sampled_from('"\\\n\r\t{},= \u2028\x00'), max_size=300)


@given(names=st.lists(TEXT, max_size=8))
def test_no_name_breaks_the_format(names: list[str]) -> None:
    """Not even one that could not be written as UTF-8."""
    labels = measures.labels(names)
    samples = [Sample("mysocket_input_bytes_total", number, (label,)) for number, label in enumerate(labels)]
    registry = SimpleNamespace(collect=lambda: families(samples))
    for accept, parse in (("", plain), (OPEN, open_metrics)):
        text = exposition.choose_encoder(accept)[0](registry)  # type: ignore[arg-type]
        (family,) = (one for one in parse.text_string_to_metric_families(text.decode()) if one.name == "mysocket_input_bytes")
        assert [(sample.labels["input"], sample.value) for sample in family.samples] == [*zip(labels, range(99), strict=False)]


@given(names=st.lists(TEXT | st.just("x" * 200) | st.just("x" * 120), max_size=130))
def test_labels_are_short_and_no_two_are_alike(names: list[str]) -> None:
    labels = measures.labels(names)
    assert len(labels) == len(set(labels)) == min(len(names), LISTED)
    assert all(one_line(label, measures.LABEL) == label for label in labels)


def test_a_hostile_peer_s_name_is_shown_escaped(house: House) -> None:
    service = house.service("-p", "9000")
    house.link(service, Person(house.clock, 5, name='x"} 1\nevil 2\x1b[31m', input=Input.OPEN))
    ((_, _, name),) = (key for key in values(service) if key[0] == "mysocket_peer_linked")
    assert name == 'x"} 1\\x0aevil 2\\x1b[31m'


# Health -------------------------------------------------------------------------------------------------------------------------


def test_health_says_why(house: House) -> None:
    service = house.service("--peer", "127.0.0.1:9001")
    served = exposed(service)
    assert body(ask(served, "GET /healthz"), 503) == "not linked with 127.0.0.1:9001\n"
    service.attempts.fail(ConnectionRefused(peer="127.0.0.1:9001"))
    assert re.fullmatch(
        r"not linked with 127\.0\.0\.1:9001: 127\.0\.0\.1:9001 refused [^\n]*\n", body(ask(served, "GET /healthz"), 503)
    )
    connection = house.link(service, Person(house.clock, 3, name="hosta\n", input=Input.OPEN))
    assert body(ask(served, "GET /healthz")) == "linked with hosta\\x0a (127.0.0.1:1)\n"
    service.full = "the spool /var/lib/mysocket"
    assert body(ask(served, "GET /healthz")).endswith("; the disk of the spool /var/lib/mysocket is full\n")
    connection.cut()
    run(connection)
    assert body(ask(served, "GET /healthz"), 503).endswith("is full\n")


def test_health_of_a_hub_and_of_raw_sessions(house: House) -> None:
    hub = house.service("-p", "9000")
    assert body(ask(exposed(hub), "GET /healthz"), 503).startswith("nobody is linked")
    for seed in (1, 2):
        house.link(hub, Person(house.clock, seed, input=Input.OPEN))
    assert body(ask(exposed(hub), "GET /healthz")) == "linked with 2 peers\n"
    raw = house.service("--peer", "hub:9001", "--raw", kind=RawStreamService)
    assert body(ask(exposed(raw), "GET /healthz"), 503) == "no connection with hub:9001\n"
    datagrams = house.service("-p", "9000", "--raw", "--udp", kind=RawDatagramService)
    assert body(ask(exposed(datagrams), "GET /healthz"), 503)
    datagrams._sockets.append(None)
    assert body(ask(exposed(datagrams), "GET /healthz")).startswith("datagrams pass")


def test_health_of_a_service_that_has_failed(house: House) -> None:
    service = house.service("--peer", "hub:9001")
    service.watch.error = DiskFailed("gone\nfor good", where="the spool x")
    assert "gone\\x0afor good" in body(ask(exposed(service), "GET /healthz"), 503)


# HTTP ---------------------------------------------------------------------------------------------------------------------------


@contextmanager
def nothing_logged() -> Iterator[None]:
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert events == []


@pytest.fixture
def served(house: House) -> Exposition:
    return exposed(house.service("--peer", "hub:9001"))


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("GET /", 404),
        ("GET /metrics/", 404),
        ("GET /metrics?name[]=x", 200),
        ("GET /%6detrics", 404),
        ("GET http://localhost/metrics", 404),
        ("POST /metrics", 405),
        ("POST /x", 404),
        ("DELETE /healthz", 405),
        ("OPTIONS /metrics", 405),
        ("GARBAGE /metrics", 405),
        ("HEAD /healthz", 503),
    ],
)
def test_other_requests_get_an_answer_of_their_own(served: Exposition, what: str, status: int) -> None:
    with nothing_logged():
        answer = ask(served, what)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"\r\nAllow: GET, HEAD\r\n" in answer) == (status == 405)


def test_head_is_get_without_the_body(served: Exposition) -> None:
    head, _, text = ask(served).partition(b"\r\n\r\n")
    assert ask(served, "HEAD /metrics") == head + b"\r\n\r\n" and text


def test_the_type_says_which_text_it_is(served: Exposition) -> None:
    assert b"\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in ask(served)
    assert b"\r\nContent-Type: application/openmetrics-text; version=1.0.0" in ask(served, Accept=OPEN)
    for accept in ("", "*/*", "text/plain; version=x", "application/openmetrics-text; version=\x7f9; escaping=,;=" + "a" * 999):
        assert body(ask(served, Accept=accept))


def test_a_connection_carries_one_request(served: Exposition) -> None:
    scraper = Scraper(served)
    request = b"GET /healthz HTTP/1.1\r\nConnection: keep-alive\r\n\r\n"
    once = scraper.send(request)
    assert scraper.closed and scraper.send(3 * request) == once
    pipelined = Scraper(served)
    assert pipelined.send(5 * request) == once


@given(
    data=st.lists(st.binary(max_size=400) | st.sampled_from([b"GET /metrics HTTP/1.1\r\n", b"\r\n", b"a: b\r\n"]), max_size=12)
)
def test_garbage_breaks_nothing_and_is_not_logged(data: list[bytes]) -> None:
    with house_built() as house, nothing_logged():
        served = exposed(house.service("--peer", "hub:9001"))
        scraper = Scraper(served)
        for piece in data:
            if not scraper.closed:
                scraper.send(piece)
        house.clock.advance(scrapes.LIFE)
        assert scraper.closed
        assert body(ask(served))
        assert house.clock.getDelayedCalls() == []


def test_headers_without_end_end(served: Exposition) -> None:
    scraper = Scraper(served)
    scraper.send(b"GET /metrics HTTP/1.1\r\n")
    for number in range(100_000):
        if scraper.closed:
            break
        scraper.send(b"x-%d: y\r\n" % number)
    assert scraper.closed and number < 10_000


def test_whoever_takes_its_time_has_ten_seconds(house: House, served: Exposition) -> None:
    with nothing_logged():
        scrapers = [Scraper(served) for _ in range(3)]
        scrapers[1].send(b"GET /metrics HT")
        for number in range(int(scrapes.LIFE) - 1):
            house.clock.advance(1)
            scrapers[2].send(b"G" if number else b"x")  # a byte now and then
        assert not any(scraper.closed for scraper in scrapers)
        house.clock.advance(1)
    assert all(scraper.closed for scraper in scrapers) and house.clock.getDelayedCalls() == []


def test_whoever_does_not_read_has_ten_seconds(house: House, served: Exposition) -> None:
    scraper = Scraper(served)
    scraper.transport.loseConnection = lambda: None  # type: ignore[method-assign]  # there is still something to be sent
    assert scraper.send(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert not scraper.closed
    house.clock.advance(scrapes.LIFE)
    assert scraper.closed


def test_the_next_takes_the_place_of_the_oldest(served: Exposition) -> None:
    scrapers = [Scraper(served) for _ in range(1000)]
    alive = [scraper for scraper in scrapers if not scraper.closed]
    assert alive == scrapers[-scrapes.CONNECTIONS :]
    assert body(ask(served))
    alive[1].transport.abortConnection()
    assert not alive[2].closed
    Scraper(served)
    assert not alive[2].closed and not alive[-1].closed


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_are_thrown_away(served: Exposition, chunked: bool) -> None:
    head = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 1000000"
    scraper = Scraper(served)
    scraper.send(b"POST /metrics HTTP/1.1\r\n" + head + b"\r\n\r\n")
    sent = 0
    while not scraper.closed and sent < 1_000_000:
        scraper.send(b"400\r\n" + b"x" * 1024 + b"\r\n" if chunked else b"x" * 1024)
        sent += 1024
    assert scraper.closed and scrapes.BODY < sent < 2 * scrapes.BODY and scraper.answer == b""
    small = Scraper(served)
    assert small.send(b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nx=y").startswith(b"HTTP/1.1 405 ")


# How often ----------------------------------------------------------------------------------------------------------------------


class Counted:
    """Counts how often a text is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        real = exposition.measure

        def measure(*args: Any, **named: Any) -> Iterator[Sample]:
            self.times += 1
            return real(*args, **named)

        monkeypatch.setattr(exposition, "measure", measure)


def test_many_who_ask_get_the_same_text(house: House, served: Exposition, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    first = ask(served)
    assert all(ask(served) == first for _ in range(100)) and counted.times == 1
    assert all(ask(served, Accept=OPEN) for _ in range(100)) and counted.times == 2
    house.clock.advance(exposition.FRESH)
    ask(served)
    assert counted.times == 3


def test_many_who_ask_look_at_the_disk_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, counted = house.spool(), Counted(monkeypatch)
    asked: list[Any] = []
    monkeypatch.setattr(spool, "survey", asked.append)
    served = exposed(house.service("--peer", "hub:9001", spool=spool))
    scrapers = [Scraper(served) for _ in range(20)]
    for scraper in scrapers:
        assert scraper.send(b"GET /metrics HTTP/1.1\r\n\r\n") == b""
    scrapers[3].transport.abortConnection()  # it did not wait
    asked.pop()(5, NOW - 1)
    assert not asked and counted.times == 1
    assert all("mysocket_waiting_messages 5.0\n" in body(scraper.answer) for scraper in scrapers if scraper is not scrapers[3])
    assert scrapers[3].answer == b""


def test_a_disk_that_hangs_is_waited_for_a_moment(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = house.spool()
    asked: list[Any] = []
    monkeypatch.setattr(spool, "survey", asked.append)
    served = exposed(house.service("--peer", "hub:9001", spool=spool))
    first = Scraper(served)
    first.send(b"GET /metrics HTTP/1.1\r\n\r\n")
    house.clock.advance(exposition.SURVEY_TIME)
    assert "mysocket_waiting_messages 5" not in body(first.answer)
    house.clock.advance(exposition.FRESH)
    second = Scraper(served)
    second.send(b"GET /metrics HTTP/1.1\r\n\r\n")
    asked[0](5, NOW)  # too late
    assert second.answer == b""
    asked[1](6, NOW)
    assert "mysocket_waiting_messages 6.0\n" in body(second.answer)


def test_whoever_waits_when_it_closes_is_dropped(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = house.spool()
    asked: list[Any] = []
    monkeypatch.setattr(spool, "survey", asked.append)
    served = exposed(house.service("--peer", "hub:9001", spool=spool))
    scraper = Scraper(served)
    scraper.send(b"GET /metrics HTTP/1.1\r\n\r\n")
    served.close()
    assert scraper.closed and scraper.answer == b"" and house.clock.getDelayedCalls() == []
    asked[0](1, NOW)
