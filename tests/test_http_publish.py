"""Publishing through the private API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from clarion_fanout.broker import BrokerUnavailable, Want
from clarion_server.options import Config, Limits
from support.private_api import KEY, NAMESPACES, Api, FailingBroker, Subscriber, serving


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as api:
        yield api


# One message


async def test_a_message_gets_its_position_and_reaches_subscribers(api: Api) -> None:
    subscriber = Subscriber()
    api.hub.add(subscriber, "orders:42")
    answer = await api.post("/v1/publish", {"topic": "orders:42", "data": {"n": 1}})
    assert answer.status == 200
    assert answer.json["topic"] == "orders:42"
    assert answer.json["offset"] == 1
    assert answer.json["epoch"]
    api.hub.flush()
    assert subscriber.received == [("orders:42", b'{"n": 1}')]
    assert api.counters.publications["api"] == 1


async def test_without_history_there_is_no_position(api: Api) -> None:
    answer = await api.post("/v1/publish", {"topic": "bare:1", "data": None})
    assert answer.json == {"topic": "bare:1"}


async def test_an_idempotency_key_makes_a_repetition_harmless(api: Api) -> None:
    message = {"topic": "orders:42", "data": 1, "id": "k"}
    first = await api.post("/v1/publish", message)
    again = await api.post("/v1/publish", message)
    assert again.json == {**first.json, "duplicate": True}
    assert api.counters.publications["api"] == 1


@pytest.mark.parametrize("key", ["", "k" * 129, "a b", "\n", "é"])
async def test_a_key_that_is_none_is_refused(api: Api, key: str) -> None:
    for path, what in (("publish", {"topic": "a"}), ("broadcast", {"topics": ["a"]})):
        answer = await api.post(f"/v1/{path}", {**what, "data": 1, "key": key})
        assert (answer.status, answer.json["error"]["code"]) == (400, "bad_request")
        assert "key" in answer.json["error"]["message"]
    batch = [{"topic": "a", "data": 1, "key": key}, {"topic": "a", "data": 2, "key": "!~"}]
    answer = await api.post("/v1/publish/batch", {"messages": batch})
    assert ["error" in each for each in answer.json["results"]] == [True, False]


async def test_every_way_in_takes_a_key_along(api: Api) -> None:
    message = {"topic": "a", "data": 1, "key": "k"}
    await api.post("/v1/publish", message)
    await api.post("/v1/publish/batch", {"messages": [message, {"topic": "a", "data": 1}]})
    await api.post("/v1/broadcast", {"topics": ["a", "b"], "data": 1, "key": "k"})
    page = await api.broker.read("a", Want())
    assert [each.key for each in page.publications] == ["k", "k", "", "k"]


async def test_data_passes_as_it_was_written(api: Api) -> None:
    subscriber = Subscriber()
    api.hub.add(subscriber, "a")
    data = b'{"big":12345678901234567890123, "f":1.10,\t"u":"\\u00e9\xc3\xa9","a":1,"a":2}'
    assert (await api.post("/v1/publish", data=b'{"topic":"a","data":%s}' % data)).status == 200
    api.hub.flush()
    assert subscriber.received == [("a", data)]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", (400, "bad_request")),
        (b"{", (400, "bad_request")),
        (b"[]", (400, "bad_request")),
        (b'{"topic":"a"}', (400, "bad_request")),
        (b'{"data":1}', (400, "bad_request")),
        (b'{"topic":1,"data":1}', (400, "bad_request")),
        (b'{"topic":"a","data":1,"id":""}', (400, "bad_request")),
        (b'{"topic":"a","data":1,"id":"%s"}' % (b"x" * 129), (400, "bad_request")),
        (b'{"topic":"a","data":1} x', (400, "bad_request")),
        (b'{"topic":"\xff","data":1}', (400, "bad_request")),
        (b'{"topic":"a","data":%s1%s}' % (b"[" * 9999, b"]" * 9999), (400, "bad_request")),
        (b'{"topic":"","data":1}', (400, "bad_topic")),
        (b'{"topic":"a b","data":1}', (400, "bad_topic")),
        (b'{"topic":"a\\n","data":1}', (400, "bad_topic")),
        (b'{"topic":"a","data":"\xff"}', (400, "bad_data")),
        (b'{"topic":"a","data":"\\ud800"}', (400, "bad_request")),
        (b'{"topic":"a","data":1e999}', (400, "bad_data")),
        (b'{"topic":"a","data":%s1%s}' % (b"[" * 600, b"]" * 600), (400, "bad_data")),
        (b'{"topic":"a","data":"%s"}' % (b"x" * 65_536), (413, "too_large")),
    ],
)
async def test_what_cannot_be_published_is_refused_with_the_reason(
    api: Api, body: bytes, error: tuple[int, str]
) -> None:
    assert (await api.post("/v1/publish", data=body)).error == error
    assert api.hub.received == 0


async def test_the_place_of_a_fault_is_named(api: Api) -> None:
    answer = await api.post("/v1/publish", {"topic": ["a"], "data": 1})
    assert "$.topic" in answer.json["error"]["message"]


# A batch


async def test_each_message_of_a_batch_has_a_result_in_order(api: Api) -> None:
    messages = [{"topic": "a", "data": n} for n in range(3)] + [{"topic": "bare:b", "data": 0}]
    results = (await api.post("/v1/publish/batch", {"messages": messages})).json["results"]
    assert [result.get("offset") for result in results] == [1, 2, 3, None]
    assert [result["topic"] for result in results] == ["a", "a", "a", "bare:b"]
    assert api.counters.publications["api"] == 4


async def test_a_bad_message_does_not_fail_the_others(api: Api) -> None:
    body = (
        b'{"messages":[{"topic":"a","data":1},{"topic":7,"data":1},7,{"topic":"a"},'
        b'{"topic":"a b","data":1},{"topic":"a","data":"\xff"},{"topic":"a","data":2}]}'
    )
    answer = await api.post("/v1/publish/batch", data=body)
    assert answer.status == 200
    results = answer.json["results"]
    assert [result.get("offset") for result in results] == [1, None, None, None, None, None, 2]
    codes = [result["error"]["code"] for result in results if "error" in result]
    assert codes == ["bad_request"] * 3 + ["bad_topic", "bad_data"]
    assert results[5]["error"]["topic"] == "a"


async def test_what_is_wrong_with_one_message_changes_nothing_for_the_others(api: Api) -> None:
    good = b'{"topic":"orders:1","data":{"n": [1]},"id":null},{"topic":"bare:1","data":2,"key":"k"}'
    bad = (
        b"7",
        b'{"topic":"a b","data":1}',
        b'{"topic":"a","data":1,"key":""}',
        b'{"topic":"a","data":"\xff"}',
        b'{"topic":"a","data":1e999}',
        b'{"topic":"a","data":1,"id":""}',
    )
    whole = await api.post("/v1/publish/batch", data=b'{"messages":[%b]}' % good)
    assert [each.get("offset") for each in whole.json["results"]] == [1, None]
    for number, wrong in enumerate(bad, 2):
        body = b'{"messages":[%b,%b]}' % (wrong, good)
        first, *others = (await api.post("/v1/publish/batch", data=body)).json["results"]
        assert "error" in first
        assert others == [{**whole.json["results"][0], "offset": number}, {"topic": "bare:1"}]


async def test_a_large_batch_keeps_its_order(api: Api) -> None:
    messages = [{"topic": "a", "data": n} for n in range(2001)]
    results = (await api.post("/v1/publish/batch", {"messages": messages})).json["results"]
    assert [result["offset"] for result in results] == list(range(1, 2002))


async def test_a_batch_may_be_empty(api: Api) -> None:
    assert (await api.post("/v1/publish/batch", {"messages": []})).json == {"results": []}


@pytest.mark.parametrize("body", [b"{}", b'{"messages":{}}', b'{"messages":[1,]}', b""])
async def test_a_broken_batch_is_refused_as_a_whole(api: Api, body: bytes) -> None:
    assert (await api.post("/v1/publish/batch", data=body)).error == (400, "bad_request")


async def test_a_batch_has_a_limit() -> None:
    limits = Limits(batch=2)
    async with serving(Config(api_keys=(KEY,), limits=limits, namespaces=NAMESPACES)) as api:
        message = {"topic": "a", "data": 1}
        answer = await api.post("/v1/publish/batch", {"messages": [message] * 3})
        assert answer.error == (413, "too_large")
        answer = await api.post("/v1/broadcast", {"topics": ["a"] * 3, "data": 1})
        assert answer.error == (413, "too_large")
        assert api.hub.received == 0


# A broadcast


async def test_a_broadcast_reaches_every_topic_and_bad_ones_fail_alone(api: Api) -> None:
    body = {"topics": ["a", "b c", "bare:d"], "data": {"n": 1}, "id": "k"}
    results = (await api.post("/v1/broadcast", body)).json["results"]
    assert results[0]["offset"] == 1
    assert results[1]["error"]["code"] == "bad_topic"
    assert results[1]["error"]["topic"] == "b c"
    assert results[2] == {"topic": "bare:d"}
    assert api.hub.received == 2


async def test_the_key_of_a_broadcast_counts_in_each_topic_by_itself(api: Api) -> None:
    await api.post("/v1/broadcast", {"topics": ["a"], "data": 1, "id": "k"})
    body = {"topics": ["a", "b"], "data": 1, "id": "k"}
    results = (await api.post("/v1/broadcast", body)).json["results"]
    assert [result.get("duplicate", False) for result in results] == [True, False]


async def test_bad_data_fails_the_whole_broadcast(api: Api) -> None:
    answer = await api.post("/v1/broadcast", data=b'{"topics":["a"],"data":1e999}')
    assert answer.error == (400, "bad_data")


# The broker


async def test_a_broker_that_does_not_answer_is_a_503_with_the_time_of_a_retry() -> None:
    async with serving(broker=FailingBroker(BrokerUnavailable("no shard", retry_ms=1500))) as api:
        answer = await api.post("/v1/publish", {"topic": "a", "data": 1})
        assert answer.error == (503, "unavailable")
        assert answer.headers["Retry-After"] == "2"
        assert answer.json["error"]["retry_ms"] == 1500
        body = {"messages": [{"topic": "a", "data": 1}, 7]}
        answer = await api.post("/v1/publish/batch", body)
        results = answer.json["results"]
        assert [result["error"]["code"] for result in results] == ["unavailable", "bad_request"]
        assert results[0]["error"]["retry_ms"] == 1500
        assert api.counters.publications["api"] == 0


async def test_a_fault_of_the_server_is_logged_once_and_tells_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(broker=FailingBroker(RuntimeError("the secret of the house"))) as api:
        answer = await api.post("/v1/publish", {"topic": "a", "data": 1})
    assert answer.error == (500, "internal")
    assert b"secret" not in answer.body
    assert json.loads(answer.body) == {"error": {"code": "internal", "message": "internal error"}}
    assert [record.getMessage() for record in caplog.records] == ["POST /v1/publish failed"]
