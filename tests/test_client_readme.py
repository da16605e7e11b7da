"""What the Python client's README and its examples say is true: it runs."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import sqlite3
import sys
import types
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest

import clarion_client
from clarion_client import AsyncPublisher, Client, Lost, Message, Publisher
from clarion_client.errors import ClarionError
from clarion_client.redis_publisher import AsyncRedisPublisher, RedisPublisher
from support.server import configuration, publish, running, serving
from support.slow_reader import LATEST, blocked, heard
from support.waiting import DEADLINE, until

FOLDER = Path(__file__).parent.parent / "clients/python"
README = (FOLDER / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S)
AWAITING = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def block(containing: str) -> str:
    (found,) = [block for block in BLOCKS if containing in block]
    return str(found)


async def run(source: str, names: dict[str, Any]) -> dict[str, Any]:
    """Runs a block of the README as it stands, `await`s and all."""
    outcome = eval(compile(source, "README.md", "exec", AWAITING), names)
    if inspect.isawaitable(outcome):
        async with asyncio.timeout(DEADLINE):
            await outcome
    return names


@pytest.mark.parametrize("source", BLOCKS, ids=lambda source: source[:30])
def test_every_block_is_python(source: str) -> None:
    compile(source, "README.md", "exec", AWAITING)


async def test_the_first_lines_print_what_is_published(capsys: pytest.CaptureFixture[str]) -> None:
    async with running() as worker:
        address = f'"ws://127.0.0.1:{worker.port}"'
        source = block("wss://example.org").replace('"wss://example.org"', address)
        async with asyncio.TaskGroup() as group:
            names: dict[str, Any] = {"Client": Client, "get_token": None}
            reading = group.create_task(run(source, names))
            await until(lambda: "orders:42" in worker.hub.topics)
            await publish(worker, "orders:42", {"state": "paid"})
            printed = ""
            async with asyncio.timeout(DEADLINE):
                while "paid" not in printed:
                    await asyncio.sleep(0.01)
                    printed += capsys.readouterr().out
            reading.cancel()


async def test_a_loss_is_handled_as_the_section_says() -> None:
    handled: list[Lost] = []

    class Orders:
        def update(self, state: str) -> None:
            pass

        def apply(self, data: int) -> None:
            raise StopIteration  # ends the block, once a message has come

    class Backend:
        async def orders(self, topic: str) -> str:
            handled.append(Lost(topic, None, ""))
            return topic

    class Once:
        """A subscription with a loss and a message."""

        def subscribe(self, topic: str, on_lost: Callable[[Lost], Any]) -> AsyncIterator[Message]:
            async def messages() -> AsyncIterator[Message]:
                await on_lost(Lost(topic, None, "gone"))
                yield Message(topic, 1, 0, 1, "e")

            return messages()

    names = {"orders": Orders(), "backend": Backend(), "client": Once()}
    with pytest.raises((StopIteration, RuntimeError)):
        await run(block("backend.orders"), names)
    assert [lost.topic for lost in handled] == ["orders:42"]


async def test_every_event_of_the_block_is_one() -> None:
    names = set(re.findall(r"\b([A-Z]\w+)\(", block("match event")))
    assert names == {"Message", "Lost", "Join", "Leave", "Subscribed", "Ended"}
    assert all(hasattr(clarion_client, name) for name in names)


async def test_the_commands_of_the_section_work() -> None:
    async with running() as worker, Client(f"ws://127.0.0.1:{worker.port}") as client:
        source = re.sub(r".*client.presence.*\n", "", block("client.history"))
        names = await run(source, {"client": client})
        assert names["published"].topic == "chat:1"
        assert names["state"].client


async def test_the_past_is_walked_as_the_section_says(capsys: pytest.CaptureFixture[str]) -> None:
    async with running() as worker, Client(f"ws://127.0.0.1:{worker.port}") as client:
        for number in range(3):
            await client.publish("orders:42", number)
        first = (await client.history("orders:42", limit=1)).messages[0]
        past = block("client.past").partition("async for member")[0]
        await run(past, {"client": client, "position": first.position})
    assert capsys.readouterr().out.split() == ["1", "2"]


async def test_publishing_works_as_the_section_says() -> None:
    async with running() as worker:
        address = f'"http://127.0.0.1:{worker.api_port}"'
        source = block("publisher.broadcast").replace('"http://127.0.0.1:8001"', address)

        def program() -> None:
            names: dict[str, Any] = {"Publisher": Publisher, "API_KEY": None}
            exec(source, names)
            names["publisher"].close()

        await asyncio.to_thread(program)
        assert worker.counters.publications["api"] == 2 + 1 + 2 + 2


# Recipes, with stand-ins for what is not ours


def stand_in(monkeypatch: pytest.MonkeyPatch, **modules: Mapping[str, object]) -> None:
    for name, contents in modules.items():
        module = types.ModuleType(name.replace("__", "."))
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name.replace("__", "."), module)


async def test_the_recipe_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Any]] = []

    class Response:
        def raise_for_status(self) -> None:
            pass

        def json(self) -> dict[str, str]:
            return {"token": "eyJ"}

    class AsyncClient:
        def __init__(self, base_url: str) -> None:
            assert base_url.startswith("https://")

        async def post(self, path: str, headers: dict[str, str]) -> Response:
            asked.append((path, headers))
            return Response()

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

    stand_in(monkeypatch, httpx={"AsyncClient": AsyncClient})
    names = await run(block("def get_token"), {"session": "s"})
    assert await names["get_token"]() == "eyJ"
    assert asked == [("/clarion-token", {"X-Session": "s"})]


async def test_the_recipe_for_fastapi(monkeypatch: pytest.MonkeyPatch) -> None:
    class FastAPI:
        def __init__(self, lifespan: Any) -> None:
            self.lifespan = lifespan
            self.routes: dict[str, Any] = {}

        def post(self, path: str) -> Callable[[Any], Any]:
            return lambda handler: self.routes.setdefault(path, handler)

    stand_in(monkeypatch, fastapi={"FastAPI": FastAPI})
    async with running() as worker:
        address = f'"http://127.0.0.1:{worker.api_port}"'
        source = block("FastAPI(").replace('"http://127.0.0.1:8001"', address)
        names = await run(source, {"API_KEY": None})
        app = names["app"]
        async with app.lifespan(app):
            for _ in range(2):
                assert await app.routes["/orders/{order}/pay"](order=7) == {"ok": True}
        assert worker.counters.publications["api"] == 1


async def test_the_recipe_for_prices() -> None:
    drawn: dict[str, int] = {}

    async def draw(symbol: str, bid: int) -> None:
        assert drawn.get(symbol, 0) < bid
        drawn[symbol] = bid

    async with (
        running(configuration(namespaces={"prices": LATEST})) as worker,
        Client(f"ws://127.0.0.1:{worker.port}") as client,
        AsyncPublisher(f"http://127.0.0.1:{worker.api_port}") as publisher,
        blocked(worker, "prices:all") as reader,
        asyncio.TaskGroup() as group,
    ):
        names = await run(block("def quote"), {"publisher": publisher})
        drawing = group.create_task(run(block("await draw"), {"client": client, "draw": draw}))
        await until(lambda: worker.hub.subscriptions == 3)
        for bid in range(1, 31):
            await names["quote"](f"S{bid % 3}", bid)
        await names["quote"]("END", 99)
        told = [f"message prices:all {{'symbol': 'S{n % 3}', 'bid': {n}}}" for n in (28, 29, 30)]
        assert (await heard(reader, {"symbol": "END", "bid": 99}))[:-1] == told
        await until(lambda: "END" in drawn)
        drawing.cancel()
        assert drawn == {"S1": 28, "S2": 29, "S0": 30, "END": 99}


async def test_the_recipe_for_django(monkeypatch: pytest.MonkeyPatch) -> None:
    committed: list[Callable[[], None]] = []
    async with running() as worker:
        address = f"http://127.0.0.1:{worker.api_port}"
        stand_in(
            monkeypatch,
            django={},
            django__conf={"settings": types.SimpleNamespace(CLARION_URL=address, CLARION_KEY=None)},
            django__db={"transaction": types.SimpleNamespace(on_commit=committed.append)},
        )
        names = await run(block("django.conf"), {})
        names["notify"]("orders:1", {"state": "paid"}, id="one")
        assert worker.counters.publications["api"] == 0
        await asyncio.to_thread(committed[0])
        assert worker.counters.publications["api"] == 1
        names["publisher"].close()


# Tables


def table(text: str) -> dict[str, str]:
    """The first two columns of the rows that begin with code."""
    return dict(re.findall(r"^\| `(\w+)` \| (?:`([^`]+)`)?", text, re.M))


def options(callable: Callable[..., Any]) -> dict[str, str]:
    parameters = inspect.signature(callable).parameters.values()
    return {
        p.name: str(p.default).replace("'", '"')
        if not isinstance(p.default, str)
        else f'"{p.default}"'
        for p in parameters
        if p.kind is p.KEYWORD_ONLY
    }


@pytest.mark.parametrize(
    ("title", "callables"),
    [
        ("Of `Client(url, ...)`", [Client]),
        ("Of `client.subscribe(*topics, ...)`", [Client.subscribe]),
        ("Of `Publisher(url, ...)`", [Publisher, AsyncPublisher]),
        ("Of `RedisPublisher(*urls, ...)`", [RedisPublisher, AsyncRedisPublisher]),
    ],
)
def test_the_tables_of_options_are_those_of_the_code(
    title: str, callables: list[Callable[..., Any]]
) -> None:
    listed = table(section("Options").partition(title)[2].partition("\nOf `")[0])
    for callable in callables:
        assert listed == options(callable)


def test_the_table_of_errors_is_complete() -> None:
    errors = {
        name
        for name, value in vars(clarion_client).items()
        if inspect.isclass(value) and issubclass(value, ClarionError) and value is not ClarionError
    }
    assert set(table(section("Errors"))) == errors


def test_the_list_of_files_names_them_all() -> None:
    named = set(re.findall(r"\b(\w+\.py)\b", section("How it is made")))
    here = {file.name for file in (FOLDER / "clarion_client").glob("*.py")}
    small = {"__init__.py", "version.py", "errors.py", "events.py", "codes.py", "wire.py"}
    small |= {"tasks.py", "tokens.py", "retry_after.py"}
    assert here - small == named


# Examples


@asynccontextmanager
async def example(
    name: str, *arguments: str, port: int
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Callable[[str], Any]]]:
    """A program of the examples, and a way to wait for a text in what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(FOLDER / "examples" / name), *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"CLARION_URL": f"ws://127.0.0.1:{port}"},
    )
    printed = ""

    async def prints(text: str) -> None:
        nonlocal printed
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE):
            while text not in printed:
                more = await process.stdout.read(4096)
                assert more, f"it ended, and printed {printed!r}"
                printed += more.decode()

    try:
        yield process, prints
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_chat_of_the_examples() -> None:
    async with serving() as server, example("chat.py", "lobby", "Ada", port=server.port) as ada:
        process, prints = ada
        assert process.stdin is not None
        await prints("-- connected")
        process.stdin.write("Grüße\n".encode())
        await prints("Ada: Grüße")
        async with example("chat.py", "lobby", "Bob", port=server.port) as (bob, bob_prints):
            await bob_prints("Ada: Grüße")
            assert bob.stdin is not None
            bob.stdin.write(b"hello, Ada\n")
            bob.stdin.close()
            await prints("Bob: hello, Ada")
            async with asyncio.timeout(DEADLINE):
                assert await bob.wait() == 0


async def test_the_keeper_of_the_examples_keeps_each_message_once(tmp_path: Path) -> None:
    file = str(tmp_path / "orders.db")
    async with running() as worker:
        for n in range(3):
            await publish(worker, "orders:1", n)
        for first in (0, 3, 6):
            async with example("keep.py", file, "orders:1", "bare:x", port=worker.port) as keeper:
                process, prints = keeper
                await prints(f"orders:1 {first + 3}")
                process.kill()
                await process.wait()
            for n in range(first + 3, first + 6):
                await publish(worker, "orders:1", n)
    database = sqlite3.connect(file)
    try:
        rows = database.execute("SELECT offset, data FROM messages").fetchall()
        assert rows == [(n + 1, str(n)) for n in range(9)]
        assert database.execute("SELECT * FROM gaps").fetchall() == []
    finally:
        database.close()
