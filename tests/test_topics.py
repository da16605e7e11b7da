"""The grammar of topic names."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_fanout.topics import (
    DEFAULT_NAMESPACE,
    MAX_TOPIC_BYTES,
    is_namespace,
    is_topic,
    namespace_of,
    why_not_a_topic,
)

ALLOWED = string.ascii_letters + string.digits + "_-.:/@#=+,"
topics = st.text(ALLOWED, min_size=1, max_size=MAX_TOPIC_BYTES)


@given(topics)
def test_any_text_of_the_allowed_characters_is_a_topic(name: str) -> None:
    assert is_topic(name)
    assert len(name.encode()) == len(name)


@given(topics)
def test_a_topic_stands_in_json_as_it_is(name: str) -> None:
    assert json.dumps(name) == f'"{name}"'


@given(st.text(ALLOWED, max_size=20), st.characters(exclude_characters=ALLOWED), st.text(ALLOWED))
def test_any_other_character_anywhere_is_refused_and_named(
    before: str, character: str, after: str
) -> None:
    name = before + character + after
    assert not is_topic(name)
    reason = why_not_a_topic(name)
    assert f"place {len(before)} " in reason
    # The name comes from outside: nothing of it may get into a log or a header unescaped.
    assert reason.isascii()
    assert reason.isprintable()


@pytest.mark.parametrize(
    "name", ["", "a" * 256, "a\n", "\na", "a b", "é", "a*", "\ud800", "٣", "\u212a"]
)
def test_no_name_passes_by_a_look_alike_or_a_line_break(name: str) -> None:
    assert not is_topic(name)
    assert why_not_a_topic(name) != why_not_a_topic("a")


def test_length_is_limited() -> None:
    assert is_topic("a" * MAX_TOPIC_BYTES)
    assert "256" in why_not_a_topic("a" * 256)


@given(topics)
def test_the_namespace_is_what_stands_before_the_first_colon(name: str) -> None:
    if ":" in name:
        assert name.startswith(namespace_of(name) + ":")
        assert ":" not in namespace_of(name)
    else:
        assert namespace_of(name) == DEFAULT_NAMESPACE


@given(st.from_regex(r"[A-Za-z0-9_.\-]{1,64}", fullmatch=True), topics)
def test_a_namespace_that_may_be_configured_can_be_reached(name: str, rest: str) -> None:
    assert is_namespace(name)
    topic = f"{name}:{rest}"[:MAX_TOPIC_BYTES]
    assert is_topic(topic)
    assert namespace_of(topic) == name


@pytest.mark.parametrize("name", ["", "a:b", "a b", "a" * 65, "a\n", "é", "a/b"])
def test_other_names_are_no_namespace(name: str) -> None:
    assert not is_namespace(name)
