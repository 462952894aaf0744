"""The door to prometheus-client: what the gateway counts, in Prometheus' text format or OpenMetrics.

Beside it stand what the library finds out of this process under its usual names: memory, CPU time, open files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.api import Distribution, Metric


class Exposition:
    """Renders metrics."""

    def __init__(self) -> None:
        self._collector = _Collector()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self._collector)
        ProcessCollector(registry=self._registry)

    def render(self, metrics: Sequence[Metric], accept: str) -> tuple[bytes, str]:
        """(text, its media type), in the format that `accept` (RFC 9110 §12.5.1) asks for, or in the plain one."""
        self._collector.metrics = metrics
        try:
            encode, media_type = choose_encoder(accept)
        except (TypeError, ValueError):  # the library compares what is no version with one
            encode, media_type = choose_encoder("")
        return encode(self._registry), media_type


class _Collector(Collector):
    def __init__(self) -> None:
        self.metrics: Sequence[Metric] = ()

    def collect(self) -> Iterable[Family]:
        return map(_family, self.metrics)


def _family(metric: Metric) -> Family:
    # The family of a counter has no `_total`; its samples do (OpenMetrics §5.1).
    family = Family(metric.name.removesuffix("_total"), metric.help, metric.type)
    for labels, value in metric.samples:
        if isinstance(value, Distribution):
            for suffix, more, number in _histogram(value):
                family.add_sample(metric.name + suffix, labels | more, number)
        else:
            family.add_sample(metric.name, labels, value)
    return family


def _histogram(value: Distribution) -> Iterator[tuple[str, dict[str, str], float]]:
    """Its samples: Prometheus wants in each bucket what is in those below it, too."""
    below = 0
    for bound, count in zip((*value.bounds, "+Inf"), value.counts, strict=True):
        below += count
        yield "_bucket", {"le": str(bound)}, below
    yield "_count", {}, below
    yield "_sum", {}, value.sum
