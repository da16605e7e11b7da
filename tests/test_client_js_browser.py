"""The JavaScript client in a page: cuts, networks that come and go, event streams, the examples."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlencode

import pytest
from aiohttp import web

from clarion_server.app import Worker
from clarion_server.options import AuthOptions
from support import browser
from support.bad_network import BadNetwork, bad_network
from support.browser import Tab
from support.node import CLIENT
from support.server import SECRET, configuration, publish, running, token
from support.waiting import until

pytestmark = pytest.mark.skipif(browser.PROGRAM is None, reason="chromium is not installed")

EMPTY = "<!doctype html><title>A page</title>"

READ = """
(async () => {
  const { Client } = await import("/clarion-client.js");
  window.states = [];
  window.items = [];
  window.client = new Client(%s, { backoff: [5, 50], random: () => 0.5, ...%s });
  client.addEventListener("state", ({ detail }) => states.push(detail));
  const subscription = client.subscribe("a");
  (async () => {
    for await (const item of subscription) items.push(item.op === "lost" ? "lost" : item.data);
  })();
  await new Promise((done) => subscription.addEventListener("subscribed", done, { once: true }));
})()
"""


class Scene(NamedTuple):
    """A server, the way to it, and a page of another origin."""

    worker: Worker
    network: BadNetwork
    tab: Tab
    site: str

    async def read(self, **options: object) -> None:
        """The page reads topic `a` into `items`, and has its `client` and all `states`."""
        given = json.dumps(options)
        await self.tab.evaluate(READ % (json.dumps(self.server), given))

    @property
    def server(self) -> str:
        return f"ws://127.0.0.1:{self.network.port}/ws"

    async def publish(self, *contents: object) -> None:
        for content in contents:
            await publish(self.worker, "a", content)


@asynccontextmanager
async def scene(auth: AuthOptions | None = None) -> AsyncIterator[Scene]:
    config = configuration(auth=auth, origins=("*",))
    async with (
        running(config) as worker,
        bad_network(worker.port) as network,
        site() as url,
        browser.tab(url) as tab,
    ):
        yield Scene(worker, network, tab, url)


@asynccontextmanager
async def site() -> AsyncIterator[str]:
    """Serves the client's folder, and an empty page at `/`."""

    async def empty(_: web.Request) -> web.Response:
        return web.Response(text=EMPTY, content_type="text/html")

    application = web.Application()
    application.router.add_get("/", empty)
    application.router.add_static("/", CLIENT)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def test_cuts_lose_nothing_double_nothing_and_keep_the_order() -> None:
    async with scene() as page:
        await page.read()
        published = attempts = 0
        for _ in range(10):
            attempts = await next_attempt(page.network, attempts)
            for _ in range(5):
                published += 1
                await page.publish(published)
                await asyncio.sleep(0.002)
            page.network.cut()
        await page.publish("enough")
        await page.tab.until("items.at(-1) === 'enough'")
        assert await page.tab.evaluate("items") == [*range(1, published + 1), "enough"]


async def next_attempt(network: BadNetwork, attempts: int) -> int:
    await until(lambda: network.open and len(network.attempts) > attempts)
    return len(network.attempts)


async def test_a_page_comes_back_at_once_when_the_network_does() -> None:
    async with scene() as page:
        await page.read(backoff=[600_000, 600_000])
        page.network.cut()
        await page.tab.until("client.state === 'waiting' && states.at(-1).pause > 30_000")
        await offline(page.tab, True)
        await page.tab.until("!navigator.onLine")
        await offline(page.tab, False)
        await page.tab.until("client.state === 'connected'")
        await page.publish("enough")
        await page.tab.until("items.at(-1) === 'enough'")


async def offline(tab: Tab, is_offline: bool) -> None:
    await tab.call(
        "Network.emulateNetworkConditions",
        offline=is_offline,
        latency=0,
        downloadThroughput=-1,
        uploadThroughput=-1,
    )


