"""Every option of the server: its name, type, unit, bounds, default, and why that default.

This is the one place. The configuration file, the environment (`CLARION_LIMITS_MESSAGE_BYTES`),
the flags of `clarion serve`, every error about them and the reference table are made from it.
Constructing one of these checks nothing: `config.load` does, for what comes from outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

import msgspec

from clarion_fanout.presence import Keeping
from clarion_fanout.topics import DEFAULT_NAMESPACE, namespace_of
from clarion_server.option_values import Section, option
from clarion_server.pipeline.options import AnyStep
from clarion_server.window import Policy

Who: TypeAlias = Literal["everyone", "users", "granted", "nobody"]
"""Who may do something with a topic, from the widest to the narrowest.

everyone: any connection that has its welcome, anonymous ones too.
users: any connection with a valid token.
granted: a token whose claim has a pattern that matches the topic.
nobody: only backends, through the private API or Redis.
"""

Algorithm: TypeAlias = Literal[
    "HS256", "HS384", "HS512",
    "RS256", "RS384", "RS512",
    "ES256", "ES384", "ES512",
    "EdDSA",
]  # fmt: skip
"""Signature algorithms of tokens (RFC 7518, section 3.1; RFC 8037 for EdDSA)."""

ALGORITHMS: tuple[Algorithm, ...] = (
    "HS256", "HS384", "HS512",
    "RS256", "RS384", "RS512",
    "ES256", "ES384", "ES512",
    "EdDSA",
)  # fmt: skip

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]


class KeyOptions(Section, frozen=True, kw_only=True):
    """One `[[auth.keys]]`: a key that tokens may be signed with."""

    kid: Annotated[
        str,
        option(
            "the `kid` in the header of tokens signed with this key",
            "Needed only when there is more than one key.",
        ),
    ] = ""
    algorithm: Annotated[
        Algorithm,
        option(
            "the only algorithm this key is used with",
            "A key bound to one algorithm cannot be misused with another (RFC 8725, 3.1).",
        ),
    ] = "HS256"
    secret: Annotated[
        str,
        option(
            "the shared secret itself (HS algorithms)",
            "No default: a secret that ships with a program is none.",
            secret=True,
        ),
    ] = ""
    secret_file: Annotated[
        str,
        option(
            "a file that holds the shared secret; a line break at its end is ignored",
            "Empty: `secret` or `public_key_file` is used.",
        ),
    ] = ""
    public_key_file: Annotated[
        str,
        option(
            "a PEM file with the public key (RS, ES and EdDSA algorithms)",
            "Empty: `secret` or `secret_file` is used.",
        ),
    ] = ""


class AuthOptions(Section, frozen=True, kw_only=True):
    """`[auth]`: whose tokens are accepted, and what is read from them."""

    anonymous: Annotated[
        bool,
        option(
            "whether a client without a token is welcome",
            "Closed unless it is opened on purpose; true in development.",
        ),
    ] = False
    secret: Annotated[
        str,
        option(
            "one HS256 secret, the simple case",
            "No default: a secret that ships with a program is none.",
            secret=True,
        ),
    ] = ""
    keys: tuple[KeyOptions, ...] = ()
    jwks_file: Annotated[
        str,
        option("a JSON Web Key Set with public keys (RFC 7517)", "Empty: there is none."),
    ] = ""
    jwks_url: Annotated[
        str,
        option(
            "where the identity provider publishes its JSON Web Key Set; https, or loopback",
            "Empty: there is none.",
        ),
    ] = ""
    jwks_cache_s: Annotated[
        float,
        option(
            "how long a key set that was fetched is used before it is fetched again",
            "Five minutes: the usual max-age of providers' key sets, and soon enough to forget"
            " a key that was withdrawn.",
            unit="s",
            least=1,
            most=86_400,
        ),
    ] = 300
    jwks_timeout_s: Annotated[
        float,
        option(
            "the deadline of one fetch of the key set",
            "Half of `limits.connect_s`, so that a client waiting for it still hears the outcome.",
            unit="s",
            least=0.1,
            most=60,
        ),
    ] = 5
    algorithms: Annotated[
        tuple[Algorithm, ...],
        option(
            "algorithms that are accepted at all",
            "All that are sound; of these, only those for which there is a key matter.",
        ),
    ] = ALGORITHMS
    issuer: Annotated[str, option("the `iss` that a token must have", "Empty: not checked.")] = ""
    audience: Annotated[
        str,
        option(
            "the `aud` that a token must have",
            "Empty: a token that is meant for somebody (has an `aud`) is refused"
            " (RFC 7519, 4.1.3).",
        ),
    ] = ""
    leeway_s: Annotated[
        float,
        option(
            "how far the clocks of issuer and server may be apart when times are checked",
            "Ten seconds cover hosts that keep time by NTP, with room to spare.",
            unit="s",
            least=0,
            most=300,
        ),
    ] = 10
    subscribe_claim: Annotated[
        str,
        option(
            "the claim with the topic patterns that its bearer may subscribe to",
            "The word of the protocol's op.",
        ),
    ] = "subscribe"
    publish_claim: Annotated[
        str,
        option(
            "the claim with the topic patterns that its bearer may publish to",
            "The word of the protocol's op.",
        ),
    ] = "publish"
    token_bytes: Annotated[
        int,
        option(
            "the longest token that is looked at",
            "Half of `limits.head_bytes`: a token in the URL or a header leaves room for the rest.",
            unit="bytes",
            least=256,
            most=65_536,
        ),
    ] = 8192


class Limits(Section, frozen=True, kw_only=True):
    """`[limits]`: what one client or one request may ask of the server."""

    handshake_s: Annotated[
        float,
        option(
            "time from accepting a connection to the end of its HTTP request",
            "Ten seconds are plenty on a bad mobile network and cut off those who drip bytes.",
            unit="s",
            least=0.01,
            most=300,
        ),
    ] = 10
    connect_s: Annotated[
        float,
        option(
            "time from the handshake to a valid `connect`, when the handshake had no token",
            "The protocol's promise to clients.",
            unit="s",
            least=0.01,
            most=300,
        ),
    ] = 10
    head_bytes: Annotated[
        int,
        option(
            "the head of an HTTP request: request line and headers",
            "Browsers and proxies stop at 8 to 16 KiB themselves.",
            unit="bytes",
            least=1024,
            most=1_048_576,
        ),
    ] = 16_384
    message_bytes: Annotated[
        int,
        option(
            "one message from a client, all its frames together",
            "Room for a publication of `data_bytes` less its envelope; a client that needs more"
            " should send a reference.",
            unit="bytes",
            least=256,
            most=67_108_864,
        ),
    ] = 65_536
    message_s: Annotated[
        float,
        option(
            "time from the first byte of a message that does not arrive whole to its last",
            "The longest message over a link of 20 kbit/s; who is slower holds memory for nothing.",
            unit="s",
            least=0.1,
            most=3600,
        ),
    ] = 30
    data_bytes: Annotated[
        int,
        option(
            "`data` of one publication, as compact JSON",
            "Copied to every subscriber's socket: 64 KiB to 1,000 subscribers is 64 MB already.",
            unit="bytes",
            least=2,
            most=67_108_864,
        ),
    ] = 65_536
    body_bytes: Annotated[
        int,
        option(
            "the body of a request to the private API",
            "A batch of 10,000 messages of 800 bytes.",
            unit="bytes",
            least=1024,
            most=268_435_456,
        ),
    ] = 8_388_608
    batch: Annotated[
        int,
        option(
            "messages in a batch, or topics in a broadcast",
            "Large enough that a bigger one is no faster, small enough for one turn of the loop.",
            unit="messages",
            least=1,
            most=1_000_000,
        ),
    ] = 10_000
    subscriptions: Annotated[
        int,
        option(
            "topics that one connection may have subscribed",
            "Chosen by guess: ten times what a busy page shows.",
            unit="topics",
            least=1,
            most=1_000_000,
        ),
    ] = 1000
    sse_topics: Annotated[
        int,
        option(
            "topics of one Server-Sent Events stream",
            "Their positions travel in every event's id: 64 keep it below 4 KiB.",
            unit="topics",
            least=1,
            most=1000,
        ),
    ] = 64
    in_flight: Annotated[
        int,
        option(
            "commands of one connection that may be unanswered; then it is not read",
            "Enough to fill a slow link with subscribes, little enough to bound memory.",
            unit="commands",
            least=1,
            most=100_000,
        ),
    ] = 64
    errors: Annotated[
        int,
        option(
            "errors that one connection may cause before it is closed with 4500",
            "A client with a bug is told a hundred times; one that is hostile goes soon.",
            unit="errors",
            least=1,
            most=1_000_000,
        ),
    ] = 100
    commands_per_s: Annotated[
        float,
        option(
            "commands of one connection that are taken for good; 0: as many as come",
            "More than anybody types or a game sends, and 0.3 % of a core.",
            unit="commands/s",
            least=0,
            most=1_000_000,
        ),
    ] = 100
    command_burst: Annotated[
        int,
        option(
            "commands of one connection that are taken at once, after a quiet time",
            "A client that subscribes to `subscriptions` topics one by one does so unhindered.",
            unit="commands",
            least=1,
            most=1_000_000,
        ),
    ] = 1000
    connections: Annotated[
        int,
        option(
            "clients that a worker lets in; 0: as many as its open files allow, less what it keeps"
            " for Redis, backends and logs",
            "The operator sets the open files (`ulimit -n`); a bound of our own would be a guess"
            " about memory.",
            unit="connections",
            least=0,
            most=1_000_000,
        ),
    ] = 0
    user_connections: Annotated[
        int,
        option(
            "connections that one user may have to a worker; 0: any number",
            "How many are normal only the operator knows, and counting costs memory for each user.",
            unit="connections",
            least=0,
            most=1_000_000,
        ),
    ] = 0
    address_connections: Annotated[
        int,
        option(
            "connections that one address may have to a worker, of IPv6 one /64; 0: any number",
            "Thousands share an address, behind a balancer (see `proxies`) or a carrier's NAT.",
            unit="connections",
            least=0,
            most=1_000_000,
        ),
    ] = 0
    fragments: Annotated[
        int,
        option(
            "frames of one message",
            "64-byte fragments of the longest message; without it, empty fragments never end.",
            unit="frames",
            least=1,
            most=1_000_000,
        ),
    ] = 1024
    publish_requests: Annotated[
        int,
        option(
            "requests to publish that a worker has accepted and not answered: of backends, and as"
            " many of clients",
            "Ten times what a busy worker has on its way to Redis; a shard that hangs holds them"
            " for 2 s.",
            unit="requests",
            least=1,
            most=1_000_000,
        ),
    ] = 1000
    publish_messages: Annotated[
        int,
        option(
            "messages in them",
            "Ten of the largest batches, half a second of work.",
            unit="messages",
            least=1,
            most=100_000_000,
        ),
    ] = 100_000
    publish_bytes: Annotated[
        int,
        option(
            "bytes of their bodies",
            "Eight of the largest bodies; decoded they take about twice as much once more.",
            unit="bytes",
            least=1024,
            most=68_719_476_736,
        ),
    ] = 67_108_864
    publish_share: Annotated[
        float,
        option(
            "the part of these that one API key may take",
            "Half: no key can lock out the others, and one alone is hardly held back.",
            unit="part",
            least=0.01,
            most=1,
        ),
    ] = 0.5
    publish_user: Annotated[
        int,
        option(
            "publications of one user that are not answered, over all connections to a worker",
            "Twice what one connection may have unanswered; nobody types so fast.",
            unit="publications",
            least=1,
            most=1_000_000,
        ),
    ] = 128


class Keepalive(Section, frozen=True, kw_only=True):
    """`[keepalive]`: how soon a peer that is gone is noticed."""

    ping_s: Annotated[
        float,
        option(
            "time between two pings to a client",
            "Below the idle limits of balancers and mobile networks: nginx's is 60 s, some"
            " carriers' 30 s.",
            unit="s",
            least=0.01,
            most=3600,
        ),
    ] = 25
    pong_s: Annotated[
        float,
        option(
            "time to answer a ping",
            "A phone that wakes its radio needs some seconds; ten tell it from one that is gone.",
            unit="s",
            least=0.01,
            most=3600,
        ),
    ] = 10
    close_s: Annotated[
        float,
        option(
            "time for the peer to finish a close",
            "A few round trips on the slowest network; then the connection is reset.",
            unit="s",
            least=0.01,
            most=300,
        ),
    ] = 5


class Admission(Section, frozen=True, kw_only=True):
    """`[admission]`: how many newcomers a worker lets in, and when it lets in nobody.

    Who is connected never pays for who arrives. Everything is for one worker.
    """

    handshakes_per_s: Annotated[
        float,
        option(
            "handshakes that are done for good; 0: as many as there is time for."
            " Those who are sent away come back at half this rate",
            "A third of a core: the rest is for those who are connected.",
            unit="handshakes/s",
            least=0,
            most=1_000_000,
        ),
    ] = 5000
    handshake_burst: Annotated[
        int,
        option(
            "handshakes that are done at once, after a quiet time",
            "All clients of a worker that went down, which usually has 20,000 open files, as fast"
            " as they can be received.",
            unit="handshakes",
            least=1,
            most=1_000_000,
        ),
    ] = 20_000
    queue: Annotated[
        int,
        option(
            "newcomers that may wait for their handshake; more are refused",
            "As many as come at once: what a turn has no time for waits here. A kilobyte each.",
            unit="newcomers",
            least=0,
            most=1_000_000,
        ),
    ] = 20_000
    queue_s: Annotated[
        float,
        option(
            "how long a newcomer may wait for its handshake before it is refused",
            "Half of `limits.handshake_s`, and of what client libraries wait for.",
            unit="s",
            least=0.01,
            most=60,
        ),
    ] = 5
    lag_s: Annotated[
        float,
        option(
            "how late the event loop may be before newcomers are refused",
            "Ten times what a storm of handshakes makes it, and just what people notice.",
            unit="s",
            least=0.01,
            most=60,
        ),
    ] = 0.25
    lag_for_s: Annotated[
        float,
        option(
            "how long it must be late without a break before newcomers are refused",
            "Longer than one stop, shorter than anybody's patience.",
            unit="s",
            least=0,
            most=60,
        ),
    ] = 1
    unready_lag_s: Annotated[
        float,
        option(
            "how late the event loop may be before /readyz says no",
            "Half of what a person waits for.",
            unit="s",
            least=0.01,
            most=60,
        ),
    ] = 0.5
    unready_lag_for_s: Annotated[
        float,
        option(
            "how long it must be late without a break before /readyz says no",
            "A burst passes sooner; taking a server out for one would move it to its neighbours.",
            unit="s",
            least=0,
            most=300,
        ),
    ] = 5


class WindowOptions(Section, frozen=True, kw_only=True):
    """`[window]`: how far a client may fall behind before it is closed with 4001.

    What the kernel holds for it comes on top, some 150 KiB (see server/README.md).
    """

    bytes: Annotated[
        int,
        option(
            "what may wait for one client",
            "Sixteen publications of the largest size, thousands of the usual one.",
            unit="bytes",
            least=1024,
            most=1_073_741_824,
        ),
    ] = 1_048_576
    messages: Annotated[
        int,
        option(
            "how many messages may wait for one client",
            "A batch of the largest size (`limits.batch`) may come at once.",
            unit="messages",
            least=1,
            most=100_000_000,
        ),
    ] = 10_000
    seconds: Annotated[
        float,
        option(
            "how long the oldest of it may wait while the client takes next to nothing, less than"
            " 2 KiB a second",
            "A notification ten seconds late is no longer in real time; history brings the rest."
            " Who reads a large one slowly is not meant.",
            unit="s",
            least=0.01,
            most=3600,
        ),
    ] = 10


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


class PipelineOptions(Section, frozen=True, kw_only=True):
    """`[pipeline]`: what the steps of namespaces (`[[namespaces.NAME.pipeline]]`) may take. Without
    such a namespace none of it matters."""

    processes: Annotated[
        int,
        option(
            "processes of each worker that run steps, at most; 0: a processor's each, shared out"
            " among the workers, and one at least",
            "More than processors gain nothing. Each takes some 15 MB, from when it is needed.",
            unit="processes",
            least=0,
            most=256,
        ),
    ] = 0
    queue: Annotated[
        int,
        option(
            "publications of one namespace that may be on their way through its steps; then"
            " publishers are told when to come back (503)",
            "A batch in which every second message waits for its steps, and several of them.",
            unit="publications",
            least=1,
            most=1_000_000,
        ),
    ] = 1000
    queue_bytes: Annotated[
        int,
        option(
            "their data, before the steps",
            "Thirty-two publications of `pipeline.input_bytes`; the bound on memory.",
            unit="bytes",
            least=1024,
            most=17_179_869_184,
        ),
    ] = 33_554_432
    deadline_s: Annotated[
        float,
        option(
            "how long the steps may take for one publication; then their process is killed",
            "Publishers wait for the answer; who needs longer does it beforehand. What is accepted"
            " when the server ends has so long, too.",
            unit="s",
            least=0.05,
            most=3600,
        ),
    ] = 5
    wait_s: Annotated[
        float,
        option(
            "how long a publication may wait for a process; then its publisher is told when to"
            " come back (503)",
            "About as long as callers wait for an answer.",
            unit="s",
            least=0.05,
            most=3600,
        ),
    ] = 10
    memory_mb: Annotated[
        int,
        option(
            "memory of one such process, with its interpreter and all steps; on Linux",
            "An interpreter with all steps takes some 20; the rest is for documents, and a guess.",
            unit="MiB",
            least=64,
            most=1_048_576,
        ),
    ] = 256
    input_bytes: Annotated[
        int,
        option(
            "`data` of one publication before the steps; afterwards it is `limits.data_bytes`, and"
            " never less than that",
            "Sixteen times `limits.data_bytes`: steps take a part of what they get.",
            unit="bytes",
            least=2,
            most=67_108_864,
        ),
    ] = 1_048_576


class Namespace(Section, frozen=True, kw_only=True):
    """`[namespaces.NAME]`: the options of the topics `NAME:...`.

    The namespace `default` has the topics without a `:` and those of every namespace that is not
    configured. Whatever the options of the namespace `user`, only the user whose `sub` it is may
    subscribe to `user:<sub>`.
    """

    history_size: Annotated[
        int,
        option(
            "publications kept per topic; 0: no history, no offsets, at most once",
            "Costs nothing until it is wanted; 100 in development's default namespace.",
            unit="publications",
            least=0,
            most=1_000_000,
        ),
    ] = 0
    history_s: Annotated[
        float,
        option(
            "how long a publication is kept",
            "Five minutes: a deploy, a lift, a tunnel. Matters only with `history_size`.",
            unit="s",
            least=0,
            most=31_536_000,
        ),
    ] = 300
    subscribe: Annotated[
        Who,
        option(
            "who may subscribe",
            'Nothing is public by accident; "everyone" in development\'s default namespace.',
        ),
    ] = "granted"
    publish: Annotated[
        Who,
        option(
            "which clients may publish; backends always may",
            'Most topics are written by backends; "everyone" in development\'s default namespace.',
        ),
    ] = "nobody"
    presence: Annotated[
        Keeping,
        option(
            "what is kept of who is subscribed: how many, or also whom; with `events` every"
            " subscriber is told who comes and goes",
            "Costs nothing until it is wanted. `events` is for rooms of hundreds: a thousand"
            ' members who come back together are a million messages. "members" in development\'s'
            " default namespace.",
        ),
    ] = "off"
    slow: Annotated[
        Policy,
        option(
            "what becomes of its messages when a client does not take them and its window is full:"
            " the client is closed, whole topics are given up (`resync`), only the newest message"
            " of a topic ever waits (`latest`), or the oldest messages are given up"
            " (`drop_oldest`). With a history the client is told what is missing",
            "Nothing is ever missing: a client that is closed resumes from its position.",
        ),
    ] = "close"
    slow_bytes: Annotated[
        int,
        option(
            "what may wait for one client in the topics of this namespace together; 0: as much as"
            " in all",
            "One bound is enough until a namespace must leave room for others.",
            unit="bytes",
            least=0,
            most=1_073_741_824,
        ),
    ] = 0
    slow_messages: Annotated[
        int,
        option(
            "how many messages may wait for one client in the topics of this namespace together;"
            " 0: as many as in all",
            "One bound is enough until a namespace must leave room for others.",
            unit="messages",
            least=0,
            most=100_000_000,
        ),
    ] = 0
    slow_s: Annotated[
        float,
        option(
            "how long a message may wait for a client, also for one that reads; then it is as if"
            " the window were full. Not for `latest`. 0: as long as it takes",
            "Late is better than never, until somebody knows better.",
            unit="s",
            least=0,
            most=3600,
        ),
    ] = 0
    pipeline: tuple[AnyStep, ...] = ()


_UNCONFIGURED = Namespace()


class Config(Section, frozen=True, kw_only=True):
    """The whole configuration. The attribute path of an option is its key path in the file."""

    development: Annotated[
        bool,
        option(
            "open to everyone on this machine, and to nobody else; `auth.anonymous` and the"
            " default namespace have other defaults then",
            "True only without a configuration file: the first start needs none, and a server"
            " that was configured is never open by accident.",
            flag=True,
        ),
    ] = False
    host: Annotated[
        str,
        option(
            "address of the public port",
            "Reachable from outside only when that is asked for.",
            flag=True,
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        option(
            "public port: /ws, /sse; 0: any that is free",
            "The customary port of a Python web service.",
            least=0,
            most=65_535,
            flag=True,
        ),
    ] = 8000
    api_host: Annotated[
        str,
        option(
            "address of the private port",
            "Backends on other hosts need it open; the internet never does.",
            flag=True,
        ),
    ] = "127.0.0.1"
    api_port: Annotated[
        int,
        option(
            "private port: /v1, /metrics; 0: any that is free",
            "Next to the public one.",
            least=0,
            most=65_535,
            flag=True,
        ),
    ] = 8001
    workers: Annotated[
        int,
        option(
            "event-loop processes",
            "One needs no Redis to reach all subscribers. One a core is the most that helps.",
            unit="processes",
            least=1,
            most=1024,
            flag=True,
        ),
    ] = 1
    redis: Annotated[
        tuple[str, ...],
        option(
            "URLs of the shards",
            "None: publications stay in this process.",
            secret=True,
            flag=True,
        ),
    ] = ()
    next_shards: Annotated[
        tuple[str, ...],
        option(
            "URLs of the shards that `redis` is about to become; the first of three steps",
            "None: the shards stay as they are.",
            secret=True,
        ),
    ] = ()
    previous_shards: Annotated[
        tuple[str, ...],
        option(
            "URLs of the shards that `redis` was until now, which topics leave; the second step",
            "None: there is nothing left to move.",
            secret=True,
        ),
    ] = ()
    prefix: Annotated[
        str,
        option(
            "what the names of all keys and channels in Redis begin with",
            "The product's name, until two installations share a Redis.",
        ),
    ] = "clarion"
    proxies: Annotated[
        tuple[str, ...],
        option(
            'networks of the proxies and balancers before this server, such as "10.0.0.0/8": what'
            " they say of a client's address, in `X-Forwarded-For` or a PROXY header, is believed",
            "Nobody's: anyone could claim to be somebody else.",
        ),
    ] = ()
    proxy_protocol: Annotated[
        bool,
        option(
            "whether connections from `proxies` begin with a PROXY header, version 1 or 2, and are"
            " refused without one; only /livez and /readyz do without",
            "A balancer has to be told to send it.",
        ),
    ] = False
    origins: Annotated[
        tuple[str, ...],
        option(
            'browser origins that may connect, such as "https://app.example.com"; "*": any',
            "None but those that the server itself serves: a page elsewhere must not act for its"
            " visitor unasked.",
        ),
    ] = ()
    api_keys: Annotated[
        tuple[str, ...],
        option(
            "keys of the private API, 16 characters or more; several, so that they can be changed"
            " without a gap",
            "No default: a key that ships with a program is none. Development needs none.",
            secret=True,
        ),
    ] = ()
    log_level: Annotated[
        LogLevel,
        option(
            "what is logged",
            "Starts, stops and faults; debug logs every connection.",
            flag=True,
        ),
    ] = "info"
    echo: Annotated[
        bool,
        option(
            "serve /echo, which sends back what it gets; only in development",
            "For conformance suites and clients under test.",
            flag=True,
        ),
    ] = False
    auth: AuthOptions = msgspec.field(default_factory=AuthOptions)
    limits: Limits = msgspec.field(default_factory=Limits)
    admission: Admission = msgspec.field(default_factory=Admission)
    keepalive: Keepalive = msgspec.field(default_factory=Keepalive)
    window: WindowOptions = msgspec.field(default_factory=WindowOptions)
    history: HistoryLimits = msgspec.field(default_factory=HistoryLimits)
    shards: ShardOptions = msgspec.field(default_factory=ShardOptions)
    presence: PresenceOptions = msgspec.field(default_factory=PresenceOptions)
    inbox: InboxOptions = msgspec.field(default_factory=InboxOptions)
    pipeline: PipelineOptions = msgspec.field(default_factory=PipelineOptions)
    namespaces: Mapping[str, Namespace] = msgspec.field(
        default_factory=lambda: {DEFAULT_NAMESPACE: Namespace()}
    )

    def namespace(self, topic: str) -> Namespace:
        """The options of `topic`'s namespace, or of `default` when that is not configured."""
        namespaces = self.namespaces
        found = namespaces.get(namespace_of(topic))
        return found or namespaces.get(DEFAULT_NAMESPACE, _UNCONFIGURED)
