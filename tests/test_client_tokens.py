"""Where the Python client's tokens come from, and small things of its headers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from clarion_client.retry_after import retry_seconds
from clarion_client.tokens import Tokens

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC).timestamp()


async def test_a_string_is_always_the_token() -> None:
    tokens = Tokens("token", 1)
    assert [await tokens.get(fresh) for fresh in (False, True)] == ["token", "token"]
    assert not tokens.renewable


async def test_without_a_source_there_is_none() -> None:
    assert await Tokens(None, 1).get(False) is None


async def test_a_function_is_asked_when_there_is_none_or_it_is_of_no_use() -> None:
    made: list[str] = []

    def get() -> str:
        made.append(f"token-{len(made)}")
        return made[-1]

    tokens = Tokens(get, 1)
    assert tokens.renewable
    got = [await tokens.get(fresh) for fresh in (False, False, True, False)]
    assert got == ["token-0", "token-0", "token-1", "token-1"]


async def test_a_function_may_be_asynchronous() -> None:
    async def get() -> str:
        return "token"

    assert await Tokens(get, 1).get(False) == "token"


async def test_a_function_that_hangs_has_failed() -> None:
    async def get() -> str:
        await asyncio.sleep(60)
        return "token"

    with pytest.raises(asyncio.TimeoutError):
        await Tokens(get, 0.01).get(False)


async def test_a_token_that_could_not_be_had_leaves_none_behind() -> None:
    answers = ["old", "", "new"]
    tokens = Tokens(lambda: answers.pop(0), 1)
    assert await tokens.get(False) == "old"
    with pytest.raises(ValueError, match="visible ASCII"):
        await tokens.get(True)
    assert await tokens.get(False) == "new"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0),
        ("9" * 400, 999_999_999),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Sat, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_seconds(value, NOW) == seconds