async def test_a_page_that_is_looked_at_again_finds_a_dead_link() -> None:
    async with scene() as page:
        await page.read()
        page.network.stall()
        seen = "new Event('visibilitychange', { bubbles: true })"  # as HTML has it, section 6.2
        await page.tab.evaluate(f"document.dispatchEvent({seen})")
        await page.tab.until("states.some(({ code }) => code === 4003)")
        page.network.flow()
        await page.publish("enough")
        await page.tab.until("items.at(-1) === 'enough'")


async def test_event_streams_take_over_across_origins_with_token_and_positions() -> None:
    async with scene(AuthOptions(secret=SECRET)) as page:
        page.network.answer(status=403, times=2)
        await page.read(token=token("42"))
        assert await page.tab.evaluate("states.at(-1).transport") == "sse"
        await page.publish(1)
        await page.tab.until("items.length === 1")
        page.network.answer(status=403)
        page.network.cut()
        await page.publish(2)
        await page.tab.until("items.length === 2")
        assert await page.tab.evaluate("states.at(-1).transport") == "sse"
        page.network.cut()
        await page.publish(3)
        await page.tab.until("states.at(-1).transport === 'websocket'")
        await page.tab.until("items.length === 3")
        assert await page.tab.evaluate("items") == [1, 2, 3]


async def test_clients_that_are_closed_leave_no_listeners_in_the_page() -> None:
    async with scene() as page:

        async def listeners() -> int:
            count = 0
            for name in ("window", "document"):
                found = await page.tab.call("Runtime.evaluate", expression=name)
                id = found["result"]["objectId"]
                answer = await page.tab.call("DOMDebugger.getEventListeners", objectId=id)
                count += len(answer["listeners"])
            return count

        before = await listeners()
        await page.read()
        assert await listeners() == before + 3
        for _ in range(3):
            await page.tab.evaluate("client.close()")
            await page.read()
        await page.tab.evaluate("client.close()")
        assert await listeners() == before
        await until(lambda: not page.network.open)


# The examples


async def test_the_example_shows_publishes_and_survives_a_cut() -> None:
    async with scene() as page:
        query = urlencode({"server": page.server, "topic": "a"})
        await page.publish("from before")
        await page.tab.open(f"{page.site}examples/index.html?{query}")
        shown = "[...document.querySelectorAll('li')].map(({ innerText }) => innerText)"
        await page.tab.until(
            "document.querySelector('#state').innerText === 'connected (websocket)'"
        )
        await page.tab.until(f"{shown}.join() === 'from before'")
        attempts = len(page.network.attempts)
        page.network.cut()
        # What is published before the page has noticed may be lost with the connection, and is
        # said to be.
        await until(lambda: len(page.network.attempts) > attempts)
        await page.tab.evaluate(
            """{
              document.querySelector("#text").value = "<b>hello</b>";
              document.querySelector("form").requestSubmit();
            }"""
        )
        await page.tab.until(f"{shown}.join() === 'from before,<b>hello</b>'")
        await page.tab.until("document.querySelector('#text').value === ''")


async def test_many_tabs_share_one_connection() -> None:
    """Frames of one origin share workers as tabs do."""
    async with scene() as page:
        query = urlencode({"server": page.server, "topic": "a"})
        await page.tab.evaluate(
            f"""for (let count = 0; count < 3; count++) {{
              const frame = document.createElement("iframe");
              frame.src = "/examples/tabs.html?{query}";
              document.body.append(frame);
            }}"""
        )
        frames = "[...document.querySelectorAll('iframe')].map((one) => one.contentDocument)"
        texts = f"{frames}.map((one) => one.querySelector('ol').innerText)"
        await until(lambda: page.worker.hub.subscriptions == 1)
        await page.tab.until(
            f"{frames}.every((one) => one.querySelector('#state').innerText === 'connected')"
        )
        await page.publish(1)
        await page.tab.until(f"{texts}.join() === '1,1,1'")
        assert page.network.open == 1
        await page.tab.evaluate("document.querySelector('iframe').remove()")
        page.network.cut()
        await page.publish(2)
        await page.tab.until(f"{texts}.join('|') === '1\\n2|1\\n2'")
        assert page.network.open == 1
