"""Metrics for Prometheus, read from the parts when they are asked for: the hot path counts in plain integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Sample:
    """One value now. `name` without its prefix; counters end in no `_total`, it is added."""

    kind: Literal["counter", "gauge"]
    name: str
    help: str
    value: float
    prefix: str = "chatbe_"


Source = Callable[[], Iterable[Sample]]


class _Samples(Collector):
    """The samples of several nodes, each name a family."""

    def __init__(self, nodes: Mapping[str, Iterable[Sample]]) -> None:
        self._nodes = nodes

    def collect(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for node, samples in self._nodes.items():
            for sample in samples:
                name = sample.prefix + sample.name
                if name not in families:
                    kind = CounterMetricFamily if sample.kind == "counter" else GaugeMetricFamily
                    families[name] = kind(name, sample.help, labels=["node"])
                families[name].add_metric([node], sample.value)
        yield from families.values()


def samples(sources: Iterable[Source]) -> list[Sample]:
    """What `sources` say now, and this process's CPU, memory and descriptors."""
    process: list[Sample] = []
    for metric in ProcessCollector(registry=None).collect():
        kind: Literal["counter", "gauge"] = "counter" if metric.type == "counter" else "gauge"
        value = metric.samples[0].value
        process.append(Sample(kind, metric.name, metric.documentation, value, prefix=""))
    return [*process, *(sample for source in sources for sample in source())]


def exposition(nodes: Mapping[str, Iterable[Sample]]) -> bytes:
    """The text format of the samples of each node, by its id, which is their label `node`."""
    registry = CollectorRegistry()
    registry.register(_Samples(nodes))
    return generate_latest(registry)
