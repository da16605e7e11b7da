"""What one client or one request may ask of the server: `[limits]`."""

from __future__ import annotations

from typing import Annotated

from clarion_server.option_values import Section, option


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
            "Ten times what a busy worker has on its way to Redis; one shard of several that hangs"
            " holds half of them for 2 s.",
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
