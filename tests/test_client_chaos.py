"""The Python client in a network that fails at random: each message once, in order, no loss.

The seeds are fixed, so that what fails can be looked at again; the timing never is the same.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from contextlib import suppress

import pytest

from clarion_client import Client, Lost, Message, Refused, Subscription, Unanswered
from clarion_server.app import Worker
from clarion_server.options import Namespace
from support.bad_network import BadNetwork, bad_network
from support.server import configuration, publish, running
from support.waiting import until

SECONDS = 1.5
"""Of trouble: some 10 connections and 1,000 messages."""


class Program:
    """Takes what comes, at random times, and asks in between."""

    def __init__(self, client: Client, dice: random.Random) -> None:
        self.taken: dict[str, list[int]] = defaultdict(list)
        self.losses: list[Lost] = []
        self._client = client
        self._dice = dice

    async def run(self, subscription: Subscription) -> None:
        async for event in subscription.events():
            if isinstance(event, Message):
                self.taken[event.topic].append(event.data)
            elif isinstance(event, Lost):
                self.losses.append(event)
            if self._dice.random() < 0.01:
                await asyncio.sleep(self._dice.random() * 0.05)
            if self._dice.random() < 0.01:
                await self._ask(event.topic)

    async def _ask(self, topic: str) -> None:
        with suppress(Unanswered, Refused):
            await self._client.history(topic, limit=2, answer_s=0.3)


async def trouble(network: BadNetwork, dice: random.Random) -> None:
    """One of the things that go wrong, or none."""
    what = dice.choices(
        ["nothing", "cut", "refuse", "cut_after", "delay", "swallow", "answer", "stall"],
        [75, 10, 3, 3, 2, 2, 2, 3],
    )[0]
    if what == "cut":
        network.cut()
    elif what == "refuse":
        network.refuse(dice.randint(1, 3))
    elif what == "cut_after":
        network.cut_after(dice.randint(0, 3000))
    elif what == "delay":
        network.delay(dice.random() * 0.5)
    elif what == "swallow":
        network.swallow()
    elif what == "answer":
        network.answer(503)
    elif what == "stall":
        network.stall()
        await asyncio.sleep(dice.random() * 0.3)
        network.flow()


async def publish_some(worker: Worker, counts: dict[str, int], dice: random.Random) -> None:
    for _ in range(dice.randint(0, 20)):
        topic = dice.choice(list(counts))
        counts[topic] += 1
        await publish(worker, topic, counts[topic])


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_the_network_does_each_message_comes_once(seed: int) -> None:
    dice = random.Random(seed)
    kept = Namespace(history_size=100_000, subscribe="everyone")
    counts = dict.fromkeys((f"orders:{n}" for n in range([1, 3, 40][seed % 3])), 0)
    async with (
        running(configuration(namespaces={"orders": kept})) as worker,
        bad_network(worker.port) as network,
        Client(
            f"ws://127.0.0.1:{network.port}",
            pause_s=(0.005, 0.03),
            ping_s=0.1,
            pong_s=0.1,
            connect_s=0.3,
            buffer=[1, 1000, 5][seed % 3],
        ) as client,
        client.subscribe(*counts) as subscription,
        asyncio.TaskGroup() as group,
    ):
        program = Program(client, dice)
        running_program = group.create_task(program.run(subscription))
        until_calm = asyncio.get_running_loop().time() + SECONDS
        while asyncio.get_running_loop().time() < until_calm:
            await trouble(network, dice)
            await publish_some(worker, counts, dice)
            await asyncio.sleep(dice.random() * 0.02)
        expected = {topic: list(range(1, count + 1)) for topic, count in counts.items() if count}
        await until(
            lambda: (
                {t: d[-1] for t, d in program.taken.items()}
                == {t: d[-1] for t, d in expected.items()}
            )
        )
        running_program.cancel()
    assert program.taken == expected
    assert program.losses == []
    assert len(network.attempts) > 3
