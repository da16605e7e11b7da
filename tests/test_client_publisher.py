"""Publishing from a backend: against the private API, and against servers that fail."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import web

from clarion_client import (
    AsyncPublisher,
    Draft,
    NotAllPublished,
    Position,
    Published,
    Publisher,
    PublishError,
    PublishRefused,
)
from clarion_client.http_link import HttpLink, NoAnswer
from clarion_fanout.broker import Want
from clarion_server.app import Worker
from support.bad_network import bad_network
from support.server import configuration, running
from support.slow_reader import LATEST, blocked, heard
from support.waiting import DEADLINE, until

KEY = "0123456789abcdef"


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


async def kept(worker: Worker, topic: str) -> list[bytes]:
    """The data of a topic's history."""
    page = worker.broker.peek(topic, Want(limit=1000))
    assert page is not None
    return [publication.data for publication in page.publications]


@asynccontextmanager
async def served(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[int]:
    """A server whose every answer is `handler`'s; yields its port."""
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_a_message_is_published_with_its_position() -> None:
    async with running() as worker, AsyncPublisher(url(worker.api_port)) as publisher:
        first = await publisher.publish("orders:1", {"n": 1})
        second = await publisher.publish("orders:1", "zwei 👋")
        assert first.position is not None
        assert second.position == Position(first.position.epoch, 2)
        assert (await publisher.publish("bare:1", None)).position is None
        assert await kept(worker, "orders:1") == [b'{"n":1}', '"zwei 👋"'.encode()]


async def test_a_key_of_the_program_makes_repeats_harmless() -> None:
    async with running() as worker, AsyncPublisher(url(worker.api_port)) as publisher:
        first = await publisher.publish("orders:1", 1, id="order-1")
        again = await publisher.publish("orders:1", 1, id="order-1")
        assert not first.duplicate
        assert again.duplicate
        assert again.position == first.position


async def test_who_is_behind_gets_the_newest_of_each_conflation_key() -> None:
    config = configuration(namespaces={"prices": LATEST})
    async with (
        running(config) as worker,
        blocked(worker, "prices:a", "prices:b") as reader,
        AsyncPublisher(url(worker.api_port)) as publisher,
    ):
        for n in (1, 2):
            await publisher.publish("prices:a", n, key="one")
        await publisher.publish_many(Draft("prices:a", n, key=f"k{n % 2}") for n in range(10, 20))
        for n in (21, 22):
            await publisher.broadcast(["prices:a", "prices:b"], n, key="many")
        with Publisher(url(worker.api_port)) as plain:
            for n in (31, 32):
                await asyncio.to_thread(plain.publish, "prices:a", n, key="plain")
            await asyncio.to_thread(plain.publish, "prices:a", "end")
        assert await heard(reader, "end") == [
            "message prices:a 2",
            "message prices:a 18",
            "message prices:a 19",
            "message prices:a 22",
            "message prices:b 22",
            "message prices:a 32",
            "message prices:a end",
        ]


async def test_many_messages_go_in_few_requests_and_in_order() -> None:
    async with running() as worker, AsyncPublisher(url(worker.api_port)) as publisher:
        results = await publisher.publish_many(("orders:1", n) for n in range(2500))
        assert [r.position.offset for r in results if r.position] == list(range(1, 2501))


class EchoApi:
    """A private API that accepts everything, once the gate is open, and keeps what it got."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.requests: list[list[Any]] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        messages = body.get("messages", [body])
        self.requests.append([message["data"] for message in messages])
        await self.gate.wait()
        results = [{"topic": message["topic"]} for message in messages]
        return web.json_response({"results": results} if "messages" in body else results[0])


async def test_what_many_tasks_publish_meanwhile_goes_out_together() -> None:
    api = EchoApi()
    async with (
        served(api.handle) as port,
        AsyncPublisher(url(port)) as publisher,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(publisher.publish("a", 0))
        await until(lambda: api.requests)
        for n in range(1, 100):
            group.create_task(publisher.publish("a", n))
        await asyncio.sleep(0)
        api.gate.set()
    assert api.requests == [[0], list(range(1, 100))]


async def test_a_broadcast_reaches_every_topic() -> None:
    async with running() as worker, AsyncPublisher(url(worker.api_port)) as publisher:
        results = await publisher.broadcast(["orders:1", "orders:2"], "all", id="once")
        assert [result.topic for result in results] == ["orders:1", "orders:2"]
        again = await publisher.broadcast(["orders:1", "orders:2"], "all", id="once")
        assert all(result.duplicate for result in again)


async def test_what_the_server_refuses_is_said_message_by_message() -> None:
    async with running() as worker, AsyncPublisher(url(worker.api_port)) as publisher:
        too_large = Draft("orders:1", "x" * 70_000)
        with pytest.raises(NotAllPublished) as failed:
            await publisher.publish_many([("orders:1", 1), too_large, ("orders:1", 2)])
        refused = failed.value.results[1]
        assert isinstance(refused, PublishRefused)
        assert refused.code == "too_large"
        kinds = [type(result) for result in failed.value.results]
        assert kinds == [Published, PublishRefused, Published]
        assert await kept(worker, "orders:1") == [b"1", b"2"]
        with pytest.raises(PublishRefused):
            await publisher.publish(*too_large[:2])


async def test_a_key_of_the_api_is_sent_and_a_wrong_one_refused() -> None:
    config = configuration(api_keys=(KEY,))
    async with running(config) as worker:
        async with AsyncPublisher(url(worker.api_port), key=KEY) as publisher:
            await publisher.publish("orders:1", 1)
        async with AsyncPublisher(url(worker.api_port), key="f" * 16) as publisher:
            with pytest.raises(PublishRefused) as refused:
                await publisher.publish("orders:1", 2)
        assert refused.value.status == 401
        assert "f" * 16 not in str(refused.value)


# Failing networks and servers


async def test_through_a_bad_network_every_message_is_published_once() -> None:
    """Answers are cut off as often as requests; only keys can tell a repeat from a new message."""
    async with running() as worker, bad_network(worker.api_port) as network:
        for bytes in (0, 1, 50, 100, 10_000, 0, 150, 10_000, 80):
            network.cut_after(bytes)
        network.refuse(times=2)
        async with AsyncPublisher(url(network.port)) as publisher:
            for n in range(60):
                await publisher.publish("orders:1", n)
                if n % 20 == 0:
                    network.cut()
        assert await kept(worker, "orders:1") == [str(n).encode() for n in range(60)]
        assert len(network.attempts) > 8


async def test_a_server_that_never_answers_is_given_up() -> None:
    async with running() as worker, bad_network(worker.api_port) as network:
        network.swallow(times=9)
        async with AsyncPublisher(url(network.port), timeout_s=0.05, give_up_s=0.3) as publisher:
            with pytest.raises(
                PublishError, match=r"not published in time: no answer within 0\.05"
            ):
                await publisher.publish("orders:1", 1)
        assert 1 < len(network.attempts) < 9


async def test_a_server_that_is_not_there_is_waited_for() -> None:
    async with running() as worker, bad_network(worker.api_port) as network:
        network.down()
        async with AsyncPublisher(url(network.port)) as publisher, asyncio.TaskGroup() as group:
            publishing = group.create_task(publisher.publish("orders:1", 1))
            await until(lambda: len(network.attempts) > 1)
            assert not publishing.done()
            network.up()
        assert await kept(worker, "orders:1") == [b"1"]


async def test_retry_after_is_obeyed() -> None:
    async with running() as worker, bad_network(worker.api_port) as network:
        network.answer(503, retry_after="1")
        async with AsyncPublisher(url(network.port)) as publisher:
            await publisher.publish("orders:1", 1)
        first, second = network.attempts
        assert second - first >= 0.99


async def test_a_connection_that_was_idle_for_long_is_no_reason_to_wait() -> None:
    async with running() as worker, bad_network(worker.api_port) as network:
        link = HttpLink(url(network.port), None, 5, None)
        body = b'{"topic":"orders:1","data":1}'
        assert (await asyncio.to_thread(link.post, "/v1/publish", body)).status == 200
        assert (await asyncio.to_thread(link.post, "/v1/publish", body)).status == 200
        assert len(network.attempts) == 1
        network.cut()
        await until(lambda: not network.open)
        assert (await asyncio.to_thread(link.post, "/v1/publish", body)).status == 200
        assert len(network.attempts) == 2
        link.close()


async def test_an_answer_in_drops_has_a_deadline_too() -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b" ")
            await asyncio.sleep(0.01)
        return response

    async with served(drip) as port:
        link = HttpLink(url(port), None, 0.2, None)
        with pytest.raises(NoAnswer, match="no answer within"):
            await asyncio.to_thread(link.post, "/v1/publish", b"{}")


def test_a_deadline_is_more_than_nothing() -> None:
    with pytest.raises(ValueError, match="more than 0 seconds"):
        Publisher(timeout_s=0)


@pytest.mark.parametrize("line", [b"X-Drop: 1\r\n", b"\r\nHTTP/1.1 100 Continue\r\n"])
async def test_so_has_a_head_without_an_end(line: bytes) -> None:
    gone = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 100 Continue\r\n")
        with suppress(ConnectionError):
            for _ in range(90):
                writer.write(line)
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        gone.set()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        link = HttpLink(url(server.sockets[0].getsockname()[1]), None, 0.2, None)
        with pytest.raises(NoAnswer, match="no answer within"):
            await asyncio.to_thread(link.post, "/v1/publish", b"{}")
        await asyncio.wait_for(gone.wait(), DEADLINE)


# Many at once, and ends


async def test_cancelling_takes_a_message_back_that_was_not_sent_yet() -> None:
    async with running() as worker, bad_network(worker.api_port) as network:
        network.delay(0.2)
        async with AsyncPublisher(url(network.port)) as publisher:
            loop = asyncio.get_running_loop()
            first = loop.create_task(publisher.publish("orders:1", "first"))
            await until(lambda: network.attempts)
            second = loop.create_task(publisher.publish("orders:1", "second"))
            third = loop.create_task(publisher.publish("orders:1", "third"))
            await asyncio.sleep(0)
            second.cancel()
            await asyncio.wait([first, second, third])
            assert second.cancelled()
        assert await kept(worker, "orders:1") == [b'"first"', b'"third"']


async def test_closing_waits_for_what_is_on_its_way() -> None:
    async with running() as worker, bad_network(worker.api_port) as network:
        network.delay(0.1)
        publisher = AsyncPublisher(url(network.port))
        publishing = asyncio.get_running_loop().create_task(publisher.publish("orders:1", 1))
        await until(lambda: network.attempts)
        await publisher.close()
        assert (await publishing).position is not None
        assert not [task for task in asyncio.all_tasks() if "clarion-client" in task.get_name()]
        with pytest.raises(RuntimeError, match="closed"):
            await publisher.publish("orders:1", 2)


async def test_more_than_may_wait_is_published_all_the_same() -> None:
    api = EchoApi()
    api.gate.set()
    async with served(api.handle) as port, AsyncPublisher(url(port)) as publisher:
        await publisher.publish_many(("bare:1", n) for n in range(12_000))
    assert [data for request in api.requests for data in request] == list(range(12_000))
    assert max(map(len, api.requests)) == 1000


# Without an event loop


def in_threads(work: Callable[[int], None], count: int) -> None:
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert not failures, failures


async def test_threads_share_a_publisher_and_each_keeps_its_order() -> None:
    async with running() as worker:
        with Publisher(url(worker.api_port)) as publisher:

            def publish(number: int) -> None:
                for n in range(10):
                    published = publisher.publish(f"orders:{number}", n)
                    assert published.position is not None
                    assert published.position.offset == n + 1

            await asyncio.to_thread(in_threads, publish, 8)


async def test_what_threads_publish_meanwhile_goes_out_together() -> None:
    api = EchoApi()
    async with served(api.handle) as port, asyncio.TaskGroup() as group:
        with Publisher(url(port)) as publisher:

            def publish(number: int) -> None:
                publisher.publish("a", number)

            threads = group.create_task(asyncio.to_thread(in_threads, publish, 20))
            await until(lambda: api.requests and publisher.waiting == 19)
            api.gate.set()
            await threads
    assert sorted(map(len, api.requests)) == [1, 19]


FORKS = """
import os, sys
from clarion_client import Publisher

publisher = Publisher(sys.argv[1])
publisher.publish("orders:0", "before")
child = os.fork()
topic = "orders:1" if child else "orders:2"
for n in range(50):
    assert publisher.publish(topic, n).topic == topic
    assert publisher.publish(topic, n).position.offset == 2 * n + 2
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


async def test_a_process_that_forks_has_a_connection_of_its_own() -> None:
    """As servers do that load the program once and fork their workers from it."""
    async with running() as worker:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", FORKS, url(worker.api_port)), stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(DEADLINE):
            _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")
        assert worker.counters.publications["api"] == 201


async def test_a_plain_publisher_tries_again_and_gives_up() -> None:
    async with running() as worker, bad_network(worker.api_port) as network:
        network.refuse(times=2)
        with Publisher(url(network.port)) as publisher:
            await asyncio.to_thread(publisher.publish, "orders:1", 1)
        assert len(network.attempts) == 3
        network.down()
        with (
            Publisher(url(network.port), give_up_s=0.2) as publisher,
            pytest.raises(PublishError, match="not published in time"),
        ):
            await asyncio.to_thread(publisher.publish, "orders:1", 2)
        assert await kept(worker, "orders:1") == [b"1"]


@pytest.mark.parametrize("address", ["", "127.0.0.1:8001", "redis://x", "http://", "http://x/?a=1"])
def test_what_is_no_address_is_said_at_once(address: str) -> None:
    with pytest.raises(ValueError, match="no address of a private API"):
        Publisher(address)


@pytest.mark.parametrize("key", ["", "a b", "schlüssel", "a\r\nX: y"])
def test_a_key_that_fits_no_header_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the text is what is tested
        Publisher(key=key)
    assert not key or key not in str(refused.value)
