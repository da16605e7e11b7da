"""Turns: whose job is next."""

from __future__ import annotations

from clarion_server.pipeline.turns import Turns


def drained(turns: Turns[int]) -> list[int]:
    found = []
    while (job := turns.next()) is not None:
        found.append(job)
    return found


def test_namespaces_are_served_in_turn_and_each_in_order() -> None:
    turns: Turns[int] = Turns()
    for number in range(1, 5):
        turns.put("many", number)
    turns.put("few", 10)
    turns.put("two", 20)
    turns.put("two", 21)
    assert len(turns) == 7
    assert turns.waiting("many") == 4
    assert drained(turns) == [1, 10, 20, 2, 21, 3, 4]
    assert turns.names == []


def test_a_namespace_that_comes_anew_is_behind_those_that_wait() -> None:
    turns: Turns[int] = Turns()
    turns.put("a", 1)
    turns.put("a", 2)
    turns.put("b", 10)
    assert turns.next() == 1
    turns.put("c", 20)
    assert drained(turns) == [10, 2, 20]


def test_a_job_that_is_put_back_is_its_namespaces_next() -> None:
    turns: Turns[int] = Turns()
    for number in (1, 2, 3):
        turns.put("a", number)
    first = turns.next()
    assert first is not None
    turns.put_first("a", first)
    assert turns.peek("a") == 1
    turns.drop_first("a")
    assert list(turns) == [2, 3]
    assert drained(turns) == [2, 3]
    assert turns.peek("a") is None
