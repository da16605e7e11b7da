"""Asking about topics through the private API."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.presence import PresencePage
from clarion_fanout.roll import Entry
from clarion_server.http_api import topics as http_topics
from support.fleets import Told
from support.private_api import Api, FailingBroker, Subscriber, serving


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as api:
        yield api


async def publish(api: Api, topic: str, count: int) -> str:
    """Publishes the numbers from 1; returns the epoch."""
    messages = [{"topic": topic, "data": n} for n in range(1, count + 1)]
    results = (await api.post("/v1/publish/batch", {"messages": messages})).json["results"]
    epoch: str = results[-1]["epoch"]
    return epoch


def offsets(history: dict[str, list[dict[str, int]]]) -> list[int]:
    assert all(message["data"] == message["offset"] for message in history["messages"])
    return [message["offset"] for message in history["messages"]]


# History


async def test_history_is_the_oldest_first_with_the_position_it_ends_at(api: Api) -> None:
    epoch = await publish(api, "a", 3)
    history = (await api.get("/v1/topics/a/history")).json
    assert offsets(history) == [1, 2, 3]
    assert (history["topic"], history["epoch"], history["offset"]) == ("a", epoch, 3)
    assert history["complete"] is True
    assert all(isinstance(message["ts"], int) for message in history["messages"])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("limit=2", [1, 2]),
        ("limit=2&reverse=true", [5, 4]),
        ("since_epoch={epoch}&since_offset=3", [4, 5]),
        ("since_epoch={epoch}&since_offset=3&limit=1", [4]),
        ("since_epoch={epoch}&since_offset=3&reverse=true", [2, 1]),
        ("since_epoch={epoch}&since_offset=5", []),
        ("unknown=1", [1, 2, 3, 4, 5]),
    ],
)
async def test_a_part_of_history_can_be_asked_for(
    api: Api, query: str, expected: list[int]
) -> None:
    epoch = await publish(api, "a", 5)
    history = (await api.get("/v1/topics/a/history?" + query.format(epoch=epoch))).json
    assert offsets(history) == expected
    assert history["complete"] is True


async def test_another_epoch_is_not_complete(api: Api) -> None:
    await publish(api, "a", 2)
    history = (await api.get("/v1/topics/a/history?since_epoch=other&since_offset=1")).json
    assert offsets(history) == [1, 2]
    assert history["complete"] is False


async def test_a_topic_that_was_never_published_to_has_an_empty_history(api: Api) -> None:
    history = (await api.get("/v1/topics/a/history")).json
    assert (history["offset"], history["messages"]) == (0, [])


async def test_the_default_page_has_a_hundred_messages(api: Api) -> None:
    await publish(api, "a", 120)
    assert len((await api.get("/v1/topics/a/history")).json["messages"]) == 100


async def test_a_page_of_large_messages_is_shorter_but_never_empty(api: Api) -> None:
    data = "x" * 60_000
    messages = [{"topic": "a", "data": data}] * 10
    for _ in range(20):
        await api.post("/v1/publish/batch", {"messages": messages})
    answer = await api.get("/v1/topics/a/history?limit=1000")
    assert len(answer.body) < http_topics.HISTORY_BYTES * 1.1
    history = answer.json
    last = history["messages"][-1]["offset"]
    assert 100 < last < 200
    query = f"limit=1000&since_epoch={history['epoch']}&since_offset={last}"
    rest = (await api.get(f"/v1/topics/a/history?{query}")).json
    assert [m["offset"] for m in rest["messages"]] == list(range(last + 1, 201))


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=10001",
        "limit=x",
        "limit=",
        "limit=1&limit=2",
        "since_epoch=a",
        "since_offset=1",
        "since_epoch=a&since_offset=-1",
        "since_epoch=a&since_offset=9007199254740992",
        "reverse=1",
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(api: Api, query: str) -> None:
    assert (await api.get(f"/v1/topics/a/history?{query}")).error == (400, "bad_request")


async def test_a_namespace_without_history_has_none(api: Api) -> None:
    assert (await api.get("/v1/topics/bare:1/history")).error == (404, "no_history")


@pytest.mark.parametrize(
    ("path", "topic"),
    [
        ("a/b", "a/b"),
        ("a%2Fb", "a/b"),
        ("a/history", "a/history"),
        ("%23a%40b:c", "#a@b:c"),
        ("a/../b", "a/../b"),
        ("a+b", "a+b"),
    ],
)
async def test_a_topic_in_a_path_may_be_written_in_all_its_characters(
    api: Api, path: str, topic: str
) -> None:
    assert (await api.get(f"/v1/topics/{path}/history")).json["topic"] == topic


@pytest.mark.parametrize("path", ["a%20b", "%FF", "a%00", "%C3%A9", "x" * 256])
async def test_a_path_with_a_bad_topic_is_refused(api: Api, path: str) -> None:
    assert (await api.get(f"/v1/topics/{path}/history")).error == (400, "bad_topic")
    assert (await api.get(f"/v1/topics/{path}/presence")).error == (400, "bad_topic")


async def test_history_that_must_be_asked_for_and_cannot_be_had_is_a_503() -> None:
    async with serving(broker=FailingBroker(BrokerUnavailable("no shard"))) as api:
        answer = await api.get("/v1/topics/a/history")
        assert answer.error == (503, "unavailable")
        assert answer.headers["Retry-After"] == "1"


# Presence


async def test_who_is_subscribed_is_told_in_pages(api: Api) -> None:
    for number in range(5):
        api.presence.enter("known:a/b", f"c-{number}", "x")
    path = "/v1/topics/known:a/b/presence"
    page = (await api.get(f"{path}?limit=2")).json
    after = page.pop("next")
    members = [{"client": f"c-{number}", "user": "x"} for number in range(5)]
    assert page == {"topic": "known:a/b", "count": 5, "members": members[:2]}
    page = (await api.get(f"{path}?limit=3&after={after}")).json
    assert page == {"topic": "known:a/b", "count": 5, "members": members[2:]}
    assert (await api.get(f"{path}?limit=0")).json["members"] == []
    assert (await api.get(path)).json["members"] == members


async def test_of_a_topic_that_only_counts_the_count_is_told(api: Api) -> None:
    path = "/v1/topics/counted:a/presence"
    assert (await api.get(path)).json == {"topic": "counted:a", "count": 0, "members": []}
    api.presence.enter("counted:a", "c-1", None)
    assert (await api.get(path)).json == {"topic": "counted:a", "count": 1, "members": []}


async def test_where_no_presence_is_kept_there_is_none_to_be_told(api: Api) -> None:
    assert (await api.get("/v1/topics/a/presence")).error == (404, "no_presence")


@pytest.mark.parametrize("wrong", ["limit=-1", "limit=1001", "limit=x", f"after={'x' * 129}"])
async def test_a_page_of_members_that_is_none_is_refused(api: Api, wrong: str) -> None:
    answer = await api.get(f"/v1/topics/known:a/presence?{wrong}")
    assert answer.error == (400, "bad_request")


class Away:
    """Presence at a shard that does not answer."""

    members = announced = removed = failures = 0

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def enter(self, topic: str, client: str, user: str | None) -> None:
        pass

    def leave(self, topic: str, client: str) -> None:
        pass

    async def read(self, topic: str, limit: int, after: str = "") -> PresencePage:
        raise BrokerUnavailable("no shard", 2500)


async def test_presence_that_cannot_be_had_is_a_503() -> None:
    async with serving(presence=Away()) as api:
        answer = await api.get("/v1/topics/known:a/presence")
        assert answer.error == (503, "unavailable")
        assert answer.headers["Retry-After"] == "3"


# The list


def subscribe(api: Api, *topics: str) -> None:
    for key, topic in enumerate(topics):
        api.hub.add(Subscriber(key), topic)


async def test_topics_are_listed_sorted_with_their_subscribers(api: Api) -> None:
    subscribe(api, "b", "a", "b")
    api.hub.hold("held")  # somebody waits to subscribe
    answer = await api.get("/v1/topics")
    assert answer.json == {
        "topics": [{"topic": "a", "subscribers": 1}, {"topic": "b", "subscribers": 2}],
        "complete": True,
    }


async def test_pages_of_topics_join_without_gap_or_repetition(api: Api) -> None:
    names = [f"t:{n:05}" for n in range(12_000)]
    subscribe(api, *reversed(names), "other")
    found: list[str] = []
    after = ""
    while True:
        page = (await api.get(f"/v1/topics?prefix=t:&limit=5000&after={after}")).json
        found += [topic["topic"] for topic in page["topics"]]
        if "next" not in page:
            break
        after = page["next"]
        assert after == found[-1]
    assert found == names


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "prefix=a&prefix=b"])
async def test_a_list_that_makes_no_sense_is_refused(api: Api, query: str) -> None:
    assert (await api.get(f"/v1/topics?{query}")).error == (400, "bad_request")


@pytest.mark.parametrize("query", ["prefix=a%20b", "after=%00"])
async def test_what_no_topic_starts_with_is_refused(api: Api, query: str) -> None:
    assert (await api.get(f"/v1/topics?{query}")).error == (400, "bad_topic")


async def test_the_subscribers_of_other_workers_are_counted() -> None:
    page = b'{"topics":[["a",2],["c",1]],"through":"c"}'
    async with serving(others=Told({"b": page})) as api:
        subscribe(api, "a", "b", "d")
        answer = await api.get("/v1/topics")
    assert answer.json == {
        "topics": [
            {"topic": "a", "subscribers": 3},
            {"topic": "b", "subscribers": 1},
            {"topic": "c", "subscribers": 1},
        ],
        "complete": True,
        "next": "c",
    }


async def test_a_list_says_whose_subscribers_it_lacks() -> None:
    async with serving(others=Told({}, [Entry("b", b"")])) as api:
        subscribe(api, "a")
        answer = await api.get("/v1/topics")
    assert answer.json == {
        "topics": [{"topic": "a", "subscribers": 1}],
        "complete": False,
        "unanswered": [{"id": "b"}],
    }


async def test_a_list_without_any_shard_is_this_workers_and_says_so() -> None:
    async with serving(others=Told(BrokerUnavailable("no shard"))) as api:
        subscribe(api, "a")
        answer = await api.get("/v1/topics")
    assert answer.json == {"topics": [{"topic": "a", "subscribers": 1}], "complete": False}
