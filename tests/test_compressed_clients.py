"""Clients that offer compression by themselves: each agrees to it and reads what comes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from clarion_client import Client
from clarion_server.app import Worker
from clarion_server.options import Namespace
from clarion_server.pipeline.options import Compress
from support import browser
from support.node import NODES, program
from support.server import configuration, publish, running
from support.waiting import DEADLINE, until

BOARD = [{"flight": f"B6{number}", "to": "Zürich ☀", "delay": number} for number in range(40)]
TOPIC = "boards:JFK"
MESSAGES = 5

READ = """
const options = given.ws ? { WebSocket: WS } : {};
const client = new Client(given.url, options);
const subscription = client.subscribe(given.topic);
subscription.addEventListener("subscribed", ({ detail }) => say(detail));
for await (const item of subscription) {
  say(item.data);
  if (item.data[0] === given.last) break;
}
client.close();
"""

IN_A_PAGE = """
(async () => {
  window.heard = [];
  const socket = new WebSocket(%s, ["clarion.v1"]);
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.op === "message") heard.push(message.data);
    if (message.op === "subscribed") window.subscribed = true;
    if (message.op === "welcome") {
      window.extensions = socket.extensions;
      socket.send(JSON.stringify({ op: "subscribe", id: "%s", topic: %s }));
    }
  };
})()
"""


def data(number: int) -> list[object]:
    return [number, *BOARD]


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    namespace = Namespace(
        history_size=50,
        subscribe="everyone",
        publish="everyone",
        pipeline=(Compress(min_bytes=200),),
    )
    async with running(configuration(namespaces={"boards": namespace}, origins=("*",))) as worker:
        yield worker


def url(worker: Worker) -> str:
    return f"ws://127.0.0.1:{worker.port}/ws"


async def publish_all(worker: Worker) -> None:
    for number in range(MESSAGES):
        await publish(worker, TOPIC, data(number))


def check(worker: Worker) -> None:
    """All of them went out compressed, each once."""
    assert worker.counters.compressed == {"compressed": MESSAGES}


async def test_the_python_client_reads_and_publishes(worker: Worker) -> None:
    async with (
        asyncio.timeout(DEADLINE),
        Client(url(worker)) as client,
        client.subscribe(TOPIC) as subscription,
    ):
        await until(lambda: worker.hub.subscriptions)
        assert worker.counters.compressed_connections == 1
        await publish_all(worker)
        heard = [(await anext(subscription)).data for _ in range(MESSAGES)]
        assert heard == [data(number) for number in range(MESSAGES)]
        check(worker)
        await client.publish(TOPIC, data(99))
        assert (await anext(subscription)).data == data(99)


async def test_the_python_client_resumes_from_compressed_history(worker: Worker) -> None:
    await publish_all(worker)
    async with (
        asyncio.timeout(DEADLINE),
        Client(url(worker)) as client,
        client.subscribe(TOPIC, last=MESSAGES) as subscription,
    ):
        heard = [(await anext(subscription)).data for _ in range(MESSAGES)]
    assert heard == [data(number) for number in range(MESSAGES)]
    check(worker)


async def test_the_command_line_reads(worker: Worker) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clarion_server", "subscribe", "--json", "--url", url(worker)),
        TOPIC,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        await until(lambda: worker.hub.subscriptions)
        assert worker.counters.compressed_connections == 1
        await publish_all(worker)
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            heard: list[object] = []
            while len(heard) < MESSAGES:
                line = json.loads(await process.stdout.readline())
                if line["op"] == "message":
                    heard.append(line["data"])
        assert heard == [data(number) for number in range(MESSAGES)]
        check(worker)
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("ws", [False, True], ids=["platform", "ws"])
async def test_the_javascript_client_reads_in_node(worker: Worker, ws: bool) -> None:
    """With the platform's WebSocket, and with the package `ws`."""
    node = NODES[-1] if ws else NODES[0]
    given = {"url": url(worker), "topic": TOPIC, "last": MESSAGES - 1, "ws": ws}
    async with program(READ, node, **given) as reader:
        assert (await reader.said())["op"] == "subscribed"
        assert worker.counters.compressed_connections == 1
        await publish_all(worker)
        assert [await reader.said() for _ in range(MESSAGES)] == [
            data(number) for number in range(MESSAGES)
        ]
        await reader.ends()
    check(worker)


@pytest.mark.skipif(browser.PROGRAM is None, reason="chromium is not installed")
async def test_a_browser_reads(worker: Worker) -> None:
    async def page(_request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>A page</title>", content_type="text/html")

    application = web.Application()
    application.router.add_get("/", page)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        async with browser.tab(f"http://127.0.0.1:{port}/") as tab:
            script = IN_A_PAGE % (json.dumps(url(worker)), "i" * 100, json.dumps(TOPIC))
            await tab.evaluate(script)
            await tab.until("window.subscribed")
            extensions = await tab.evaluate("window.extensions")
            assert extensions.startswith("permessage-deflate")
            assert worker.counters.compressed_connections == 1
            await publish_all(worker)
            await tab.until(f"heard.length === {MESSAGES}")
            heard = await tab.evaluate("window.heard")
            assert heard == [data(number) for number in range(MESSAGES)]
    finally:
        await runner.cleanup()
    check(worker)
