"""What is kept, and how Redis is asked: `[history]`, `[shards]`, `[presence]`, `[inbox]`."""

from __future__ import annotations

from typing import Annotated, Literal

from clarion_server.option_values import Section, option


class HistoryLimits(Section, frozen=True, kw_only=True):
    """`[history]`: bounds of all topics' histories together. The bounds on memory and on the number
    of keys are for the embedded broker; Redis has its own `maxmemory`."""

    memory_bytes: Annotated[
        int,
        option(
            "what all histories may take; the topics that were quiet longest go first",
            "A quarter of a small (1 GB) machine.",
            unit="bytes",
            least=65_536,
            most=1_099_511_627_776,
        ),
    ] = 268_435_456
    idempotency_s: Annotated[
        float,
        option(
            "how long a publisher's idempotency key is remembered",
            "Longer than a backend keeps retrying one request.",
            unit="s",
            least=0,
            most=86_400,
        ),
    ] = 300
    idempotency_keys: Annotated[
        int,
        option(
            "how many of these are remembered; the oldest go first",
            "About 300 keyed publications a second over `idempotency_s`; some 20 MB.",
            unit="keys",
            least=0,
            most=100_000_000,
        ),
    ] = 100_000


class ShardOptions(Section, frozen=True, kw_only=True):
    """`[shards]`: how patient a worker is with its Redis shards."""

    timeout_s: Annotated[
        float,
        option(
            "time for an answer from Redis; then the connection is given up",
            "A thousand times what an answer takes, and still short for somebody who waits.",
            unit="s",
            least=0.05,
            most=60,
        ),
    ] = 2
    probe_s: Annotated[
        float,
        option(
            "time between two probes, which are published and must come back",
            "With `shards.timeout_s`, a path that is silently dead is found in three seconds.",
            unit="s",
            least=0.05,
            most=60,
        ),
    ] = 1
    check_s: Annotated[
        float,
        option(
            "time in which every subscribed topic's position is compared with its shard's once",
            "A backstop, as gaps show by themselves with the next message; 100,000 topics"
            " cost 2 % of a core.",
            unit="s",
            least=0.1,
            most=3600,
        ),
    ] = 30
    linger_s: Annotated[
        float,
        option(
            "how long a topic without subscribers stays subscribed in Redis",
            "A page that is reloaded or a client that reconnects is back within it.",
            unit="s",
            least=0,
            most=3600,
        ),
    ] = 5
    ready: Annotated[
        Literal["all", "any"],
        option(
            "how many shards must work for /readyz to say yes",
            "A worker that cannot reach every topic should not get clients that another could"
            ' serve. "any" where all instances lose a shard together, and a balancer without a'
            " ready server turns everyone away.",
        ),
    ] = "all"


class PresenceOptions(Section, frozen=True, kw_only=True):
    """`[presence]`: who is subscribed, where a namespace keeps it."""

    lease_s: Annotated[
        float,
        option(
            "how long the members of a worker that was killed are still there for others",
            "A moment for people, and longer than a failover of Redis. It is renewed three times:"
            " for 10,000 topics of a worker that takes 2 to 3 % of a Redis' time.",
            unit="s",
            least=1,
            most=3600,
        ),
    ] = 15


class InboxOptions(Section, frozen=True, kw_only=True):
    """`[inbox]`: publishing what backends leave in Redis' streams `<prefix>:inbox`."""

    enabled: Annotated[
        bool,
        option(
            "whether this server takes part in it",
            "Backends rely on it; it costs a worker a small question a second to each shard.",
        ),
    ] = True
    batch: Annotated[
        int,
        option(
            "entries that are read and published together",
            "Larger ones are no faster; 500 are some 10 ms of work, in four pieces.",
            unit="entries",
            least=1,
            most=1000,
        ),
    ] = 500
    lease_s: Annotated[
        float,
        option(
            "how soon another worker takes over an inbox whose worker was killed",
            "It is renewed five times: a worker that is stopped for a moment keeps its inbox.",
            unit="s",
            least=0.5,
            most=300,
        ),
    ] = 5
