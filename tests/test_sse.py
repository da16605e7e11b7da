"""Event streams against a running worker: events, ids, resuming, refusals, goodbyes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from clarion_fanout.publication import Arrival, Loss, Position, Turn
from clarion_server import codes
from clarion_server.app import Worker
from clarion_server.options import AuthOptions, Keepalive, Limits, Namespace, WindowOptions
from support.server import BARE, SECRET, clients, configuration, publish, running, token
from support.waiting import until
from support.wire import Wire, get, streaming, wire


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with running() as worker:
        yield worker


async def subscribed(client: Wire) -> str:
    """Reads the event that says so; returns its id."""
    event = await client.event()
    assert event["event"] == "subscribed"
    return event.get("id", "")


async def refused(worker: Worker, path: str, *headers: str, method: str = "GET") -> tuple[int, str]:
    """The status and error code that a request is answered with."""
    async with wire(worker.port) as client:
        await client.send(get(path, *headers, method=method))
        answer = await client.answer()
        return answer.status, json.loads(answer.body)["error"]["code"]


# Events


async def test_a_stream_says_what_it_is_subscribed_to_and_then_what_is_published(
    worker: Worker,
) -> None:
    async with wire(worker.port) as client:
        await client.send(get("/sse?topic=news"))
        head = await client.head()
        assert head.status == 200
        assert head.headers["content-type"] == "text/event-stream"
        assert head.headers["cache-control"] == "no-store"
        assert "content-length" not in head.headers
        name, _, retry = (await client.line(b"\n\n")).partition(b": ")
        assert name == b"retry"
        assert 1000 <= int(retry) <= 9000
        event = await client.event()
        data = json.loads(event["data"])
        epoch = data["epoch"]
        assert data == {"op": "subscribed", "topic": "news", "epoch": epoch, "offset": 0}
        assert (event["event"], event["id"]) == ("subscribed", f"news|{epoch}|0")
        await publish(worker, "news", {"text": "a\nb ☀"})
        event = await client.event()
        message = json.loads(event.pop("data"))
        assert event == {"id": f"news|{epoch}|1"}  # no name: what a page's `onmessage` gets
        message.pop("ts")
        assert message == {
            "op": "message",
            "topic": "news",
            "offset": 1,
            "data": {"text": "a\nb ☀"},
        }


async def test_a_topic_without_history_has_no_ids(worker: Worker) -> None:
    async with streaming(worker.port, ["bare:x"]) as client:
        assert set(await client.event()) == {"event", "data"}
        await publish(worker, "bare:x", 1)
        assert set(await client.event()) == {"data"}


async def test_streams_begin_with_the_newest_publications_if_asked(worker: Worker) -> None:
    for number in range(5):
        await publish(worker, "a", number)
    async with streaming(worker.port, ["a"], query="last=2") as client:
        await subscribed(client)
        assert [json.loads((await client.event())["data"])["data"] for _ in range(2)] == [3, 4]


@pytest.mark.parametrize("topics", [["a"], ["a", "b"]], ids=["one topic", "two topics"])
async def test_a_stream_is_told_in_its_place_what_is_no_message(
    worker: Worker, topics: list[str]
) -> None:
    async with streaming(worker.port, topics) as client:
        for _ in topics:
            start = await subscribed(client)
        await until(lambda: worker.hub.subscriptions == len(topics))
        rest = start.partition(";")[1:]
        worker.hub.dispatch(Turn("a", Position("new", 0), "old"))
        worker.hub.dispatch(Loss("a", Position("new", 7), "gone"))
        worker.hub.dispatch(Arrival("a", b'{"client":"c-1"}', 0))
        turn, loss, arrival = [await client.event() for _ in range(3)]
    data = {"op": "subscribed", "topic": "a", "epoch": "new", "offset": 0, "recovered": True}
    assert (turn["event"], turn["id"]) == ("subscribed", "".join(("a|new|0", *rest)))
    assert json.loads(turn["data"]) == data
    data = {"op": "lost", "topic": "a", "epoch": "new", "offset": 7, "reason": "gone"}
    assert (loss["event"], loss["id"]) == ("lost", "".join(("a|new|7", *rest)))
    assert json.loads(loss["data"]) == data
    data = {"op": "join", "topic": "a", "member": {"client": "c-1"}}
    assert arrival == {"event": "join", "data": arrival["data"]}
    assert json.loads(arrival["data"]) == data


async def test_a_silent_stream_has_a_heartbeat() -> None:
    config = configuration(keepalive=Keepalive(ping_s=0.2))
    async with running(config) as worker, streaming(worker.port, ["a"]) as client:
        await subscribed(client)
        start = time.monotonic()
        for _ in range(3):
            assert await client.line(b"\n\n") == b":"
        assert 0.4 <= time.monotonic() - start <= 1


async def test_what_a_client_sends_after_its_request_is_not_read_for_its_meaning(
    worker: Worker,
) -> None:
    async with streaming(worker.port, ["a"]) as client:
        await subscribed(client)
        await client.send(get("/sse?topic=b") + b"x" * 100_000)
        await publish(worker, "a", 1)
        assert json.loads((await client.event())["data"])["data"] == 1
        assert set(worker.hub.topics) == {"a"}


async def test_a_client_that_leaves_is_forgotten(worker: Worker) -> None:
    async with streaming(worker.port, ["a", "b"]) as client:
        await subscribed(client)
        client.end()
        await until(lambda: not clients(worker))
    async with streaming(worker.port, ["a"]) as client:
        await subscribed(client)
        client.reset()
        await until(lambda: not clients(worker))
    assert not worker.hub.topics


# Resuming


async def test_a_stream_of_one_topic_resumes_behind_its_last_event(worker: Worker) -> None:
    async with streaming(worker.port, ["a"]) as client:
        await subscribed(client)
        for number in range(5):
            await publish(worker, "a", number)
        for _ in range(2):
            last = (await client.event())["id"]
    async with streaming(worker.port, ["a"], f"Last-Event-ID: {last}") as client:
        event = await client.event()
        data = json.loads(event["data"])
        assert (data["recovered"], data["offset"]) == (True, 5)
        assert event["id"] == last  # what is missing still has to come
        assert [json.loads((await client.event())["data"])["data"] for _ in range(3)] == [2, 3, 4]


async def test_a_position_that_is_not_known_any_more_is_said_to_be_lost(worker: Worker) -> None:
    await publish(worker, "a", 1)
    async with streaming(worker.port, ["a"], "Last-Event-ID: a|gone|7") as client:
        event = await client.event()
        data = json.loads(event["data"])
        assert (data["recovered"], data["offset"]) == (False, 1)
        assert event["id"] == f"a|{data['epoch']}|1"


@pytest.mark.parametrize(
    "sent", ["7", "|||", "a|x", "a|x|-1", "a|x|1e3", "a|x|" + "9" * 16, ";;;", "b|x|1", "\xff", ""]
)
async def test_an_id_that_is_not_ours_is_no_position(worker: Worker, sent: str) -> None:
    async with streaming(worker.port, ["a"], f"Last-Event-ID: {sent}") as client:
        data = json.loads((await client.event())["data"])
        assert "recovered" not in data


@pytest.mark.parametrize("taken", range(13))
async def test_a_stream_of_several_topics_resumes_each_wherever_it_was_cut(
    worker: Worker, taken: int
) -> None:
    """The stream is cut three times, each time after `taken` events, also within the replay."""
    topics = ["a", "b", "bare:c", "d"]
    async with streaming(worker.port, topics) as client:
        for _ in topics:
            last = await subscribed(client)
    for number in range(5):
        for topic in ("a", "b", "d"):
            await publish(worker, topic, number)
    seen: dict[str, list[int]] = {"a": [], "b": [], "d": []}
    for round_ in range(4):
        async with streaming(worker.port, topics, f"Last-Event-ID: {last}") as client:
            left = len(topics) + 15 - sum(map(len, seen.values()))
            for _ in range(min(taken, left) if round_ < 3 else left):
                event = await client.event()
                last = event.get("id", last)
                data = json.loads(event["data"])
                if data["op"] == "message":
                    seen[data["topic"]].append(data["data"])
                else:
                    assert data.get("recovered", data["topic"] == "bare:c")
    assert seen == {"a": [0, 1, 2, 3, 4], "b": [0, 1, 2, 3, 4], "d": [0, 1, 2, 3, 4]}


async def test_the_longest_id_that_a_stream_can_have_is_one_that_it_can_resume_with(
    worker: Worker,
) -> None:
    topics = [f"{number:02}:" + "x" * 80 for number in range(64)]
    for topic in topics:
        await publish(worker, topic, "before")
    async with streaming(worker.port, topics) as client:
        for _ in topics:
            last = await subscribed(client)
    await publish(worker, topics[-1], "missed")
    async with streaming(worker.port, topics, f"Last-Event-ID: {last}") as client:
        for _ in topics:
            assert json.loads((await client.event())["data"])["recovered"] is True
        assert json.loads((await client.event())["data"])["data"] == "missed"


# Who may


async def test_a_page_may_read_a_stream_from_an_allowed_origin_only() -> None:
    async with running(configuration(origins=("https://app.example.com",))) as worker:
        for origin in ("https://app.example.com", "HTTPS://App.Example.com"):
            async with wire(worker.port) as client:
                await client.send(get("/sse?topic=a", f"Origin: {origin}"))
                head = await client.head()
                assert head.headers["access-control-allow-origin"] == origin
                assert head.headers["vary"] == "Origin"
        for origin in ("https://evil-app.example.com", "https://app.example.com.evil", "null"):
            assert await refused(worker, "/sse?topic=a", f"Origin: {origin}") == (403, "forbidden")
        async with wire(worker.port) as client:
            await client.send(get("/sse?topic=a"))
            assert "access-control-allow-origin" not in (await client.head()).headers


async def test_a_preflight_is_answered() -> None:
    config = configuration(origins=("https://a.example",))
    async with running(config) as worker, wire(worker.port) as client:
        asked = ("Origin: https://a.example", "Access-Control-Request-Method: GET")
        await client.send(get("/sse?topic=a", *asked, method="OPTIONS"))
        answer = await client.answer()
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        assert answer.headers["access-control-allow-methods"] == "GET"
        assert "Authorization" in answer.headers["access-control-allow-headers"]


async def test_a_refusal_can_be_read_by_an_allowed_page() -> None:
    async with running(configuration(origins=("*",))) as worker, wire(worker.port) as client:
        await client.send(get("/sse", "Origin: https://any.example"))
        answer = await client.answer()
        assert answer.status == 400
        assert answer.headers["access-control-allow-origin"] == "https://any.example"
        assert answer.headers["access-control-expose-headers"] == "Retry-After"


async def test_a_token_is_needed_and_has_to_be_good() -> None:
    granted = Namespace(subscribe="granted")
    config = configuration(auth=AuthOptions(secret=SECRET), namespaces={"default": granted})
    async with running(config) as worker:
        assert await refused(worker, "/sse?topic=a") == (401, "unauthorized")
        assert await refused(worker, "/sse?topic=a&token=x") == (401, "unauthorized")
        expired = token("ada", ttl=-60, subscribe=["a"])
        assert await refused(worker, f"/sse?topic=a&token={expired}") == (401, "unauthorized")
        good = token("ada", subscribe=["a"])
        assert await refused(worker, f"/sse?topic=b&token={good}") == (403, "forbidden")
        async with wire(worker.port) as client:
            await client.send(get(f"/sse?topic=a&topic=b&token={good}"))
            answer = await client.answer()
            assert answer.status == 403
            assert json.loads(answer.body)["error"]["topic"] == "b"
        assert not worker.hub.topics
        async with streaming(worker.port, ["a"], f"Authorization: Bearer {good}") as client:
            await subscribed(client)
        async with streaming(worker.port, ["a"], query=f"token={good}") as client:
            await subscribed(client)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "bad_request"),
        ("?topics=a", "bad_request"),
        ("?topic=", "bad_topic"),
        ("?topic=a%20b", "bad_topic"),
        ("?topic=a%0Aid:%20x", "bad_topic"),
        ("?topic=%C3%A9", "bad_topic"),
        ("?topic=" + "a" * 256, "bad_topic"),
        ("?topic=a&last=-1", "bad_request"),
        ("?topic=a&last=ten", "bad_request"),
        ("?topic=a&last=%D9%A1", "bad_request"),  # a digit, but not one of ours
        ("?" + "&".join(f"topic={number}" for number in range(65)), "too_many"),
        ("?" + "&".join("x=1" for _ in range(1000)), "bad_request"),
        ("?" + "&".join(f"topic={number:0200}" for number in range(38)), "too_many"),
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(
    worker: Worker, query: str, code: str
) -> None:
    assert await refused(worker, "/sse" + query) == (400, code)


async def test_only_a_get_makes_a_stream(worker: Worker) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        status, code = await refused(worker, "/sse?topic=a", method=method)
        assert (status, code) == (405, "method_not_allowed")
    async with wire(worker.port) as client:
        await client.send(get("/sse?topic=a", method="HEAD"))
        head = await client.head()
        assert (head.status, head.headers["allow"]) == (405, "GET, OPTIONS")
        assert await client.rest() == b""


# Endings


async def test_a_goodbye_tells_the_browser_when_to_come_back(worker: Worker) -> None:
    async with wire(worker.port) as client:
        await client.send(get("/sse?topic=a"))
        await client.head()
        await client.line(b"\n\n")
        await subscribed(client)
        (peer,) = worker.directory.peers()
        peer.finish(codes.DRAINING)
        fields = dict(
            line.split(": ", 1) for line in (await client.line(b"\n\n")).decode().split("\n")
        )
        goodbye = json.loads(fields["data"])
        assert fields["event"] == "goodbye"
        assert goodbye["code"] == 4000
        assert int(fields["retry"]) == goodbye["retry_ms"] >= 500
        assert await client.rest() == b""  # and the stream ends, in order
    await until(lambda: not clients(worker))
    assert worker.counters.closes == {4000: 1}


async def test_a_goodbye_for_good_has_no_retry(worker: Worker) -> None:
    async with streaming(worker.port, ["a"]) as client:
        await subscribed(client)
        (peer,) = worker.directory.peers()
        peer.finish(codes.DISCONNECTED)
        event = await client.event()
        assert "retry" not in event
        assert json.loads(event["data"])["code"] == 4502


@pytest.mark.parametrize("topics", [["a"], ["a", "b"]], ids=["one topic", "two topics"])
async def test_a_stream_that_is_not_read_says_goodbye_and_is_gone(topics: list[str]) -> None:
    config = configuration(
        window=WindowOptions(bytes=256 * 1024, seconds=0.3), keepalive=Keepalive(close_s=0.3)
    )
    async with running(config) as worker:
        async with (
            streaming(worker.port, topics, receive_buffer=4096) as lazy,
            streaming(worker.port, topics) as other,
        ):
            for _ in topics:
                await subscribed(other)
            await until(lambda: worker.hub.subscriptions == 2 * len(topics))
            count = 0
            while worker.hub.subscriptions > len(topics):
                await publish(worker, "a", "x" * 20_000)
                assert len(json.loads((await other.event())["data"])["data"]) == 20_000
                count += 1
                assert count < 2000
            await until(lambda: clients(worker) == 1, 2)
            assert not await lazy.ended()
        assert worker.counters.closes[4001] == 1


async def test_a_stream_that_is_read_slowly_loses_nothing(worker: Worker) -> None:
    total = 300
    async with streaming(worker.port, ["a", "b"], receive_buffer=4096) as client:
        for _ in range(2):
            await subscribed(client)
        for number in range(total):
            await publish(worker, "ab"[number % 2], [number, "x" * 3000])
        (peer,) = worker.directory.peers()
        assert not peer.bulk
        seen: dict[str, list[int]] = {"a": [], "b": []}
        for number in range(total):
            if number % 50 == 0:
                await asyncio.sleep(0.01)
            message = json.loads((await client.event())["data"])
            seen[message["topic"]].append(message["data"][0])
        assert seen == {"a": list(range(0, total, 2)), "b": list(range(1, total, 2))}


async def test_limits_of_a_stream_come_from_the_configuration() -> None:
    config = configuration(limits=Limits(sse_topics=300), namespaces={"bare": BARE})
    async with running(config) as worker:
        topics = [f"bare:{number}" for number in range(250)]
        async with streaming(worker.port, topics) as client:
            for _ in topics:
                await subscribed(client)
        assert (await refused(worker, "/sse?" + "&".join(["topic=a"] * 301)))[1] == "too_many"
