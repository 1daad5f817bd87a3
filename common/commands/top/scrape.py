"""One look at gateways' metrics: every number by name and labels."""

import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from common.errors import Unavailable

MAX_BYTES = 8 << 20
GATEWAY = "gateway"  # the label that tells the looked-at gateways apart, by number


@dataclass(frozen=True)
class Sample:
    """One number."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Scrape:
    """All numbers at one time, of a monotonic clock."""

    at_s: float
    samples: Mapping[str, tuple[Sample, ...]]

    def matching(self, name: str, **labels: str) -> Iterable[Sample]:
        """Return the samples of a name whose labels have these values."""
        return (s for s in self.samples.get(name, ()) if all(s.labels.get(k) == v for k, v in labels.items()))

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a name whose labels have these values."""
        return sum(sample.value for sample in self.matching(name, **labels))

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Return that sum for each value of `label`."""
        sums: dict[str, float] = defaultdict(float)
        for sample in self.matching(name, **labels):
            sums[sample.labels.get(label, "")] += sample.value
        return dict(sums)

    def since(self, old: "Scrape") -> "Scrape":
        """Return by how much every number has grown; one that has fallen began anew, with its process."""
        before = {(s.name, frozenset(s.labels.items())): s.value for many in old.samples.values() for s in many}
        grown: dict[str, tuple[Sample, ...]] = {}
        for name, samples in self.samples.items():
            grown[name] = tuple(
                Sample(name, s.labels, s.value - was if s.value >= was else s.value)
                for s in samples
                for was in (before.get((name, frozenset(s.labels.items())), 0.0),)
            )
        return Scrape(self.at_s - old.at_s, grown)


def scrape(addresses: Iterable[str], timeout_s: float) -> Scrape:
    """Look at all addresses, host:port each. Raises Unavailable where one does not answer with metrics."""
    samples: dict[str, list[Sample]] = defaultdict(list)
    for number, address in enumerate(addresses):
        for sample in parse(_fetch(address, timeout_s), address):
            samples[sample.name].append(Sample(sample.name, {**sample.labels, GATEWAY: str(number)}, sample.value))
    return Scrape(time.monotonic(), {name: tuple(many) for name, many in samples.items()})


def parse(text: str, address: str) -> Iterable[Sample]:
    """Yield the samples of a page in Prometheus' text format. Raises Unavailable where it is none."""
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                yield Sample(sample.name, sample.labels, float(sample.value))
    except (ValueError, KeyError, IndexError) as error:
        raise Unavailable(f"{address}: what it serves are no metrics") from error


def _fetch(address: str, timeout_s: float) -> str:
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=timeout_s) as answer:
            data: bytes = answer.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise Unavailable(f"{address}: no metrics: {getattr(reason, 'strerror', None) or reason}") from error
    return data.decode(errors="replace")
