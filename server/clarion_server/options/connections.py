"""Who is let in, who is gone, and who is too slow: `[admission]`, `[keepalive]`, `[window]`."""

from __future__ import annotations

from typing import Annotated

from clarion_server.option_values import Section, option


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
