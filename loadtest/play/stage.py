"""What is counted while a phase lasts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loadtest.play.histogram import Histogram
from loadtest.play.plan import Phase
from loadtest.play.tally import Output, Report


@dataclass
class Stage:
    """A phase, as it went."""

    phase: Phase
    began: float
    seconds: float = 0.0
    published: int = 0
    deliveries: int = 0
    in_time: int = 0
    """Deliveries before the phase was over: what its CPU time and seconds were spent on."""
    cpu_s: float = 0.0
    generator: float = 0.0
    """The share of the generator's cores that was in use, by whomever."""
    own: float = 0.0
    """CPU time of the generator's processes."""
    latencies: Histogram = field(default_factory=Histogram)
    waited: Histogram = field(default_factory=Histogram)
    late: Histogram = field(default_factory=Histogram)
    arrivals: Histogram = field(default_factory=Histogram)
    carried: bool = True

    def add(self, said: Report, deliveries: int) -> None:
        """Takes in what listeners have counted."""
        self.deliveries += deliveries
        self.own += said.cpu_s
        self.latencies.add(said.latencies)
        self.waited.add(said.waited)
        self.arrivals.add(said.arrivals)

    def put(self, said: Output) -> None:
        """Takes in what the publisher has counted."""
        self.published += said.published
        self.own += said.cpu_s
        self.late.add(said.late)

    def document(self, fan: float) -> dict[str, Any]:
        """For a result. fan: listeners that a publication has."""
        return {
            "name": self.phase.name,
            "measured": self.phase.measured,
            "event": self.phase.event,
            "began": round(self.began, 3),
            "seconds": round(self.seconds, 3),
            "rate": self.phase.rate,
            "published": self.published,
            "expected": round(self.published * fan),
            "deliveries": self.deliveries,
            "carried": self.carried,
            "in_time": self.in_time,
            "cpu_us": self.cpu_s / self.in_time * 1e6 if self.in_time else None,
            "server_busy": self.cpu_s / self.seconds,
            "generator_busy": self.generator,
            "generator_own": self.own / self.seconds,
            "latency": summary(self.latencies),
            "waited": summary(self.waited),
            "late": summary(self.late),
            "back": summary(self.arrivals),
            "histogram": self.latencies.pairs(),
        }


def summary(histogram: Histogram) -> dict[str, float | int | None]:
    """The percentiles that are shown, ms."""
    if not histogram.counts:
        return {"count": 0}
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {"count": histogram.total} | {
        name: histogram.percentile(share) / 1e6 for name, share in shares.items()
    }
