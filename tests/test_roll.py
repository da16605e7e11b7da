"""The roll of workers: the union of what shards say, as long as leases last."""

from __future__ import annotations

import pytest

from clarion_fanout.roll import WORKERS, Entry, Roll

A, B = Entry("a", b'{"pid":1}'), Entry("b", b'{"pid":2}')


def reply(*entries: tuple[Entry, int]) -> list[object]:
    """What a shard says: workers, and the milliseconds that their leases have left."""
    return [part for entry, left in entries for part in (entry.member, left)]


def test_a_worker_is_there_until_its_lease_is_over() -> None:
    roll = Roll("own")
    roll.read(reply((A, 15_000)), 100.0)
    assert roll.others(114.9) == [A]
    assert roll.others(115.1) == []


def test_a_worker_does_not_count_itself() -> None:
    roll = Roll("a")
    roll.read(reply((A, 15_000), (B, 15_000)), 0.0)
    assert roll.others(1.0) == [B]


def test_what_one_shard_does_not_know_another_says() -> None:
    roll = Roll("own")
    roll.read(reply((A, 15_000)), 0.0)
    roll.read(reply((B, 15_000)), 0.0)
    assert roll.others(1.0) == [A, B]


def test_a_shard_that_has_lost_its_data_hides_nobody() -> None:
    roll = Roll("own")
    roll.read(reply((A, 15_000)), 0.0)
    roll.read([], 5.0)
    assert roll.others(14.0) == [A]


def test_the_longest_lease_that_was_seen_counts() -> None:
    roll = Roll("own")
    roll.read(reply((A, 15_000)), 0.0)
    roll.read(reply((A, 2_000)), 0.0)  # a shard on which it could not be renewed
    assert roll.others(10.0) == [A]
    roll.read(reply((A, 15_000)), 10.0)
    assert roll.others(20.0) == [A]


def test_a_worker_that_leaves_is_gone_also_where_its_lease_is_still_found() -> None:
    roll = Roll("own")
    roll.read(reply((A, 15_000), (B, 15_000)), 0.0)
    roll.leaves("a", 1.0, 15.0)
    roll.read(reply((A, 14_000)), 1.5)
    assert roll.others(2.0) == [B]


def test_who_has_left_is_forgotten_when_no_lease_can_be_found_any_more() -> None:
    roll = Roll("own")
    roll.leaves("a", 0.0, 15.0)
    assert roll.others(15.1) == []
    roll.read(reply((A, 1_000)), 16.0)  # ids are not used twice; this shows that none is kept
    assert roll.others(16.5) == [A]


@pytest.mark.parametrize(
    "member", [b"", b" {}", b"a/b {}", b"\xff\xfe {}", b"x" * 65 + b" {}", b"a\n {}"]
)
def test_what_is_no_worker_is_counted_and_left_out(member: bytes) -> None:
    roll = Roll("own")
    roll.read([member, 15_000, A.member, 15_000], 0.0)
    assert roll.others(1.0) == [A]
    assert roll.unreadable == 1


def test_nothing_on_a_roll_stays_for_ever() -> None:
    roll = Roll("own")
    roll.read(reply((A, 10**15)), 0.0)
    roll.read([], 61.0)
    assert roll.others(61.0) == []


def test_no_more_of_those_who_left_are_remembered_than_can_be_there() -> None:
    roll = Roll("own")
    for number in range(WORKERS + 1):
        roll.leaves(f"w{number}", 0.0, 15.0)
    roll.read(reply((Entry("w0", b""), 1_000), (Entry("w1", b""), 1_000)), 0.0)
    assert roll.others(0.5) == [Entry("w0", b"")]


def test_what_a_worker_says_of_itself_may_be_anything() -> None:
    roll = Roll("own")
    odd = Entry("a", b'{"host": "a b"} \xff')
    roll.read(reply((odd, 1_000)), 0.0)
    assert roll.others(0.5) == [odd]


def test_a_roll_that_is_full_says_so() -> None:
    roll = Roll("own")
    roll.read(reply(*((Entry(f"w{number}", b""), 15_000) for number in range(WORKERS - 1))), 0.0)
    assert not roll.full
    roll.read(reply(*((Entry(f"w{number}", b""), 15_000) for number in range(WORKERS))), 0.0)
    assert roll.full
