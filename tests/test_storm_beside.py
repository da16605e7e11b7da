"""The storm beside connected clients, in small: everybody finds a place, and nothing is lost."""

from __future__ import annotations

import argparse

from loadtest import storm_beside
from loadtest.carriers import CLARION


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    storm_beside.options(parser)
    args = parser.parse_args(
        ["--clients", "30", "--newcomers", "120", "--rounds", "1", "--seconds", "0.5", *words]
    )
    return argparse.Namespace(**vars(args), command=CLARION, environment={})


def test_all_newcomers_find_a_place_and_no_delivery_is_missing() -> None:
    args = options()
    args.environment = {
        "CLARION_ADMISSION_HANDSHAKES_PER_S": "100",
        "CLARION_ADMISSION_HANDSHAKE_BURST": "40",
        "CLARION_ADMISSION_QUEUE": "60",
    }
    result = storm_beside.run(args)
    assert result.faults == []
    assert [row[""] for row in result.rows] == ["nobody comes", "the storm"]
    # 30 were in before, so that the burst is used up, and the queue does not take the rest.
    assert any("503" in note for note in result.notes)
