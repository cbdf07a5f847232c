"""Metrics for Prometheus, read from the parts when they are asked for: the hot path counts in plain integers.

With several workers on one port a scrape reaches one of them; the `node` label tells which. Run one
process per port (or per container) where each must be scraped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Sample:
    """One value now. `name` without chatbe's prefix; counters end in no `_total`, it is added."""

    kind: Literal["counter", "gauge"]
    name: str
    help: str
    value: float


Source = Callable[[], Iterable[Sample]]


class _Samples(Collector):
    """Asks every source of one node."""

    def __init__(self, node: str, sources: Iterable[Source]) -> None:
        self._node = node
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        for source in self._sources:
            for sample in source():
                family = CounterMetricFamily if sample.kind == "counter" else GaugeMetricFamily
                metric = family(f"chatbe_{sample.name}", sample.help, labels=["node"])
                metric.add_metric([self._node], sample.value)
                yield metric


def exposition(node: str, sources: Iterable[Source]) -> bytes:
    """The text format of what `sources` say now, and of this process's CPU, memory and descriptors."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Samples(node, sources))
    return generate_latest(registry)
