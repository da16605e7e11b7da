"""How a worker is known to the others."""

from __future__ import annotations

import os

import msgspec
import pytest

from clarion_fanout.roll import Entry
from clarion_server import __version__, controls
from clarion_server.fleet import read_badge


def test_a_badge_says_which_process_it_is_and_can_be_read_from_the_roll() -> None:
    badge = controls.badge("i1-3-abc", "i1", 3)
    assert (badge.id, badge.instance, badge.worker) == ("i1-3-abc", "i1", 3)
    assert (badge.pid, badge.version) == (os.getpid(), __version__)
    assert read_badge(Entry(badge.id, msgspec.json.encode(badge))) == badge


@pytest.mark.parametrize(
    ("instance", "number", "replaced"), [("i1", 3, True), ("i1", 2, False), ("i2", 3, False)]
)
def test_a_worker_replaces_the_one_that_had_its_number_in_its_server(
    instance: str, number: int, replaced: bool
) -> None:
    own = controls.badge("i1-3-abc", "i1", 3)
    other = controls.badge("other", instance, number)
    assert controls.replaces(own, Entry("other", msgspec.json.encode(other))) is replaced


@pytest.mark.parametrize("about", [b"", b"{}", b"\xff"])
def test_a_worker_replaces_nobody_whom_it_cannot_read(about: bytes) -> None:
    own = controls.badge("i1-3-abc", "i1", 3)
    assert not controls.replaces(own, Entry("other", about))
