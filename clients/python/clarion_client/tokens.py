"""Where tokens come from: a string, or a callback of the program."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias

TokenSource: TypeAlias = str | Callable[[], str | Awaitable[str]] | None
"""A token, or what gets one when it is called; None: anonymous."""


class Tokens:
    """Gets tokens, and keeps the last one for as long as nothing speaks against it.

    limit_s: a callback that takes longer has failed.
    """

    def __init__(self, source: TokenSource, limit_s: float) -> None:
        self._source = source
        self._limit_s = limit_s
        self._kept: str | None = None
        if source is not None and not callable(source):
            check_token(source)

    @property
    def renewable(self) -> bool:
        """Whether asking again may bring another token."""
        return callable(self._source)

    async def get(self, fresh: bool) -> str | None:
        """The token to connect with. fresh: the kept one is of no use any more.

        Raises what the callback raises, and `TimeoutError`.
        """
        if not callable(self._source):
            return self._source
        if fresh or self._kept is None:
            self._kept = None
            made = self._source()
            if inspect.isawaitable(made):
                made = await asyncio.wait_for(made, self._limit_s)
            self._kept = check_token(made)
        return self._kept


def check_token(token: object) -> str:
    """A token as it can stand in a header. What is wrong is said without showing it."""
    if not isinstance(token, str):
        raise TypeError(f"a token is a string, not {type(token).__name__}")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("a token consists of visible ASCII characters, and has at least one")
    return token
