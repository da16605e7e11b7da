"""When memory that windows have left behind is given back."""

from __future__ import annotations

import pytest

from clarion_server.heap import WORTH, Heap, trim


@pytest.mark.parametrize(
    ("windows", "times"),
    [
        ([0, 0, 0], 0),
        ([WORTH - 1, 0, 0], 0),
        ([WORTH, 0, 0, 0], 1),
        ([10 * WORTH, 6 * WORTH, 0, 0], 1),
        ([10 * WORTH, 9 * WORTH, 9 * WORTH], 0),
        ([10 * WORTH, 5 * WORTH, 5 * WORTH, 0], 2),
        ([WORTH, 0, WORTH, 0], 2),
    ],
)
def test_it_is_given_back_when_many_windows_are_gone(windows: list[int], times: int) -> None:
    given: list[int] = []
    heap = Heap(lambda: given.append(1))
    for count in windows:
        heap.look(count)
    assert len(given) == times


def test_what_is_in_use_is_not_given_back() -> None:
    kept = [bytearray(b"x" * 600) for _ in range(10_000)]
    del kept[::2]
    trim()
    assert all(each == b"x" * 600 for each in kept)
