"""Grants: what a claim grants, what it may not look like, and that no topic takes long to match."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_server.auth.grants import EMPTY, MAX_PATTERNS, MAX_STARS, Grants, GrantsError


@pytest.mark.parametrize(
    ("grant", "topic"),
    [
        ("orders:42", "orders:42"),
        ("*", "anything"),
        ("chat:*", "chat:1"),
        ("chat:*", "chat:"),
        ("*:status", "orders:status"),
        ("a*b*c", "abc"),
        ("a*b*c", "aXbYbZc"),
        ("a**c", "abc"),
        ("*a*", "bab"),
        ("a.c", "a.c"),
    ],
)
def test_a_star_is_any_run_of_characters(grant: str, topic: str) -> None:
    assert Grants.parse([grant]).allows(topic)


@pytest.mark.parametrize(
    ("grant", "topic"),
    [
        ("orders:42", "orders:421"),
        ("orders:42", "Orders:42"),
        ("chat:*", "chat"),
        ("chat:*", "xchat:1"),
        ("ab*ba", "aba"),
        ("a*b*b", "ab"),
        ("a*bc*c", "abc"),
        ("a.c", "abc"),
        ("a+", "aa"),
        ("*a", "ab"),
    ],
)
def test_nothing_but_the_star_is_special(grant: str, topic: str) -> None:
    assert not Grants.parse([grant]).allows(topic)


_WORDS = st.text("ab:*", min_size=1, max_size=12).filter(lambda word: word.count("*") <= MAX_STARS)


@given(st.lists(_WORDS, min_size=1, max_size=12), st.text("ab:", min_size=1, max_size=12))
def test_grants_allow_what_the_same_regular_expressions_match(words: list[str], topic: str) -> None:
    def matches(word: str) -> bool:
        return re.fullmatch(".*".join(map(re.escape, word.split("*"))), topic) is not None

    assert Grants.parse(words).allows(topic) == any(map(matches, words))


def test_a_string_is_split_at_its_spaces() -> None:
    assert Grants.parse("a  b:* ") == Grants.parse(["a", "b:*"])


@pytest.mark.parametrize("claim", ["", " ", []])
def test_an_empty_claim_grants_nothing_and_takes_no_memory(claim: object) -> None:
    assert Grants.parse(claim) is EMPTY
    assert not EMPTY.allows("a")


def test_equal_claims_share_one_object() -> None:
    assert Grants.parse(["chat:*", "news"]) is Grants.parse(["chat:*", "news"])


def test_many_names_are_found_like_few() -> None:
    names = [f"orders:{number}" for number in range(MAX_PATTERNS)]
    grants = Grants.parse(names)
    assert all(map(grants.allows, names))
    assert not grants.allows("orders:256")


@pytest.mark.parametrize(
    ("claim", "complaint"),
    [
        (None, "list of strings"),
        (True, "list of strings"),
        (7, "list of strings"),
        ({"a": 1}, "list of strings"),
        (["a", 7], "nothing but strings"),
        (["a", ["b"]], "nothing but strings"),
        (["a", ""], "empty grant"),
        (["a b"], "character that no topic has"),
        ("a\nb", "character that no topic has"),
        (["chat:?"], "character that no topic has"),
        (["caf\u00e9"], "character that no topic has"),
        (["a" * 256], "longer than 255"),
        (["*a" * (MAX_STARS + 1)], "stars"),
        ([f"t{number}" for number in range(MAX_PATTERNS + 1)], "257 grants"),
    ],
)
def test_what_is_not_a_list_of_grants_is_refused_with_the_reason(
    claim: object, complaint: str
) -> None:
    with pytest.raises(GrantsError, match=complaint):
        Grants.parse(claim)


def test_attack_patterns_that_make_a_regular_expression_explode_are_matched_in_no_time() -> None:
    patterns = ["*a" * MAX_STARS + "b" + "a" * number for number in range(100)]
    grants = Grants.parse(patterns)
    start = time.process_time()
    for _ in range(10):
        assert not grants.allows("a" * 255)
    # 1,000 matches; about 2 ms. One of them would take fnmatch longer than this test may.
    assert time.process_time() - start < 0.5
