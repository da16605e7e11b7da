"""What clients may have of the open files."""

from __future__ import annotations

import pytest

from clarion_server import descriptors


@pytest.mark.parametrize(
    ("files", "accepted", "connected"),
    [
        (256, 224, 192),
        (1024, 992, 960),
        (20_000, 19_500, 19_000),
        (1_048_576, 1_048_064, 1_047_552),
        (10, 2, 1),
    ],
)
def test_some_are_kept_back_for_the_server_itself(
    files: int, accepted: int, connected: int
) -> None:
    assert descriptors.shares(files) == (accepted, connected)


def test_the_limit_is_a_number_that_can_be_reckoned_with() -> None:
    descriptors.raise_limit()
    assert 0 < descriptors.limit() <= descriptors.MOST
