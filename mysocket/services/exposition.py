"""``--metrics``: what a service tells of itself, for Prometheus at ``/metrics``, and for whoever watches it at ``/healthz``.

The formats are Prometheus' text format 0.0.4 and, for who asks for it, OpenMetrics 1.0
(https://prometheus.io/docs/instrumenting/exposition_formats/); prometheus_client writes them.

The text is made in the reactor thread, beside the messages, so it is made at most once in :data:`FRESH` seconds, however many
ask for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IListeningPort

from mysocket.carriers import build
from mysocket.carriers.addresses import address_text
from mysocket.metrics import Histogram
from mysocket.notices import notice
from mysocket.services.base import EndpointService
from mysocket.services.linked import LinkService
from mysocket.services.measures import METRICS, Sample, health, measure
from mysocket.services.scrapes import Scrapes
from mysocket.services.state import Backlog
from mysocket.spool.disk import DiskSpool

#: Seconds for which a text is given again. Prometheus asks every 15 to 60 s.
FRESH = 0.2
#: Seconds in which the disk has to tell what waits on it.
SURVEY_TIME = 2.0
#: What a scraper says that it takes, to get the text in OpenMetrics.
OPEN_METRICS = "application/openmetrics-text"
#: What is not known of what waits.
UNKNOWN = Backlog(None, None)


def families(samples: Iterable[Sample]) -> Iterator[Metric]:
    """The samples as metric families of prometheus_client: all of the table, in its order."""
    by_name: dict[str, list[Sample]] = {name: [] for name in METRICS}
    for sample in samples:
        by_name[sample.name].append(sample)
    for name, metric in METRICS.items():
        found, labels = by_name[name], metric.labels
        if metric.kind == "histogram":
            histogram = HistogramMetricFamily(name, metric.help, labels=labels)
            for sample in found:
                assert isinstance(sample.value, Histogram)
                histogram.add_metric(sample.labels, *_buckets(sample.value))
            yield histogram
        elif metric.kind == "info":
            info = InfoMetricFamily(name.removesuffix("_info"), metric.help)
            for sample in found:
                info.add_metric([], dict(zip(labels, sample.labels, strict=True)))
            yield info
        else:
            family: Any = (CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily)(
                name, metric.help, labels=labels
            )
            for sample in found:
                family.add_metric(sample.labels, sample.value)
            yield family


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """How often each bound was not exceeded, and the sum."""
    counts, total = histogram.observed
    buckets, so_far = list[tuple[str, float]](), 0
    for bound, count in zip((*histogram.bounds, float("inf")), counts, strict=True):
        so_far += count
        buckets.append((floatToGoString(bound), so_far))
    return buckets, total


class Numbers:
    """A collector of prometheus_client: what a service tells of itself.

    :param since: when the service began, in seconds since the epoch.
    :param wall: the present time, likewise.
    """

    def __init__(self, service: EndpointService, since: float, wall: Callable[[], float]) -> None:
        #: What waits on the disk, which was looked up before.
        self.backlog = UNKNOWN
        self._service = service
        self._since = since
        self._wall = wall

    def collect(self) -> Iterator[Metric]:
        """All families, with what is true now."""
        return families(measure(self._service, since=self._since, backlog=self.backlog, wall=self._wall()))

    def describe(self) -> Iterator[Metric]:
        """The same without values: what the registry is told to expect."""
        return families(())


class Exposition:
    """Serves the metrics and the health of a service; a :class:`~mysocket.services.scrapes.Teller`.

    :param where: the address, or nothing for this machine's own, and the port (0: any).
    :param wall: the time in seconds since the epoch.
    """

    def __init__(self, service: EndpointService, where: tuple[str, int], wall: Callable[[], float] = time.time) -> None:
        self._service = service
        self._where = where
        self._clock = service.reactor
        self._numbers = Numbers(service, wall(), wall)
        self._registry = CollectorRegistry()
        self._registry.register(self._numbers)
        self._made: dict[bool, tuple[float, bytes, str]] = {}
        self._asked: list[Callable[[], None]] = []
        self._patience: IDelayedCall | None = None
        self._ports: list[IListeningPort] = []
        self._closed = False
        self.factory = Scrapes(self, self._clock)

    async def open(self) -> None:
        """Listen, and say where.

        :raises MySocketError: it is taken, or there is no such address.
        """
        host, port = self._where
        self._ports = await build.listen_port(self._clock, port, [host] if host else build.LOOPBACK, self.factory)
        if self._closed:
            self._stop()
        else:
            addresses = " and ".join(address_text(port.getHost()) for port in self._ports)
            text = f"metrics at http://{addresses.partition(' ')[0]}/metrics"
            self._service.watch.tell(notice("metrics", text, addresses=addresses))

    def close(self) -> Deferred[Any]:
        """Answer nobody any more; fires when nothing listens."""
        self._closed = True
        self.factory.drop_all()
        self._asked = []
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        return self._stop()

    def _stop(self) -> Deferred[Any]:
        stopping = [port.stopListening() for port in self._ports]
        self._ports = []
        return DeferredList([one for one in stopping if isinstance(one, Deferred)])

    # What is told ---------------------------------------------------------------------------------------------------------------

    def health(self) -> tuple[bool, str]:
        return health(self._service)

    def metrics(self, accept: str, done: Callable[[bytes, str], None]) -> None:
        is_open = OPEN_METRICS in accept
        if self._fresh(is_open):
            done(*self._made[is_open][1:])
        else:
            self._survey(lambda: done(*self._text(is_open)))

    def _fresh(self, is_open: bool) -> bool:
        made = self._made.get(is_open)
        return made is not None and self._clock.seconds() - made[0] < FRESH

    def _text(self, is_open: bool) -> tuple[bytes, str]:
        if not self._fresh(is_open):
            encode, kind = choose_encoder(f"{OPEN_METRICS}; version=1.0.0" if is_open else "")
            self._made[is_open] = self._clock.seconds(), encode(self._registry), kind
        return self._made[is_open][1:]

    def _survey(self, then: Callable[[], None]) -> None:
        """Look up what waits, then do this: one look for all who ask meanwhile."""
        self._asked.append(then)
        if len(self._asked) > 1 or self._closed:
            return

        def surveyed(messages: int | None, oldest: float | None) -> None:
            if self._patience is not patience:
                return  # too late, and somebody else has asked since
            self._patience = None
            if patience.active():
                patience.cancel()
            self._numbers.backlog = Backlog(messages, oldest)
            asked, self._asked = self._asked, []
            for call in asked:
                call()

        # A disk that hangs is no reason to say nothing.
        patience: IDelayedCall = self._clock.callLater(SURVEY_TIME, surveyed, None, None)
        self._patience = patience
        log = self._service.own_stream if isinstance(self._service, LinkService) else None
        if isinstance(log, DiskSpool):
            log.survey(surveyed)
        else:
            surveyed(log.messages() if log is not None else None, None)
