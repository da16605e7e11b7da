"""Questions and answers, without anything that carries them."""

from __future__ import annotations

import msgspec
import pytest

from clarion_fanout import inquiry as module
from clarion_fanout.inquiry import Answer, Farewell, Inquiry, Memory, Question, ToAll
from clarion_fanout.roll import WORKERS, Entry

A, B, C = (Entry(name, b"{}") for name in "abc")


# Asking


def test_a_question_is_complete_when_everybody_who_is_there_has_answered() -> None:
    inquiry = Inquiry("q")
    inquiry.expect([A, B])
    inquiry.answered("a", b"1")
    assert inquiry.awaited == ["b"]
    assert not inquiry.complete
    inquiry.answered("b", b"2")
    assert inquiry.complete
    assert inquiry.outcome() == ({"a": b"1", "b": b"2"}, [])


def test_nothing_is_complete_before_it_is_known_who_is_there() -> None:
    inquiry = Inquiry("q")
    inquiry.answered("a", b"1")
    assert not inquiry.complete
    inquiry.expect([A, B])
    assert inquiry.awaited == ["b"]


def test_nobody_to_ask_is_complete() -> None:
    inquiry = Inquiry("q")
    inquiry.expect([])
    assert inquiry.complete


def test_who_does_not_answer_is_named() -> None:
    inquiry = Inquiry("q")
    inquiry.expect([A, B])
    inquiry.answered("a", b"1")
    assert inquiry.outcome() == ({"a": b"1"}, [B])


def test_the_first_answer_counts() -> None:
    inquiry = Inquiry("q")
    inquiry.expect([A])
    assert inquiry.answered("a", b"1")
    assert not inquiry.answered("a", b"2")
    assert not inquiry.answered("a", None)
    assert inquiry.outcome().answers == {"a": b"1"}


def test_who_cannot_answer_is_not_waited_for_but_named() -> None:
    inquiry = Inquiry("q")
    inquiry.expect([A])
    inquiry.answered("a", None)
    inquiry.answered("new", None)
    assert inquiry.complete
    assert inquiry.outcome() == ({}, [A, Entry("new", b"")])


def test_who_is_not_on_the_roll_yet_may_answer() -> None:
    inquiry = Inquiry("q")
    inquiry.expect([A])
    inquiry.answered("new", b"2")
    assert not inquiry.complete
    inquiry.answered("a", b"1")
    assert inquiry.outcome() == ({"new": b"2", "a": b"1"}, [])


@pytest.mark.parametrize("first", [True, False])
def test_who_leaves_is_not_waited_for_nor_missed(first: bool) -> None:
    inquiry = Inquiry("q")
    if first:
        inquiry.left("b")
    inquiry.expect([A, B])
    inquiry.answered("a", b"1")
    inquiry.left("b")
    assert inquiry.complete
    assert inquiry.outcome() == ({"a": b"1"}, [])


def test_who_answers_and_leaves_has_answered() -> None:
    inquiry = Inquiry("q")
    inquiry.expect([A])
    inquiry.answered("a", b"1")
    inquiry.left("a")
    assert inquiry.outcome() == ({"a": b"1"}, [])


def test_answers_are_bounded_in_bytes_and_number() -> None:
    inquiry = Inquiry("q")
    inquiry.expect([A])
    half = bytes(module.ANSWERS_BYTES // 2)
    assert inquiry.answered("x", half)
    assert inquiry.answered("y", half)
    assert not inquiry.answered("a", b"1")
    many = Inquiry("q")
    assert all(many.answered(f"w{number}", b"") for number in range(WORKERS))
    assert not many.answered("one more", None)


# Being asked


def test_a_new_question_is_worked_on_once() -> None:
    memory: Memory[str] = Memory()
    assert memory.take("q", "left") is None
    assert memory.working == 1
    assert "q" in memory
    assert memory.take("q", "right") == b""
    assert memory.take("q", "right") == b""
    assert memory.done("q", b"yes") == ["left", "right"]
    assert memory.working == 0
    assert memory.take("q", "left") == b"yes"


def test_a_long_answer_is_given_anew() -> None:
    memory: Memory[str] = Memory()
    memory.take("q", "left")
    memory.done("q", bytes(module.REPEATED_BYTES + 1))
    assert "q" not in memory
    assert memory.take("q", "left") is None


def test_the_oldest_answers_are_forgotten() -> None:
    memory: Memory[str] = Memory()
    for number in range(module.REMEMBERED + 1):
        memory.take(f"q{number}", "left")
        memory.done(f"q{number}", b"yes")
    assert "q0" not in memory
    assert "q1" in memory
    assert f"q{module.REMEMBERED}" in memory


# The wire


def test_messages_look_as_they_are_described() -> None:
    question = Question(id="6f", worker="a", only=("b",), body=msgspec.Raw(b'{"op":"x"}'))
    assert msgspec.json.encode(question) == (
        b'{"kind":"question","id":"6f","worker":"a","only":["b"],"body":{"op":"x"}}'
    )
    assert msgspec.json.encode(Farewell(worker="a")) == b'{"kind":"farewell","worker":"a"}'
    answer = Answer(id="6f", worker="b", body=msgspec.Raw(b"1"))
    assert msgspec.json.encode(answer) == b'{"id":"6f","worker":"b","body":1}'
    assert msgspec.json.encode(Answer(id="6f", worker="b")) == b'{"id":"6f","worker":"b"}'


def test_fields_of_later_versions_are_ignored() -> None:
    sent = b'{"kind":"farewell","worker":"a","reason":"deploy"}'
    assert msgspec.json.decode(sent, type=ToAll) == Farewell(worker="a")


@pytest.mark.parametrize("name", ["", "a b", "a:b", "{a}", "é", "x" * 65, "a\n"])
def test_names_are_such_that_they_can_stand_in_a_channel(name: str) -> None:
    sent = msgspec.json.encode({"kind": "question", "id": "6f", "worker": name, "body": 1})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(sent, type=ToAll)
