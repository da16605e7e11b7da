"""The measurement of compression in a short form: everything arrives, and fewer bytes of it."""

from __future__ import annotations

import argparse
import json

from loadtest import compress
from loadtest.carriers import CLARION


def test_all_clients_get_fewer_bytes_of_the_same_documents() -> None:
    args = argparse.Namespace(
        subscribers=[3], level=6, rounds=1, publications=5, command=CLARION, environment={}
    )
    result = compress.run(args)
    assert result.faults == []
    assert len(result.rows) == len(compress.SIZES)
    for row in result.rows:
        off, on = row["bytes off"], row["bytes on"]
        assert isinstance(off, int)
        assert isinstance(on, int)
        assert 0 < on < off * 0.7


def test_documents_are_json_of_the_size_that_was_asked_for() -> None:
    for events in (1, 10):
        found = [json.loads(document) for document in compress.documents(events)]
        assert len(found) >= 30
        assert all((len(one) == events) if events > 1 else one["flight"] for one in found)
