"""What a broker counts, in the text form that Prometheus reads.

Labels are routes, kinds and statuses, of which there are few: no name, id or address of anybody is among them.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric

from vault.access import KeyCounts, SpoolCounts

__all__ = ["CONTENT_TYPE", "Counts", "Metrics", "added", "lasting"]

#: Everything at one moment, as JSON can carry it: name, text, kind and samples of each family.
Counts = list[tuple[str, str, str, list[tuple[str, dict[str, str], float]]]]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_DECISION_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 5, 30)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600)


class _Keys:
    """The data keys' counts, asked for when they are read."""

    def __init__(self, counts: Callable[[], KeyCounts]) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        found = self._counts()
        for name, text, value in (
            ("dsvault_kms_unwraps", "Data keys that the KMS was asked to unwrap.", found.unwraps),
            ("dsvault_kms_failures", "Unwraps that the KMS refused or failed at.", found.failures),
            ("dsvault_key_cache_hits", "Data keys that were held already.", found.hits),
        ):
            yield CounterMetricFamily(name, text, value=value)


class _Spool:
    """The spooled files' counts, asked for when they are read."""

    def __init__(self, counts: Callable[[], SpoolCounts]) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        found = self._counts()
        for name, text, value in (
            ("dsvault_spool_built", "Shared files that were built and spooled.", found.built),
            ("dsvault_spool_damaged", "Spooled files that were found changed or missing.", found.damaged),
            ("dsvault_spool_full", "Shared files that were not built, since the spool had no room.", found.full),
        ):
            yield CounterMetricFamily(name, text, value=value)


@final
class Metrics:
    """One broker's counters; safe for use from several threads."""

    def __init__(
        self, counts: Callable[[], KeyCounts], spooled: Callable[[], SpoolCounts] = lambda: SpoolCounts(0, 0, 0)
    ) -> None:
        #: Where several processes serve together: what all of them counted.
        self.everyone: Callable[[], Counts] = self.counts
        self._registry = CollectorRegistry()
        self._registry.register(_Keys(counts))
        self._registry.register(_Spool(spooled))
        self._requests = Counter(
            "dsvault_requests", "Requests that were answered.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "dsvault_first_byte_seconds",
            "From a request to the first byte of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._decisions = Histogram(
            "dsvault_decision_seconds",
            "From a request for a read to its permit, whose entry is durable by then.",
            buckets=_DECISION_SECONDS,
            registry=self._registry,
        )
        self._refusals = Counter(
            "dsvault_refusals", "Answers that are problems, by kind.", ("kind",), registry=self._registry
        )
        self._streams = Gauge("dsvault_streams_open", "Streams that are being sent.", registry=self._registry)
        self._bytes = Counter("dsvault_stream_bytes", "Bytes of streams that were sent.", registry=self._registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """An answer has begun."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def decided(self, seconds: float) -> None:
        """A read was permitted, and may begin."""
        self._decisions.observe(seconds)

    def refused(self, kind: str) -> None:
        """An answer, or the end of a stream, was a problem."""
        self._refusals.labels(kind).inc()

    def streaming(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of a stream, counted as they are taken; however it ends, it is over then."""
        self._streams.inc()
        try:
            for chunk in chunks:
                self._bytes.inc(len(chunk))
                yield chunk
        finally:
            try:
                chunks.close()  # type: ignore[attr-defined]
            finally:
                self._streams.dec()

    def counts(self) -> Counts:
        """Everything that this process counted."""
        return [
            (
                family.name,
                family.documentation,
                family.type,
                [
                    (sample.name, dict(sample.labels), sample.value)
                    for sample in family.samples
                    # When a counter began says nothing about a sum of several.
                    if not sample.name.endswith("_created")
                ],
            )
            for family in self._registry.collect()
        ]

    def text(self) -> bytes:
        """Everything that this process and those beside it counted, as Prometheus reads it."""
        registry = CollectorRegistry()
        registry.register(_Told(self.everyone()))
        return generate_latest(registry)


class _Told:
    """Counts that were taken already."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        for name, text, kind, samples in self._counts:
            family = Metric(name, text, kind)
            for sample, labels, value in samples:
                family.add_sample(sample, labels, value)
            yield family


def added(several: Iterable[Counts]) -> Counts:
    """The sums of what several processes counted."""
    families: dict[str, tuple[str, str, dict[tuple[Any, ...], float]]] = {}
    for counts in several:
        for name, text, kind, samples in counts:
            _, _, sums = families.setdefault(name, (text, kind, {}))
            for sample, labels, value in samples:
                key = (sample, *sorted(labels.items()))
                sums[key] = sums.get(key, 0) + value
    return [
        (name, text, kind, [(sample, dict(labels), value) for (sample, *labels), value in sums.items()])
        for name, (text, kind, sums) in families.items()
    ]


def lasting(counts: Counts) -> Counts:
    """What of a process that ended still counts: what happened, and not what it was doing."""
    return [family for family in counts if family[2] != "gauge"]
