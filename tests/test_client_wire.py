"""The Python client and the wire: the examples that every program shares, and hostile ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_client import codes, wire
from clarion_client.events import Position
from clarion_fanout import conflation

VECTORS = Path(__file__).parent / "vectors"
ANSWERS = json.loads((VECTORS / "answers.json").read_text())
CLOSES = json.loads((VECTORS / "closes.json").read_text())
COMMANDS = [e for e in json.loads((VECTORS / "commands.json").read_text()) if e["by"] == "client"]

KINDS: dict[str, type[Any]] = {
    "welcome": wire.Welcome,
    "subscribed": wire.Subscribed,
    "message": wire.Publication,
    "lost": wire.Lost,
    "unsubscribed": wire.Unsubscribed,
    "published": wire.Published,
    "history": wire.HistoryPage,
    "presence": wire.PresenceList,
    "join": wire.Movement,
    "leave": wire.Movement,
    "refreshed": wire.Refreshed,
    "pong": wire.Pong,
    "error": wire.Failure,
    "goodbye": wire.Goodbye,
}


def name(example: dict[str, Any]) -> str:
    return str(example["name"])


@pytest.mark.parametrize("example", ANSWERS, ids=name)
def test_what_the_server_sends_means_what_the_example_says(example: dict[str, Any]) -> None:
    read: Any = wire.decode(example["text"])
    means = example["means"]
    if means is None or means["op"] not in KINDS:
        assert read is None
        return
    assert isinstance(read, KINDS[means["op"]])
    fields = {"id": None, **asdict(read)}
    assert fields.pop("joined", None) in (None, means["op"] == "join")
    assert {"op": means["op"], **fields} == {"id": None, **means}


@pytest.mark.parametrize("example", CLOSES, ids=lambda example: str(example["code"]))
def test_the_rule_decides_about_coming_back_as_the_examples_say(example: dict[str, Any]) -> None:
    assert codes.come_back(example["code"]) is example["come_back"]


def encoded(means: dict[str, Any]) -> str:
    """The command of an example, made as the client makes its commands."""
    fields = {name: value for name, value in means.items() if name not in ("op", "id")}
    op, id = means["op"], means["id"]
    if op == "publish":
        return wire.encode_publish(id, **fields)
    since = fields.get("since")
    position = Position(**since) if since else None
    if op == "subscribe":
        if fields["topics"] is None:
            wish = wire.wish(fields["topic"], position, fields["last"])
            return wire.encode("subscribe", id, **wish)
        wishes = [
            wire.wish(w["topic"], Position(**w["since"]) if w["since"] else None, w["last"])
            for w in fields["topics"]
        ]
        ((_, text, _),) = wire.encode_subscribes(wishes, lambda: id, 65_536)
        return text
    if "since" in fields:
        fields["since"] = wire.since_fields(position)
    return wire.encode(op, id, **fields)


@pytest.mark.parametrize("example", COMMANDS, ids=name)
def test_every_command_of_the_examples_can_be_sent(example: dict[str, Any]) -> None:
    # The order of fields is free, and so is a field with its default.
    defaults = {"limit": 100, "reverse": False, "name": "", "last": 0, "after": ""}
    if example["means"]["op"] == "presence":
        defaults["limit"] = 1000

    def bare(value: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in value.items() if k not in defaults or defaults[k] != v}

    assert bare(json.loads(encoded(example["means"]))) == bare(json.loads(example["text"]))


# Many topics in few commands


@given(st.lists(st.text("abc:", min_size=1, max_size=255), max_size=60), st.integers(300, 2000))
def test_any_topics_are_asked_for_in_order_within_the_size_allowed(
    topics: list[str], max_bytes: int
) -> None:
    numbers = iter(range(1000))
    wishes = [wire.wish(topic) for topic in topics]
    asked: list[str] = []
    for id, text, count in wire.encode_subscribes(wishes, lambda: next(numbers), max_bytes):
        command = json.loads(text)
        assert len(text.encode()) <= max_bytes
        assert (command["op"], command["id"], len(command["topics"])) == ("subscribe", id, count)
        asked += [wish["topic"] for wish in command["topics"]]
    assert asked == topics


def test_commands_are_as_few_as_their_size_allows() -> None:
    wishes = [wire.wish(f"t{i:04}", Position("x8QzAbCdE", 10**9)) for i in range(5000)]
    commands = wire.encode_subscribes(wishes, iter(range(1, 99)).__next__, 65_536)
    assert len(commands) == -(-sum(len(text) for _, text, _ in commands) // 65_536)


# Garbage


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"welcome"',
        "{}",
        '{"op":7}',
        '{"op":"welcome"}',
        '{"op":"welcome","client":7,"ping_ms":25000}',
        '{"op":"message","topic":"a"}',
        '{"op":"message","topic":["a"],"ts":1,"data":1}',
        '{"op":"message","topic":"a","ts":1.5,"data":1}',
        '{"op":"message","topic":"a","ts":1,"offset":true,"data":1}',
        '{"op":"subscribed","topic":"a","epoch":"x"}',
        '{"op":"subscribed","topic":"a","recovered":1}',
        '{"op":"subscribed","topic":"a","id":[1]}',
        '{"op":"history","id":1,"topic":"a","epoch":"x","offset":1,"messages":{}}',
        '{"op":"history","id":1,"topic":"a","epoch":"x","offset":1,"messages":[7]}',
        '{"op":"join","topic":"a"}',
        '{"op":"goodbye","code":"4000"}',
        '{"op":"message","topic":"a","ts":-1,"data":1}',
        '{"op":"message","topic":"a","ts":9007199254740992,"data":1}',
        '{"op":"goodbye","code":4000,"reason":"x","retry_ms":1%s}' % ("0" * 400),
        '{"op":"welcome","client":"c","expires_ms":-1%s}' % ("0" * 400),
        "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_clarion_is_named_so(text: str) -> None:
    with pytest.raises(wire.NotClarion):
        wire.decode(text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists) | st.text())
def test_nothing_but_that_is_ever_raised(value: object) -> None:
    for text in (json.dumps(value), json.dumps({"op": "message", "topic": value}), str(value)):
        with suppress(wire.NotClarion):
            wire.decode(text)


def test_a_number_of_any_length_is_no_reason_to_lose_a_message() -> None:
    """Or it would be sent again after each reconnect, for ever."""
    text = '{"op":"message","topic":"a","ts":1,"data":[1%s, 7]}' % ("0" * 5000)
    read = wire.decode(text)
    assert isinstance(read, wire.Publication)
    assert read.data == [float("inf"), 7]


@pytest.mark.parametrize("data", [float("nan"), {"x": float("inf")}, "\ud800", {1, 2}])
def test_what_is_no_json_is_not_sent(data: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        wire.encode_publish(1, "a", data)


def test_the_words_of_a_server_are_one_line_that_no_terminal_obeys() -> None:
    text = json.dumps(
        {"op": "goodbye", "code": 4000, "reason": "a\nERROR b\x1b[31m\u202e" + "x" * 9999}
    )
    read = wire.decode(text)
    assert isinstance(read, wire.Goodbye)
    assert read.reason.startswith("a\\nERROR b\\x1b[31m\\u202exxx")
    assert read.reason.isprintable()
    assert len(read.reason) < 600


def test_so_is_an_error_that_says_whatever_it_likes() -> None:
    spoken = "a\nERROR b\x1b[31m"
    read = wire.decode(
        json.dumps({"op": "error"} | dict.fromkeys(("code", "topic", "message"), spoken))
    )
    assert isinstance(read, wire.Failure)
    assert {read.code, read.topic, read.message} == {"a\\nERROR b\\x1b[31m"}


def test_json_of_another_encoder_is_sent_as_it_stands() -> None:
    text = wire.encode_publish(1, "a", wire.Json('{"n": 1.00, "n": [1e400, 1%s]}' % ("0" * 5000)))
    assert '"data":{"n": 1.00, "n": [1e400, 1000' in text
    assert json.loads(text, parse_int=float)["op"] == "publish"
    assert wire.dumps_data(wire.Json(b'"h\xc3\xa4llo"')) == '"hällo"'


@pytest.mark.parametrize(
    "text",
    ["", "{", '1,"id":"other"', "1}", "NaN", "[-Infinity]", '"\ud800"', b'"\xff"', "[" * 100_000],
    ids=lambda text: repr(text)[:20],
)
def test_what_claims_to_be_json_and_is_not_is_the_callers_mistake(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.Json(text)


def test_another_reader_of_json_may_take_the_place_of_pythons() -> None:
    text = '{"op":"message","topic":"a","ts":1,"data":{"n":1}}'
    read = wire.decode(text, lambda text: {**json.loads(text), "data": "mine"})
    assert read == wire.Publication("a", None, 1, "mine")


@pytest.mark.parametrize("failure", [KeyError("x"), ValueError("y"), RecursionError()])
def test_whatever_a_reader_raises_means_that_it_is_no_json(failure: Exception) -> None:
    def read(text: str) -> object:
        raise failure

    with pytest.raises(wire.NotClarion):
        wire.decode("{}", read)


@pytest.mark.parametrize("topic", ["", "a" * 256, "a b", "ä", "a\n", "a;b"])
def test_what_is_no_topic_is_not_asked_for(topic: str) -> None:
    with pytest.raises(ValueError, match="is no topic"):
        wire.check_topic(topic)


@pytest.mark.parametrize("key", ["", "a b", "ä", "a\n", "\x7f", "x" * 129])
def test_what_is_no_conflation_key_is_not_sent(key: str) -> None:
    assert not conflation.is_key(key)
    with pytest.raises(ValueError, match="is no conflation key"):
        wire.encode_publish(1, "a", 1, key)


@given(st.text(st.characters(max_codepoint=300), max_size=130))
def test_a_conflation_key_is_one_where_the_server_says_so(key: str) -> None:
    try:
        assert wire.check_key(key) == key
    except ValueError:
        assert not conflation.is_key(key)
    else:
        assert conflation.is_key(key)


def test_every_character_of_the_grammar_is_one_of_a_topic() -> None:
    check: Callable[[str], str] = wire.check_topic
    assert check("AZaz09_-.:/@#=+,") == "AZaz09_-.:/@#=+,"
