"""The catalogue of ends and errors: its rule, and the tables that client authors read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from clarion_server import codes
from clarion_server.codes import Close, Code, come_back

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "clients/PROTOCOL.md").read_text()
CLOSES = json.loads((ROOT / "tests/vectors/closes.json").read_text())
CATALOGUE = [value for value in vars(codes).values() if isinstance(value, Close)]


def section(title: str) -> str:
    """A section of the page for client authors."""
    return PROTOCOL.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows() -> dict[int, tuple[str, str]]:
    """The page's table of close codes: what each means, and whether to come back."""
    found = re.findall(r"^\| (\d{4}) \| (.*) \| (.*) \|$", section("Ends of a connection"), re.M)
    return {int(code): (meaning, back) for code, meaning, back in found}


@pytest.mark.parametrize("example", CLOSES, ids=lambda example: f"{example['code']}")
def test_the_rule_decides_as_the_examples_say(example: dict[str, object]) -> None:
    code = example["code"]
    assert isinstance(code, int)
    assert come_back(code) is example["come_back"]


def test_there_is_an_example_for_every_close() -> None:
    assert {close.code for close in CATALOGUE} <= {example["code"] for example in CLOSES}


def test_no_two_closes_share_a_code() -> None:
    assert len({close.code for close in CATALOGUE}) == len(CATALOGUE)


def test_every_code_is_one_that_an_endpoint_may_send() -> None:
    """RFC 6455, section 7.4: 1005, 1006 and 1015 never stand in a frame; 4000-4999 are ours."""
    for close in CATALOGUE:
        assert close.code in {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011} or (
            4000 <= close.code <= 4999
        )
        assert len(close.reason.encode()) <= 123


def test_the_page_for_client_authors_has_the_same_closes() -> None:
    table = rows()
    assert {close.code for close in CATALOGUE} <= set(table)
    for code, (_, back) in table.items():
        assert come_back(code) is not back.startswith("no"), code
    for close in CATALOGUE:
        if close.code >= 4000:
            assert table[close.code][0].startswith(close.reason)


def test_the_page_for_client_authors_has_the_same_errors() -> None:
    named = set(re.findall(r"`([a-z_]+)`", section("Errors")))
    fields = {"message", "code", "retry_ms", "data"}
    assert named - fields == {str(code) for code in Code}
