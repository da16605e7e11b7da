"""Slow consumers against a running worker: what each policy does, and who counts as reading."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from typing import Any

import pytest

from clarion_server.listener import UNSENT_BYTES
from clarion_server.options import Config, Keepalive, Limits, Namespace, WindowOptions
from clarion_server.outlet import unsent
from support.server import clients, configuration, publish, running
from support.slow_reader import BLOCK, TINY, blocked, heard
from support.waiting import until
from support.wire import command, connected, streaming

KIB = 1024


def namespace(**options: Any) -> Namespace:
    return Namespace(subscribe="everyone", publish="everyone", **options)


def patient() -> Config:
    """A server that waits long for whoever does not read."""
    namespaces = {
        "old": namespace(history_size=500, slow="drop_oldest", slow_messages=5),
        "fleeting": namespace(slow="drop_oldest", slow_s=0.3),
        "sync": namespace(history_size=500, slow="resync", slow_messages=10),
        "last": namespace(history_size=500, slow="latest"),
        "now": namespace(slow="latest"),
    }
    window = WindowOptions(bytes=256 * KIB, seconds=60)
    return configuration(window=window, keepalive=Keepalive(close_s=0.3), namespaces=namespaces)


async def test_the_oldest_of_a_namespace_give_way_and_it_is_told() -> None:
    async with running(patient()) as worker, blocked(worker, "old:a", "old:b", "now:a") as client:
        for number in range(1, 9):
            await publish(worker, "old:a", number)
            await publish(worker, "old:b", number * 10)
            await asyncio.sleep(0)
        await publish(worker, "now:a", "end")
        assert await heard(client, "end") == [
            "lost old:a 6",
            "lost old:b 5",
            "message old:b 60",
            "message old:a 7",
            "message old:b 70",
            "message old:a 8",
            "message old:b 80",
            "message now:a end",
        ]
        await until(lambda: not worker.counters.windows)
        assert worker.counters.dropped["drop_oldest", "old"] == 11
        await publish(worker, "old:a", "at once")
        assert (await client.said("message"))["offset"] == 9


async def test_whole_topics_give_way_and_the_client_fetches_what_it_missed() -> None:
    async with running(patient()) as worker, blocked(worker, "sync:noisy", "sync:quiet") as client:
        await publish(worker, "sync:quiet", "hello")
        for number in range(1, 15):
            await publish(worker, "sync:noisy", number)
        assert await heard(client, 14) == [
            "message sync:quiet hello",
            "lost sync:noisy 10",
            *(f"message sync:noisy {number}" for number in range(11, 15)),
        ]
        await client.send(command("history", topic="sync:noisy", limit=10))
        found = await client.said("history")
        assert [entry["data"] for entry in found["messages"]] == list(range(1, 11))


async def test_only_the_newest_of_each_topic_waits() -> None:
    async with running(patient()) as worker, blocked(worker, "now:a", "now:b", "last:a") as client:
        for number in range(1, 100):
            await publish(worker, f"now:{'ab'[number % 2]}", number)
            await publish(worker, "last:a", number)
            await publish(worker, "bare:block", f"all {number}")
            await asyncio.sleep(0)
        said = await heard(client, "all 99")
        # Each in its first place, and a topic of another policy is as if nothing were.
        assert [each for each in said if "bare:" not in each] == [
            "message now:b 99",
            "lost last:a 98",
            "message last:a 99",
            "message now:a 98",
        ]
        assert [each for each in said if "bare:" in each] == [
            f"message bare:block all {number}" for number in range(1, 100)
        ]
        assert worker.counters.dropped["latest", "last"] == 98


async def test_what_waited_too_long_is_not_sent_any_more() -> None:
    async with running(patient()) as worker, blocked(worker, "fleeting:a") as client:
        await publish(worker, "fleeting:a", "stale")
        await until(lambda: worker.counters.dropped["drop_oldest", "fleeting"] == 1, 2)
        await publish(worker, "fleeting:a", "fresh")
        assert await heard(client, "fresh") == ["message fleeting:a fresh"]


async def test_answers_are_not_dropped_for_messages() -> None:
    async with running(patient()) as worker, blocked(worker, "old:a") as client:
        (window,) = worker.counters.windows
        await client.send(command("ping"))
        await until(lambda: len(window))
        for number in range(2000):
            await publish(worker, "old:a", number)
            await asyncio.sleep(0)
        assert window.messages == 6
        assert await heard(client, 1999) == [
            "pong  None",
            "lost old:a 1995",
            *(f"message old:a {number}" for number in range(1995, 2000)),
        ]


async def test_a_stream_of_several_topics_is_closed_where_it_would_be_told_of_a_loss() -> None:
    async with running(patient()) as worker:
        topics = ["old:a", "now:a"]
        async with streaming(worker.port, topics, receive_buffer=TINY) as client:
            for _ in topics:
                await client.event()
            count = 0
            while worker.hub.subscriptions:
                count += 1
                await publish(worker, "now:a", [-count, BLOCK])
                await publish(worker, "old:a", [count, BLOCK])
                await asyncio.sleep(0)
                assert count < 200
            seen, last = 0, ""
            while (event := await client.event()).get("event") != "goodbye":
                number = json.loads(event["data"])["data"][0]
                if number > 0:
                    assert number == seen + 1
                    seen, last = number, event["id"]
        # What it does next by itself, knowing nothing but the last id.
        async with streaming(worker.port, topics, f"Last-Event-ID: {last}") as client:
            for _ in topics:
                await client.event()
        assert seen < count
        assert worker.counters.too_slow["bytes", "old"] == 1


async def test_a_stream_of_one_topic_is_told_of_a_loss_and_its_id_is_behind_it() -> None:
    async with (
        running(patient()) as worker,
        streaming(worker.port, ["old:a"], receive_buffer=TINY) as client,
    ):
        await client.event()
        for number in range(1, 51):
            await publish(worker, "old:a", [number, BLOCK])
        at = 0
        lost = 0
        while at < 50:
            event = await client.event()
            message = json.loads(event["data"])
            assert event["id"].endswith(f"|{message['offset']}")
            if event.get("event") == "lost":
                assert message["offset"] > at
                lost += 1
            else:
                assert message["offset"] == at + 1
            at = message["offset"]
        assert lost == 1


# Who reads how


async def test_a_drip_is_not_reading() -> None:
    config = configuration(
        window=WindowOptions(bytes=4 * KIB * KIB, seconds=0.6),
        keepalive=Keepalive(close_s=0.3),
    )
    async with running(config) as worker, connected(worker.port, receive_buffer=TINY) as client:
        await client.subscribe("bare:a")
        while not worker.counters.windows:
            await publish(worker, "bare:a", BLOCK)
            await asyncio.sleep(0)
        start = time.monotonic()

        async with asyncio.timeout(5):
            while clients(worker):
                assert await client.receive(1)
                await asyncio.sleep(0.05)
        assert time.monotonic() - start < 3
        assert worker.counters.closes == {4001: 1}
        assert worker.counters.too_slow["seconds", ""] == 1
        assert not worker.counters.windows


async def test_who_reads_slowly_through_large_kernel_buffers_is_not_taken_for_stuck() -> None:
    """The kernel asks for more only when much of its buffer is free; it is asked itself."""
    config = configuration(
        window=WindowOptions(seconds=0.5), limits=Limits(data_bytes=8 * KIB * KIB)
    )
    async with running(config) as worker, connected(worker.port, receive_buffer=TINY) as client:
        await client.subscribe("bare:a")
        await publish(worker, "bare:a", "x" * 300_000)
        await until(lambda: worker.counters.windows)
        start = time.monotonic()
        while worker.counters.windows:
            assert await client.receive(2000)
            await asyncio.sleep(0.01)
        assert time.monotonic() - start > 1
        assert not worker.counters.too_slow.total()


async def test_who_stops_in_the_middle_of_a_frame_is_gone_with_all_that_waited() -> None:
    config = configuration(
        window=WindowOptions(seconds=0.4),
        keepalive=Keepalive(close_s=0.3),
        limits=Limits(data_bytes=8 * KIB * KIB),
    )
    async with running(config) as worker, connected(worker.port, receive_buffer=TINY) as client:
        await client.subscribe("bare:a")
        await publish(worker, "bare:a", "x" * 4_000_000)
        await client.receive(1000)
        await publish(worker, "bare:a", "waits behind it")
        await until(lambda: not worker.hub.subscriptions, 2)
        await until(lambda: not clients(worker), 1)  # it never saw the close frame
        assert not worker.counters.windows
        assert worker.counters.closes == {4001: 1}


async def test_who_ends_its_side_while_something_waits_is_gone_at_once() -> None:
    async with running(patient()) as worker, blocked(worker) as client:
        client.end()
        await until(lambda: not clients(worker), 1)
        assert not worker.counters.windows
        assert worker.counters.closes == {1006: 1}


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the kernel has no such bound")
async def test_the_kernel_holds_little_for_who_does_not_read() -> None:
    async with running(patient()) as worker, blocked(worker):
        (peer,) = worker.directory.peers()
        assert UNSENT_BYTES // 2 < unsent(peer.key) < UNSENT_BYTES * 2


async def test_how_full_windows_were_and_for_how_long_is_kept() -> None:
    async with running(patient()) as worker:
        async with blocked(worker, "now:a") as client:
            assert worker.counters.window_fill.counts == [0] * 8
            await publish(worker, "bare:block", "x" * 60_000)
            await publish(worker, "bare:block", "x" * 80_000)
            await publish(worker, "now:a", "end")
            (window,) = worker.counters.windows
            await until(lambda: window.messages >= 3)
            assert 140_000 < window.bytes < 200_000
            await heard(client, "end")
        await until(lambda: not worker.counters.windows)
        assert Counter(worker.counters.window_fill.counts)[1] == 1
        assert 0.5 < worker.counters.window_fill.total < 0.8
        assert sum(worker.counters.behind.counts) == 1
