"""The wire: what is read, what is written, and the examples that every program shares."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeAlias, get_args

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from clarion_fanout import payload
from clarion_fanout.publication import (
    Arrival,
    Departure,
    Loss,
    PayloadError,
    Position,
    Publication,
    Turn,
)
from clarion_server import protocol
from clarion_server.codes import Code
from clarion_server.protocol import (
    OPS,
    AnyAnswer,
    AnyCommand,
    BadCommand,
    Failure,
    Goodbye,
    HistoryPage,
    Pong,
    Publish,
    Since,
    Subscribed,
    Welcome,
    decode,
    encode,
    written,
)
from support.examples import examples

HERE = Path(__file__).parent
COMMANDS = json.loads((HERE / "vectors/commands.json").read_text())
ANSWERS = json.loads((HERE / "vectors/answers.json").read_text())
PAGE = (HERE.parent / "clients/PROTOCOL.md").read_text()

WRITTEN = {str(kind.__struct_config__.tag) for kind in get_args(AnyAnswer)}
"""Every op that is encoded."""

SPLICED = {"message", "join", "leave"}
"""Those that are put together by hand, around what a publisher handed in."""

Example: TypeAlias = dict[str, Any]


def samples(vectors: list[Example], *keys: str) -> list[Any]:
    return [
        pytest.param(vector, id=vector["name"])
        for vector in vectors
        if all(key in vector for key in keys)
    ]


def written_out(value: object) -> object:
    """A message as the examples have it: every field, what is not there as null, data parsed."""
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        tag = {config.tag_field: config.tag} if config.tag_field else {}
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return tag | {name: written_out(field) for name, field in fields.items()}
    if isinstance(value, list | tuple):
        return [written_out(item) for item in value]
    if isinstance(value, Raw):
        return json.loads(bytes(value))
    return None if value is UNSET else value


def refusal(text: bytes) -> BadCommand:
    with pytest.raises(BadCommand) as caught:
        decode(text)
    return caught.value


# The shared examples


@pytest.mark.parametrize("vector", samples(COMMANDS, "means"))
def test_a_command_means_what_the_example_says(vector: Example) -> None:
    assert written_out(decode(vector["text"].encode())) == vector["means"]


@pytest.mark.parametrize("vector", samples(COMMANDS, "refused"))
def test_a_text_is_refused_as_the_example_says(vector: Example) -> None:
    bad = refusal(vector["text"].encode())
    code = Code.UNKNOWN_OP if bad.unknown_op else Code.BAD_REQUEST
    assert {"code": code, "id": None if bad.id is UNSET else bad.id} == vector["refused"]


@pytest.mark.parametrize("vector", samples([v for v in ANSWERS if v["by"] == "server"]))
def test_an_answer_is_written_byte_for_byte_as_the_example_says(vector: Example) -> None:
    text, means = vector["text"].encode(), vector["means"]
    if means["op"] in SPLICED:
        assert written(spliced(text, means)) == text
        assert json.loads(text) == {k: v for k, v in means.items() if k != "offset" or v}
        return
    answer = msgspec.json.decode(text, type=AnyAnswer)
    assert encode(answer) == text
    assert written_out(answer) == means


def spliced(text: bytes, means: Example) -> Publication:
    """The publication that an example tells of."""
    if means["op"] == "message":
        data = text.partition(b'"data":')[2].removesuffix(b"}")
        return Publication(means["topic"], data, means["ts"], means["offset"] or 0, "e")
    kind = {"join": Arrival, "leave": Departure}[means["op"]]
    return kind(means["topic"], text.partition(b'"member":')[2].removesuffix(b"}"), 0)


def test_a_turn_is_an_answer_that_nobody_asked_for() -> None:
    name = "unasked: the stream goes on in another epoch, nothing is missing"
    (vector,) = (vector for vector in ANSWERS if vector["name"] == name)
    means = vector["means"]
    turn = Turn(means["topic"], Position(means["epoch"], means["offset"]), "x8Qz")
    assert written(turn) == vector["text"].encode()


@pytest.mark.parametrize("vector", samples([v for v in ANSWERS if v["means"]["op"] == "lost"]))
def test_a_loss_says_where_it_goes_on_and_why(vector: Example) -> None:
    means = vector["means"]
    loss = Loss(means["topic"], Position(means["epoch"], means["offset"]), means["reason"])
    assert written(loss) == vector["text"].encode()


@pytest.mark.parametrize("vector", samples([v for v in ANSWERS if v["by"] == "later"]))
def test_a_later_answer_has_the_fields_of_today(vector: Example) -> None:
    text, means = json.loads(vector["text"]), vector["means"]
    assert {key: text.get(key) for key in means} == means


def test_every_op_has_an_example() -> None:
    assert {vector["means"]["op"] for vector in COMMANDS if "means" in vector} == OPS
    shown = {vector["means"]["op"] for vector in ANSWERS if vector["by"] == "server"}
    assert shown == WRITTEN | SPLICED


@pytest.mark.parametrize("name", ["commands", "answers", "closes"])
def test_examples_have_a_name_each(name: str) -> None:
    vectors = json.loads((HERE / f"vectors/{name}.json").read_text())
    assert len({vector["name"] for vector in vectors}) == len(vectors)


def test_the_page_for_client_authors_shows_examples_of_these() -> None:
    shown = re.findall(r'^    (\{"op":.*\})$', PAGE, re.M)
    assert shown
    assert set(shown) <= {vector["text"] for vector in COMMANDS + ANSWERS}


@pytest.mark.parametrize(
    ("section", "ops"),
    [("Commands", OPS), ("What the server sends", WRITTEN | SPLICED)],
)
def test_the_page_for_client_authors_has_every_op(section: str, ops: set[str]) -> None:
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z]+)` \|", text, re.M)) == ops


# Reading

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
names = st.sampled_from(
    ["id", "op", "topic", "topics", "since", "last", "token", "name", "data", "limit", "reverse"]
)
objects = st.dictionaries(names | st.text(max_size=8), json_values, max_size=6)
commands = st.builds(
    lambda fields, op: fields | {"op": op}, objects, st.sampled_from(sorted(OPS)) | st.text()
)


@settings(max_examples=examples(400))
@given(st.binary(max_size=100) | st.text(max_size=100).map(lambda t: t.encode(errors="replace")))
@example(b'{"op":"ping","id":"\xff"}')
@example(b'{"op":"\xff"}')
@example(b'{"op":"ping","\xed\xa0\x80":1}')
@example(b'{"op":"ping","id":' + b"9" * 5000 + b"}")
@example(b'{"op":"ping","id":1e400}')
@example(b'{"op":"publish","topic":"a","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
@example(b'{"op":"ping","x":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}")
@example(b"[" * 100_000)
def test_any_bytes_are_a_command_or_a_bad_command(text: bytes) -> None:
    assert len(str(outcome(text))) > 0


@settings(max_examples=examples(150))
@given(commands | objects | json_values)
def test_any_json_is_a_command_or_a_bad_command(value: object) -> None:
    read = outcome(json.dumps(value).encode())
    # What is echoed is an id as the client gave it, or nothing.
    assert read.id is UNSET or (isinstance(value, dict) and read.id == value["id"])


def outcome(text: bytes) -> AnyCommand | BadCommand:
    """The command, or the refusal, which must be fit for an answer. Nothing else is raised."""
    try:
        return decode(text)
    except BadCommand as bad:
        answer = Failure(id=bad.id, code=Code.BAD_REQUEST, message=str(bad))
        too_long = len(encode(answer)) > 1200  # an id of 128 characters may take six bytes each
        return bad if not too_long else pytest.fail(f"a refusal of {len(str(bad))} characters")


ids = st.integers(min_value=-(2**53), max_value=2**53) | st.text(max_size=128)


@given(ids, st.sampled_from(['"op":"dance"', '"op":5', '"op":"publish"', '"no":"op"']))
def test_the_id_of_a_bad_command_is_recovered(id: int | str, rest: str) -> None:
    assert refusal(f'{{{rest},"id":{json.dumps(id)}}}'.encode()).id == id


@given(ids)
def test_an_id_comes_back_as_it_was_sent(id: int | str) -> None:
    command = decode(json.dumps({"op": "ping", "id": id}).encode())
    assert json.loads(encode(Pong(id=command.id))) == {"op": "pong", "id": id}


@pytest.mark.parametrize(
    "id", [2**53 + 1, -(2**53) - 1, 2**64, 1.0, 0.5, True, None, [], "x" * 129]
)
def test_what_is_no_id_is_refused_and_not_echoed(id: object) -> None:
    assert refusal(json.dumps({"op": "ping", "id": id}).encode()).id is UNSET


def test_reasons_are_for_people() -> None:
    assert str(refusal(b"[]")) == "a message is a JSON object"
    assert str(refusal(b"{}")) == "the field `op` is missing"
    assert "not a JSON object" in str(refusal(b"{"))
    assert "nested too deeply" in str(refusal(b'{"x":' + b"[" * 100_000))
    assert "known are connect, history" in str(refusal(b'{"op":"dance"}'))
    assert "missing required field `token`" in str(refusal(b'{"op":"refresh"}'))
    assert "out of range" in str(refusal(b'{"op":"ping","id":1e400}'))


def test_an_unknown_op_is_told_apart_from_a_bad_field() -> None:
    assert refusal(b'{"op":"dance"}').unknown_op
    assert not refusal(b'{"op":"connect"}').unknown_op


@pytest.mark.parametrize("data", ["1", '" x "', '{"a" :\t[1 ,2]}', "null", "1.50", '"\\u00e9\\/"'])
def test_the_data_of_a_publication_is_not_touched(data: str) -> None:
    command = decode(f'{{"op":"publish","topic":"a","data": {data} ,"id":1}}'.encode())
    assert isinstance(command, Publish)
    assert bytes(command.data) == data.encode()


def test_a_position_is_the_brokers() -> None:
    assert Since("x8Qz", 17).position == Position("x8Qz", 17)


# Writing

json_data = json_values.filter(lambda value: "NaN" not in json.dumps(value)).map(
    lambda value: json.dumps(value, ensure_ascii=False, indent=1).encode(errors="replace")
)
topics = st.text("AZaz09_-.:/@#=+,", min_size=1, max_size=255)


@given(topics, json_data, st.integers(0, 2**53), st.integers(0, 2**53))
@example("a", b'"\xe2\x80\xa8\xe2\x80\xa9"', 1, 0)
def test_a_message_is_one_line_with_the_data_as_it_is(
    topic: str, given: bytes, ts: int, offset: int
) -> None:
    try:
        data = payload.check(given, 100_000)
    except PayloadError:
        return
    text = written(Publication(topic, data, ts, offset, "epoch"))
    assert b"\n" not in text
    assert b"\r" not in text
    assert text.endswith(b',"data":' + data + b"}")
    expected = {"op": "message", "topic": topic, "ts": ts, "data": json.loads(given)}
    assert json.loads(text) == expected | ({"offset": offset} if offset else {})


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Welcome(client="c", ping_ms=1), '{"op":"welcome","client":"c","ping_ms":1}'),
        (Subscribed(topic="a", offset=0), '{"op":"subscribed","topic":"a","offset":0}'),
        (
            Subscribed(topic="a", recovered=False),
            '{"op":"subscribed","topic":"a","recovered":false}',
        ),
        (Failure(code=Code.INTERNAL, message=""), '{"op":"error","code":"internal","message":""}'),
        (Goodbye(code=1001, reason=""), '{"op":"goodbye","code":1001,"reason":""}'),
        (Pong(id=0), '{"op":"pong","id":0}'),
        (Pong(id=""), '{"op":"pong","id":""}'),
    ],
)
def test_fields_that_are_not_set_are_left_out_and_falsy_ones_are_not(
    answer: AnyAnswer, text: str
) -> None:
    assert encode(answer) == text.encode()


def test_an_answer_is_one_line_whatever_it_holds() -> None:
    page = HistoryPage(
        topic="a", epoch="e", offset=1, messages=[protocol.Entry(1, 2, Raw(b'{"a" : 1}'))]
    )
    assert b'"data":{"a" : 1}' in encode(page)
    assert b"\n" not in encode(Failure(id="\n", code=Code.INTERNAL, message="a\nb\r"))
