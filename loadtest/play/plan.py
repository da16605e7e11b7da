"""A scenario file: who is there, what is published, what happens meanwhile. See scenarios/."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from loadtest.play.stamp import LEAST_BYTES

FOLDER = Path(__file__).parent.parent / "scenarios"

ONE, OWN = "one", "own"

CROWD_EVENTS = ("reconnect", "stop reading", "read again")
EVENTS = (*CROWD_EVENTS, "kill worker", "kill shard", "start shard")


class PlanError(Exception):
    """A scenario file that makes no sense; the text says where and why."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of time in which one rate is published.

    rate: publications a second, over all topics.
    measured: whether its latencies count.
    churn: topics that clients leave for another one, a second.
    event: what happens when it begins, one of EVENTS; `share`: to how many of the clients.
    """

    name: str
    seconds: float
    rate: float
    measured: bool = True
    churn: float = 0.0
    event: str = ""
    share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A scenario.

    clients: how many; `sse`: which share of them by Server-Sent Events, the rest by WebSocket.
    arrivals: clients that begin to connect in a second; 0: as fast as others are in place.
    topics: "one" for all, "own" for each, or how many there are.
    subscriptions: how many of these each client has.
    payload: bytes of JSON.
    batch: publications in one request at most; 1: a request each.
    connections: of the publisher at most, with one request under way on each.
    careful: a publication that was refused is tried again, under its idempotency key.
    sample: how many clients are looked at in full; 0: all. Of the others bytes are counted.
    ramp: ends at the second phase in a row that is not carried.
    peers: whether `--against` counts; then it must ask for no more than topics.
    usual: whether `run` plays it without being asked.
    redis, workers: 0 and 1 are the embedded broker.
    synced: Redis keeps every write on disk before it answers; else nothing is on disk.
    shared: server and generator have all cores between them, instead of some each.
    history: publications kept for each topic.
    presence: whether it can be asked who is subscribed; each worker keeps that in Redis.
    server: options of Clarion, as environment variables.
    """

    name: str
    title: str
    about: str
    clients: int
    phases: tuple[Phase, ...]
    sse: float = 0.0
    arrivals: float = 0.0
    topics: str | int = ONE
    subscriptions: int = 1
    payload: int = 256
    batch: int = 1
    connections: int = 4
    careful: bool = False
    sample: int = 0
    ramp: bool = False
    peers: bool = False
    usual: bool = True
    redis: int = 0
    workers: int = 1
    synced: bool = False
    shared: bool = False
    history: int = 100
    presence: bool = True
    repetitions: int = 3
    server: Mapping[str, str] = field(default_factory=dict)

    @property
    def topic_count(self) -> int:
        return {ONE: 1, OWN: self.clients}.get(str(self.topics)) or int(self.topics)

    @property
    def fan(self) -> float:
        """Subscribers of a topic, on average."""
        return self.clients * self.subscriptions / self.topic_count

    @property
    def step(self) -> int:
        """Every so manieth client is in the sample."""
        return max(1, self.clients // self.sample) if self.sample else 1

    def topics_of(self, place: int) -> list[int]:
        """The topics that a client begins with: neighbours, so that all have as many listeners."""
        count = self.topic_count
        return [(place * self.subscriptions + each) % count for each in range(self.subscriptions)]

    def scaled(self, clients: float, seconds: float) -> Plan:
        """The same, smaller or larger, in clients and in time. The rates stay for each client, but
        for that of arrivals: a smaller crowd is in place sooner."""
        count = max(10, round(self.clients * clients))
        topics, rates = self.topics, 1.0
        if self.topics != ONE:
            rates = count / self.clients
            if self.topics != OWN:
                topics = max(self.subscriptions, round(int(self.topics) * rates))
        phases = [
            replace(
                phase,
                seconds=phase.seconds * seconds,
                rate=phase.rate * rates,
                churn=phase.churn * count / self.clients,
            )
            for phase in self.phases
        ]
        return replace(self, clients=count, topics=topics, phases=tuple(phases))

    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    def document(self) -> dict[str, Any]:
        """For a result."""
        return asdict(self)


def names() -> list[str]:
    """The scenarios that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Plan:
    """The scenario of that name, or in that file."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        return parse(path.stem, path.read_text())
    except FileNotFoundError:
        raise PlanError(f"no scenario {name!r}; there are: {', '.join(names())}") from None


def parse(name: str, text: str) -> Plan:
    """Reads a scenario, and says what is wrong with it."""
    try:
        table = tomllib.loads(text)
        phases = tuple(_made(Phase, phase) for phase in table.pop("phases", []))
        plan: Plan = _made(Plan, {"name": name, "phases": phases, **table})
        _check(plan)
    except (TypeError, ValueError) as error:
        raise PlanError(f"{name}: {error}") from None
    return plan


def _made(kind: type[Any], table: Mapping[str, object]) -> Any:
    known = {each.name for each in fields(kind)}
    unknown = sorted(table.keys() - known)
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return kind(**table)


def _check(plan: Plan) -> None:
    if not plan.phases:
        raise ValueError("no [[phases]]")
    for phase in plan.phases:
        if phase.event not in ("", *EVENTS):
            raise ValueError(f"phase {phase.name!r}: unknown event {phase.event!r}: {EVENTS}")
        if phase.seconds <= 0 or phase.rate < 0:
            raise ValueError(f"phase {phase.name!r}: seconds or rate")
    if plan.payload < LEAST_BYTES:
        raise ValueError(f"a payload has {LEAST_BYTES} bytes or more")
    if isinstance(plan.topics, str) and plan.topics not in (ONE, OWN):
        raise ValueError(f'topics: "{ONE}", "{OWN}" or a number')
    if plan.subscriptions > plan.topic_count:
        raise ValueError("more subscriptions than topics")
    if plan.sample and plan.topics != ONE:
        raise ValueError("a sample needs one topic: the others' bytes are compared with its")
    more = plan.sse or plan.redis or plan.subscriptions > 1
    if plan.peers and (more or any(phase.event or phase.churn for phase in plan.phases)):
        raise ValueError("peers know topics, and neither events, churn, sse nor redis")
    if plan.workers > 1 and not plan.redis:
        raise ValueError("several workers need a Redis")
