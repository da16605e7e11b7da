"""What waits to be published: in order by topic, bounded, and nobody waits for another topic."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clarion_fanout.backlog import SHARE, Backlog, place
from clarion_fanout.letter import Letter


def letter(number: int, topic: str = "a", data: bytes = b"1") -> Letter:
    return Letter(b"%d-0" % number, topic, data)


def everywhere(_topic: str) -> bool:
    return True


def test_letters_pass_while_nothing_waits() -> None:
    backlog = Backlog()
    letters = [letter(1), letter(2)]
    assert backlog.passed(letters) == letters
    assert backlog.letters == 0
    assert backlog.oldest is None


def test_those_of_a_topic_that_waits_wait_behind_and_others_pass() -> None:
    backlog = Backlog()
    first, second, other = letter(1), letter(2), letter(3, "b")
    backlog.keep(first)
    assert backlog.passed([second, other]) == [other]
    assert backlog.due(everywhere, 10) == [first, second]


def test_topics_that_cannot_be_reached_are_not_due() -> None:
    backlog = Backlog()
    backlog.keep(letter(1))
    backlog.keep(letter(2, "b"))
    assert [each.topic for each in backlog.due(lambda topic: topic == "b", 10)] == ["b"]


def test_what_is_due_stays_until_it_is_done() -> None:
    backlog = Backlog()
    first, second = letter(1), letter(2)
    backlog.keep(first)
    backlog.keep(second)
    backlog.done(first)
    assert backlog.due(everywhere, 10) == [second]
    backlog.done(second)
    assert backlog.letters == 0
    assert backlog.passed([letter(3)]) == [letter(3)]


def test_room_is_bounded_by_number_and_by_bytes() -> None:
    backlog = Backlog(letters=3, data_bytes=10)
    assert backlog.room == 3
    backlog.keep(letter(1))
    assert backlog.room == 2
    large = letter(2, data=b"x" * 20)
    backlog.keep(large)
    assert backlog.room == 0
    backlog.done(letter_of(backlog))
    assert backlog.room == 0
    backlog.done(large)
    assert backlog.room == 3


def letter_of(backlog: Backlog) -> Letter:
    return backlog.due(everywhere, 1)[0]


def test_a_topic_that_fails_for_ever_leaves_room_for_others() -> None:
    backlog = Backlog()
    for number in range(2 * SHARE):
        backlog.keep(letter(number))
    backlog.keep(letter(1000, "b"))
    backlog.keep(letter(1001, "c"))
    due = backlog.due(everywhere, SHARE + 1)
    assert [each.topic for each in due] == ["a"] * SHARE + ["b"]
    backlog.failed("a")
    assert [each.topic for each in backlog.due(everywhere, 3)] == ["b", "c", "a"]


def test_the_oldest_is_found_by_number_and_not_by_text() -> None:
    backlog = Backlog()
    backlog.keep(letter(1000))
    backlog.keep(letter(999, "b"))
    backlog.keep(Letter(b"999-10", "c", b"1"))
    assert backlog.oldest == b"999-0"
    assert place(b"999-10") > place(b"999-9")


class Machine(RuleBasedStateMachine):
    """Letters come, are published or fail; those of a topic are published in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(letters=20, data_bytes=1000)
        self.number = 0
        self.published: dict[str, list[int]] = defaultdict(list)
        self.given: dict[str, list[int]] = defaultdict(list)

    @rule(
        topics=st.lists(st.sampled_from("abc"), max_size=6),
        away=st.sets(st.sampled_from("abc")),
        most=st.integers(0, 6),
    )
    def turn(self, topics: list[str], away: set[str], most: int) -> None:
        """One batch: what is due, and what comes."""
        due = self.backlog.due(everywhere, most)
        fresh: list[Letter] = []
        for topic in topics[: self.backlog.room]:
            self.number += 1
            self.given[topic].append(self.number)
            fresh.append(letter(self.number, topic))
        for number, each in enumerate([*due, *self.backlog.passed(fresh)]):
            if each.topic in away:
                if number >= len(due):
                    self.backlog.keep(each)
            else:
                if number < len(due):
                    self.backlog.done(each)
                self.published[each.topic].append(place(each.entry)[0])
        for topic in {each.topic for each in due} & away:
            self.backlog.failed(topic)

    @invariant()
    def nothing_is_lost_or_out_of_order(self) -> None:
        waiting = sum(len(numbers) for numbers in self.given.values())
        for topic, numbers in self.published.items():
            assert self.given[topic][: len(numbers)] == numbers
            waiting -= len(numbers)
        assert self.backlog.letters == waiting <= 20


TestMachine = Machine.TestCase
