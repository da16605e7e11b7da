"""The page is one file that loads the client alone, and its policy lets nothing else run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web

from clarion_fanout.topics import is_topic
from clarion_server import codes
from clarion_server.http_api import page
from support import browser
from support.node import CLIENT

TEXT = page.SOURCE.read_text(encoding="utf-8")


class Elements(HTMLParser):
    """Every element's name and attributes, and the text of scripts and style sheets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, str] = {}
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style"):
            self.inline[self._inside] = self.inline.get(self._inside, "") + data


ELEMENTS = Elements(TEXT)
SCRIPT = ELEMENTS.inline["script"]
IDS = {attributes["id"] for _, attributes in ELEMENTS.found if "id" in attributes}


def policy(built: page.Page) -> dict[str, str]:
    directives = built.headers["Content-Security-Policy"].split("; ")
    return {name: value for name, _, value in (one.partition(" ") for one in directives)}


def test_nothing_is_loaded_from_elsewhere() -> None:
    addresses = set(re.findall(r"https?://[^\s'\"`<>)]*", TEXT))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not an address
    for tag, attributes in ELEMENTS.found:
        assert "src" not in attributes, tag
        assert (attributes.get("href") or "data:").startswith("data:"), tag
    assert re.findall(r'^import .* from "(.*)";$', SCRIPT, re.MULTILINE) == [f"/{page.CLIENT.name}"]
    assert not re.search(r"\bimport\(", SCRIPT)
    assert "@import" not in ELEMENTS.inline["style"]
    assert "url(" not in ELEMENTS.inline["style"]


def test_no_text_becomes_markup_or_code() -> None:
    sinks = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextual|srcdoc"
    )
    assert not re.search(sinks, SCRIPT)
    assert not re.search(r"\beval\(|new Function|javascript:", SCRIPT)


def test_no_attribute_needs_an_exception_in_the_policy() -> None:
    for tag, attributes in ELEMENTS.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag


@pytest.mark.parametrize("element", ["script", "style"])
def test_the_policy_names_exactly_the_inline_elements(element: str) -> None:
    built = page.build(port=9000)
    content = Elements(built.body.decode()).inline[element]
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    others = " 'self'" if element == "script" else ""
    assert policy(built)[f"{element}-src"] == f"'sha256-{digest}'{others}"


def test_the_client_is_served_as_it_is_in_its_own_folder() -> None:
    for path, script in page.scripts().items():
        assert script.body == (CLIENT / path[1:]).read_bytes()
        assert script.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert script.headers["X-Content-Type-Options"] == "nosniff"


