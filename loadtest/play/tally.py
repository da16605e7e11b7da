"""What the generator's processes report, every second and when they are asked."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

REPORT_S = 1.0


@dataclass
class Report:
    """What a share has done in a second, or, for some of it, since it began."""

    share: int = 0
    at: float = 0.0
    """When (monotonic seconds)."""
    seconds: float = 0.0
    live: int = 0
    """Clients in place now."""
    deliveries: int = 0
    size: int = 0
    """Bytes read."""
    latencies: dict[int, int] = field(default_factory=dict)
    waited: dict[int, int] = field(default_factory=dict)
    """How long what was read may have waited for this process."""
    arrivals: dict[int, int] = field(default_factory=dict)
    """From connect() to the place, of those who arrived."""
    cpu_s: float = 0.0
    lost: int = 0
    """This, and the next two, since it began."""
    duplicates: int = 0
    disordered: int = 0
    told: int = 0
    """Publications of which the server said that somebody will not get them."""
    swaps: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """Connections that the server ended, by its reason."""
    failures: Counter[str] = field(default_factory=Counter)
    """What else went wrong."""


@dataclass
class Output:
    """What was published in about a second, or since the publisher began."""

    at: float = 0.0
    seconds: float = 0.0
    published: int = 0
    pending: int = 0
    cpu_s: float = 0.0
    late: dict[int, int] = field(default_factory=dict)
    """How late publications left the publisher, ns."""
    retries: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    idle: bool = True
    """Whether everything that was due has left and is answered."""
