"""Commands and their answers, over connections that come and go."""

from __future__ import annotations

from clarion_client.calls import Calls


def test_each_is_sent_once_a_connection_and_in_order() -> None:
    calls = Calls()
    calls.add(1, "one", reads=True)
    calls.add(2, "two", reads=False)
    assert calls.to_send() == ["one", "two"]
    assert calls.to_send() == []
    calls.add(3, "three", reads=True)
    assert calls.to_send() == ["three"]


def test_what_changes_something_ends_with_its_connection_once_it_was_sent() -> None:
    calls = Calls()
    calls.add(1, "asks", reads=True)
    calls.add(2, "changes", reads=False)
    calls.to_send()
    calls.add(3, "changes, later", reads=False)
    assert calls.cut() == [2]
    assert calls.to_send() == ["asks", "changes, later"]


def test_an_end_says_whether_it_was_sent() -> None:
    calls = Calls()
    calls.add(1, "one", reads=True)
    assert calls.end(1) is False
    calls.add(2, "two", reads=True)
    calls.to_send()
    assert 2 in calls
    assert calls.end(2) is True
    assert calls.end(2) is False
    assert 2 not in calls


def test_the_end_of_all_names_all() -> None:
    calls = Calls()
    for id in (1, 2):
        calls.add(id, "text", reads=True)
    assert calls.end_all() == [1, 2]
    assert len(calls) == 0
