"""The command: what it prints, what it publishes, and how it ends."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from clarion_server import demo
from clarion_server.demo import flights as demo_flights
from clarion_server.demo.publisher import Publisher

BLIZZARD = ["--from", "2013-02-08", "--days", "1"]


class Api:
    """Accepts what is published."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.asked = asyncio.Event()
        self.url = ""
        self.key = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.set()
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            error = {"code": "unauthorized", "message": "an API key is needed"}
            return web.json_response({"error": error}, status=401)
        body = await request.json()
        if request.path == "/v1/publish/batch":
            return self._accept(body["messages"])
        assert request.path == "/v1/broadcast"
        return self._accept([{**body, "topic": topic} for topic in body["topics"]])

    def _accept(self, messages: list[dict[str, Any]]) -> web.Response:
        assert len(messages) <= 4 * demo.BATCH
        self.messages += messages
        return web.json_response({"results": [{"topic": m["topic"]} for m in messages]})


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    api = Api()
    application = web.Application(client_max_size=8 * 2**20)
    application.router.add_post("/v1/{path:.*}", api.handle)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield api
    await runner.cleanup()


async def test_a_day_is_published_whole_and_in_order(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*BLIZZARD, "--speed", "1000000", "--api", api.url]
    assert await asyncio.to_thread(demo.main, options) == 0
    events = demo_flights.events(
        [f for f in demo_flights.load()[1] if f"{f.departs:%Y-%m-%d}" == "2013-02-08"]
    )
    published = [m["data"]["id"] + "/" + m["data"]["event"] for m in api.messages[::4]]
    assert published == [event.id for event in events]
    assert [m["topic"] for m in api.messages[:4]] == list(events[0].topics)
    # One key an event, the same for its four topics; and no terminal, so one line at the end.
    assert len({m["id"] for m in api.messages}) == len(events)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{4 * len(events):,} messages published")


async def test_a_second_replay_is_not_a_repetition_of_the_first(api: Api) -> None:
    options = ["--from", "2013-02-13", "--speed", "1000000", "--api", api.url]
    assert await asyncio.to_thread(demo.main, options) == 0
    assert await asyncio.to_thread(demo.main, options) == 0
    half = len(api.messages) // 2
    first, second = api.messages[:half], api.messages[half:]
    assert [m["data"] for m in first] == [m["data"] for m in second]
    assert {m["id"] for m in first}.isdisjoint(m["id"] for m in second)


async def test_ctrl_c_ends_it_without_a_traceback(api: Api) -> None:
    command = "import sys; from clarion_server.cli import main; sys.exit(main(sys.argv[1:]))"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", command, "demo", "--api", api.url, "--speed", "60", "--loop"),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        await api.asked.wait()
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert process.returncode == 130
    assert re.fullmatch(rb"(\d+ messages published +[\d,]+/s\n)?", errors)


def test_a_dry_run_prints_every_event_and_asks_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([*BLIZZARD, "--dry-run", "--api", "http://127.0.0.1:9"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(event["data"]["event"] == "cancelled" for event in events) == 472
    assert events[0]["topics"][0] == "flights"


def test_no_server_is_two_lines_and_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--api", "http://127.0.0.1:9"]) == 1
    what, advice = capsys.readouterr().err.splitlines()
    assert "http://127.0.0.1:9" in what
    assert "make serve" in advice


async def test_a_refused_key_is_explained_and_never_shown(
    api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    api.key = "another"
    assert await asyncio.to_thread(demo.main, ["--api", api.url], key="hush") == 1
    what, advice = capsys.readouterr().err.splitlines()
    assert "401" in what
    assert "--key" in advice
    assert "hush" not in what + advice


async def test_the_key_of_the_environment_is_the_default(api: Api) -> None:
    api.key = "hush"
    options = ["--from", "2013-02-13", "--speed", "1000000", "--api", f"{api.url}/"]
    assert await asyncio.to_thread(demo.main, options, key="hush") == 0
    assert api.messages


@pytest.mark.parametrize(
    "options",
    [
        ["--speed", "0"],
        ["--speed", "nan"],
        ["--from", "2013-02-06"],
        ["--from", "yesterday"],
        ["--days", "0"],
        ["--api", "127.0.0.1:8001"],
    ],
)
def test_a_wrong_option_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        demo.main(options)
    assert end.value.code == 2
    assert options[0] in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_on_a_terminal_one_line_is_rewritten() -> None:
    out = Terminal()
    async with aiohttp.ClientSession() as session:
        publisher = Publisher(session)
        status = demo.Status(publisher, 600, out)
        clock = demo_flights.load()[1][0].departs
        publisher.published = 1234
        publisher.errors = 2
        publisher.last_error = "bad_topic: no"
        status.show(1e9, clock)
        status.show(1e9 + 0.001, clock)  # too soon for another
        status.close()
    assert out.getvalue().count("\r") == 1
    assert "Thu 07 Feb 2013 05:00  1,234 messages published" in out.getvalue()
    assert "2 errors, the last: bad_topic: no" in out.getvalue()
    assert out.getvalue().endswith("\n")
