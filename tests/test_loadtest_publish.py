"""The probe of publishing: all is answered, and its table has what the targets look for."""

from __future__ import annotations

from argparse import ArgumentParser

from loadtest import publish
from loadtest.carriers import CLARION
from loadtest.page import goals


def test_every_request_is_answered_and_the_targets_find_their_rows() -> None:
    parser = ArgumentParser()
    publish.options(parser)
    args = parser.parse_args(["--seconds", "0.2", "--rounds", "1"])
    args.command, args.environment = CLARION, {}
    result = publish.run(args)
    assert result.faults == []
    document = {"probes": {"publish": {"rows": result.rows}}, "scenarios": []}
    wanted = [goal for goal in goals.load()[1] if goal.probe == "publish"]
    assert len(wanted) == 4
    assert all((goal.measured(document) or 0.0) > 0 for goal in wanted)