def test_a_wheel_has_the_client_in_it(tmp_path: Path) -> None:
    """As files of its own: in the sources they are links."""
    root = CLIENT.parents[1]
    build = (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    subprocess.run(build, cwd=root, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as contents:
        for file in (page.CLIENT, page.STREAM):
            packed = contents.read(f"clarion_server/http_api/{file.name}")
            assert packed == (CLIENT / file.name).read_bytes()


def test_the_policy_denies_what_it_does_not_name() -> None:
    rules = policy(page.build(port=9000))
    assert rules["default-src"] == "'none'"
    assert rules["frame-ancestors"] == "'none'"
    assert rules["base-uri"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in str(rules)


def test_the_page_learns_where_the_websocket_is() -> None:
    def address(built: page.Page) -> str | None:
        (content,) = (
            attributes["content"]
            for _, attributes in Elements(built.body.decode()).found
            if attributes.get("name") == "clarion-websocket"
        )
        return content

    assert address(page.build(port=9000)) == ":9000/ws"
    odd = 'wss://push.example.com/ws?a="><script>'
    assert address(page.build(port=9000, url=odd)) == odd


def test_the_script_finds_every_element_it_asks_for() -> None:
    asked = set(re.findall(r'\$\("([^"]+)"\)', SCRIPT))
    assert len(asked) > 40
    assert asked <= IDS


def test_every_field_has_a_label() -> None:
    labelled = {attributes.get("for") for tag, attributes in ELEMENTS.found if tag == "label"}
    fields = {
        attributes.get("id")
        for tag, attributes in ELEMENTS.found
        if tag in ("input", "textarea", "select")
    }
    assert fields
    assert fields == labelled


def test_every_close_code_is_explained_with_the_catalogues_reason() -> None:
    table = re.search(r"const CLOSES = \{(.*?)\n\};", SCRIPT, re.DOTALL)
    assert table
    explained = json.loads("{" + table[1].rstrip().rstrip(",") + "}")
    for close in vars(codes).values():
        if isinstance(close, codes.Close):
            reason, explanation = explained[str(close.code)]
            assert reason == close.reason
            assert explanation


def test_the_page_has_the_grammar_of_topics() -> None:
    grammar = re.search(r"const TOPIC = /(.*)/;", SCRIPT)
    assert grammar
    pattern = re.compile(grammar[1])
    for text in [chr(number) for number in range(32, 256)] + ["", "a" * 255, "a" * 256]:
        assert bool(pattern.search(text)) == bool(is_topic(text)), text


# In a browser


@asynccontextmanager
async def little_server() -> AsyncIterator[str]:
    """Serves the page and answers it as a server would, with one topic's worth of memory."""
    streams: list[web.WebSocketResponse] = []

    async def websocket(request: web.Request) -> web.WebSocketResponse:
        stream = web.WebSocketResponse(protocols=["clarion.v1"])
        await stream.prepare(request)
        streams.append(stream)
        await stream.send_json({"op": "welcome", "client": "c-1", "ping_ms": 25000})
        async for frame in stream:
            assert frame.type is WSMsgType.TEXT
            command = json.loads(frame.data)
            assert command["op"] == "subscribe"
            [wish] = command["topics"]
            answer = {"op": "subscribed", "id": command["id"], "epoch": "e", "offset": 0}
            if "since" in wish:
                assert wish["since"] == {"epoch": "f", "offset": 2000}
                answer |= {"epoch": "g", "recovered": False}
            await stream.send_json({**answer, "topic": wish["topic"]})
        return stream

    async def publish(request: web.Request) -> web.Response:
        message = await request.json()
        for number in range(1, 2001):
            for stream in streams:
                if not stream.closed:
                    ts = 1_790_000_000_000 + number
                    message |= {"op": "message", "offset": number, "ts": ts}
                    await stream.send_json(message)
        turn = {"op": "subscribed", "epoch": "f", "offset": 2000, "recovered": True}
        for stream in streams:
            await stream.send_json({**turn, "topic": message["topic"]})
        return web.json_response({"topic": message["topic"], "epoch": "e", "offset": 2000})

    async def drain(_: web.Request) -> web.Response:
        for stream in streams:
            goodbye = {"op": "goodbye", "code": 4000, "reason": "draining", "retry_ms": 300}
            await stream.send_json(goodbye)
            await stream.close(code=4000)
        return web.Response()

    async def home(_: web.Request) -> web.Response:
        return web.Response(body=built.body, headers=built.headers)

    application = web.Application()
    application.router.add_get("/", home)
    for path, script in page.scripts().items():
        application.router.add_get(path, page.handler(script))
    application.router.add_get("/ws", websocket)
    application.router.add_post("/v1/publish", publish)
    application.router.add_post("/drain", drain)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        built = page.build(port=port)
        yield f"http://127.0.0.1:{port}/"
    finally:
        await runner.cleanup()


@pytest.mark.skipif(browser.PROGRAM is None, reason="chromium is not installed")
async def test_in_a_browser_the_page_subscribes_publishes_and_survives_a_drain() -> None:
    async with little_server() as url, browser.tab(url) as tab:
        await tab.until("document.querySelector('#state')?.textContent === 'Connected'")
        await tab.evaluate(
            """{
              const set = (id, value) => { document.getElementById(id).value = value; };
              set("topic-names", "news");
              document.getElementById("subscribe-form").requestSubmit();
              set("publish-topic", "news");
              set("publish-data", JSON.stringify("<img src=x onerror=alert(1)>"));
            }"""
        )
        await tab.until("document.querySelector('.chip')?.dataset.state === 'live'")
        await tab.evaluate("document.getElementById('publish-form').requestSubmit()")
        await tab.until("document.querySelector('.chip .count').textContent === '2,000'")
        await tab.until("document.querySelector('#published').textContent.includes('offset 2,000')")
        # Two thousand messages are a screenful of elements, and their markup is text.
        assert await tab.evaluate("document.querySelectorAll('.line').length") < 100
        row = "[...document.querySelectorAll('.line')].find(row => !row.hidden).innerText"
        await tab.until(f"{row}.includes('<img src=x onerror=alert(1)>')")
        assert await tab.evaluate("document.querySelectorAll('#list img').length") == 0

        await tab.evaluate("fetch('/drain', {method: 'POST'}).then(() => 0)")
        await tab.until("document.querySelector('#why').textContent.includes('4000 (draining)')")
        await tab.until("document.querySelector('#state').textContent === 'Connected'")
        await tab.until("document.querySelector('.chip .lost').textContent.includes('once')")
