"""Anything may be published on a topic's channel: no payload disturbs the worker that hears it.

Whoever can write to Redis can make what looks like a worker's; that it is passed on is no fault.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clarion_fanout.follower import Follower
from clarion_fanout.publication import Draft, Publication, Receipt
from clarion_server.forms import EVENT, WEBSOCKET
from support.examples import examples
from support.inboxes import KEYS, Feed, worker
from support.redis_shared import shared_servers
from support.waiting import until

TOPICS = ("kept:1", "bare:1")

HEADS = (
    b"#",
    b"#0",
    b"#1",
    b"#-1",
    b"#+1",
    b"#1_0",
    b"# 1",
    b"#00",
    b"#" + b"9" * 5000,
    b">",
    b"<",
    b"%0",
    b"%1",
    b"%",
    b"@",
    b"@k",
)
TIMES = (b"0", b"1790000000123", b"-1", b"", b"x", b"9" * 4300, b"9" * 5000, b"1.5", b"\xff")
MARKS = (b"-", b"", b"EPOCH", b"abc", b'"', b"\xff", b"|;", b"a" * 10_000)
DATA = (b"1", b'{"n":1}', b"", b"{", b"\xff", b"a b c")

payloads = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"!", b">1", b"<{}", b"<b>hello</b>", b"1", b"@k 1", b"%1 0 abc k 1"]),
    st.builds(
        lambda *parts: b" ".join(parts),
        st.sampled_from(HEADS) | st.integers(0, 3).map(lambda number: b"#%d" % number),
        st.sampled_from(TIMES),
        st.sampled_from(MARKS),
        st.sampled_from(DATA),
    ),
    st.lists(st.sampled_from([*HEADS, *TIMES, *MARKS, *DATA]), max_size=5).map(b" ".join),
)


class Encoder(Feed):
    """Encodes what it is fed, as a hub does for its clients."""

    def dispatch(self, publication: Publication) -> None:
        super().dispatch(publication)
        for form in (WEBSOCKET, EVENT):
            assert form.encode(publication)


@pytest.mark.parametrize("topic", TOPICS)
async def test_no_payload_disturbs_who_listens(topic: str) -> None:
    (server,) = await shared_servers(1)
    async with worker(server.url, working=False, feed=Encoder()) as one:
        broker = one.broker
        assert not broker.attach(topic)
        await broker.attached(topic)
        listener = broker.shards.of(topic).subscriptions.listeners[KEYS.channel(topic)]

        @settings(suppress_health_check=list(HealthCheck), max_examples=examples(300))
        @given(payloads)
        def forge(payload: bytes) -> None:
            epoch = listener.epoch.encode() if isinstance(listener, Follower) else b"-"
            listener.take(payload.replace(b"EPOCH", epoch))

        forge()
        await asyncio.sleep(0)
        if isinstance(listener, Follower):
            listener.doubt()  # a check would, within half a minute
        [receipt] = await broker.publish([Draft(topic, b'"real"')])
        assert isinstance(receipt, Receipt)
        await until(lambda: b'"real"' in one.feed.of(topic))


async def test_a_forged_position_of_another_stream_makes_us_look_and_is_not_passed_on() -> None:
    (server,) = await shared_servers(1)
    async with worker(server.url, working=False) as one:
        one.broker.attach("kept:1")
        await one.broker.attached("kept:1")
        await server.command("PUBLISH", "clarion:t:kept:1", b"#1 0 abc 1")
        await server.command("PUBLISH", "clarion:t:kept:1", b"#%b 0 abc 1" % (b"9" * 100))
        await one.broker.publish([Draft("kept:1", b'"real"')])
        await until(lambda: one.feed.of("kept:1"))
        assert one.feed.of("kept:1") == [b'"real"']
        assert one.broker.mender.gaps > 0
