"""The send window against a list: order, the bytes that count, and when a client is stuck."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clarion_server.window import Window

MAX_TAKE = 64


class WindowMachine(RuleBasedStateMachine):
    """Frames go in and come out; the model is the list of those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(0)
        self.waiting: list[tuple[bytes, bool]] = []
        self.count = 0

    @rule(size=st.integers(min_value=1, max_value=2 * MAX_TAKE), counts=st.booleans())
    def push(self, size: int, counts: bool) -> None:
        self.count += 1
        frame = b"%d" % self.count + b"." * size
        self.window.push(frame, counts=counts)
        self.waiting.append((frame, counts))

    @rule(size=st.integers(min_value=0, max_value=MAX_TAKE))
    def take(self, size: int) -> None:
        frames = self.window.take(size)
        assert frames == [frame for frame, _ in self.waiting[: len(frames)]]
        assert len(frames) == 1 or sum(map(len, frames)) <= size or not self.waiting
        del self.waiting[: len(frames)]
        # As many as fit, and one at least.
        assert frames or not self.waiting
        if self.waiting:
            assert sum(map(len, frames)) + len(self.waiting[0][0]) > size

    @rule()
    def clear(self) -> None:
        self.window.clear()
        self.waiting.clear()

    @invariant()
    def it_knows_how_much_waits(self) -> None:
        assert len(self.window) == len(self.waiting)
        assert self.window.bytes == sum(len(frame) for frame, counts in self.waiting if counts)


TestWindow = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_replay_that_was_asked_for_does_not_count() -> None:
    window = Window(0)
    window.push(b"history", counts=False)
    window.push(b"news")
    assert window.bytes == len(b"news")
    assert window.take(1000) == [b"history", b"news"]
    assert window.bytes == 0


def test_frames_are_shared_not_copied() -> None:
    frame = b"one for all"
    windows = [Window(0) for _ in range(3)]
    for window in windows:
        window.push(frame)
    assert all(window.take(1)[0] is frame for window in windows)


@pytest.mark.parametrize(("tick", "stuck"), [(10, False), (14, False), (15, True), (99, True)])
def test_a_client_is_stuck_when_no_byte_moved_for_the_limit(tick: int, stuck: bool) -> None:
    window = Window(5)
    assert window.stuck(tick, moved=0, limit=10) is stuck


def test_every_byte_that_moves_begins_the_time_anew() -> None:
    window = Window(0)
    assert not window.stuck(9, moved=1000, limit=10)
    assert not window.stuck(18, moved=999, limit=10)
    assert not window.stuck(27, moved=999, limit=10)
    assert window.stuck(28, moved=999, limit=10)
