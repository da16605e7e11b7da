"""Which faults come when: a schedule that a seed decides alone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import NamedTuple


class Fault(NamedTuple):
    """A fault that is due. place: chooses its victim; seconds: how long it lasts, where it does."""

    at: float
    name: str
    place: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:6.2f} s  {self.name} ({self.place}, {self.seconds:.2f} s)"


MILD: Mapping[str, int] = {
    "kill a worker": 2,
    "kill an instance": 1,
    "drain an instance": 1,
    "freeze a worker": 2,
    "drop an intake": 5,
    "drop commands": 5,
    "cut the network": 4,
    "stall the network": 3,
    "part the network": 3,
    "stop a shard": 2,
    "restart a shard": 2,
    "overflow": 3,
    "forget scripts": 2,
    "pause writes": 2,
}
"""Faults that destroy nothing, with how often they come. Whatever they do, nobody may miss
anything, and nobody may be told so."""

HARSH: Mapping[str, int] = {
    **MILD,
    "restart a shard without its data": 2,
    "flush a shard": 3,
    "rewind a shard": 3,
    "delete a stream": 3,
    "delete a position": 3,
    "delete a message": 3,
}
"""And those that destroy data: then whoever misses something must have been told."""

_ELSEWHERE = {
    "cut the network",
    "stall the network",
    "part the network",
    "restart a shard",
    "stop a shard",
}

CLUSTER_MILD: Mapping[str, int] = {
    **{name: weight for name, weight in MILD.items() if name not in _ELSEWHERE},
    "move a slot": 6,
    "fail over": 4,
}
"""The same in a cluster, which has no network of ours, and restarts nodes in ways of its own."""

CLUSTER_HARSH: Mapping[str, int] = {
    **CLUSTER_MILD,
    "flush a shard": 3,
    "delete a stream": 3,
    "delete a position": 3,
    "delete a message": 3,
    "kill a node": 4,
    "stop a node": 4,
}

FAULTS_PER_SECOND = 3.0
"""An instance takes about a second to come back, so there are always several at work."""


def plan(seed: int, seconds: float, kinds: Mapping[str, int]) -> list[Fault]:
    """The faults of a run, in the order of time."""
    chance = random.Random(seed)
    names, weights = list(kinds), list(kinds.values())
    faults: list[Fault] = []
    at = 0.3
    while at < seconds:
        (name,) = chance.choices(names, weights)
        # Many short ones, and some that outlast every deadline.
        lasting = chance.choice((0.02, 0.1, 0.3, 0.3, 0.8, 1.5)) * chance.uniform(0.7, 1.3)
        faults.append(Fault(at, name, chance.randrange(1000), lasting))
        at += chance.expovariate(FAULTS_PER_SECOND)
    return faults
