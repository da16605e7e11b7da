"""Grants: the topics that a token's claim lets its bearer subscribe or publish to.

A grant is a topic name, or a pattern in which `*` stands for any run of characters, none
included; nothing else is special. `*` alone is every topic there is.

Patterns come from whoever signs tokens, topics from anyone, so matching must not be able to
explode: a pattern is cut at its stars, and its pieces are looked for from left to right, each
once. The first place where a piece fits is as good as any later one, so there is nothing to try
again. Regular expressions or fnmatch would backtrack.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import cast

import msgspec

from clarion_fanout.topics import MAX_TOPIC_BYTES, is_topic

MAX_PATTERNS = 256
"""In one claim. As many as fit into a token of the default size with 20 characters each."""

MAX_STARS = 8
"""In one pattern: a topic has that many parts at most in practice. Bounds the work of a match."""

_FEW = 8
"""Up to here a scan is as fast as a hash, and a tuple takes 112 bytes where a set takes 728."""


class GrantsError(ValueError):
    """A claim that is not a list of grants. The text says what is wrong, without its content."""


class Grants(msgspec.Struct, frozen=True, gc=False):
    """A set of grants, as one connection holds it. Connections with equal claims share one.

    names: the grants without a star.
    patterns: the others, each cut at its stars: `chat:*` is `("chat:", "")`.

    Not tracked by the garbage collector: there is no way for it to be part of a cycle.
    """

    names: Collection[str] = ()
    patterns: tuple[tuple[str, ...], ...] = ()

    def allows(self, topic: str) -> bool:
        """Whether `topic` is granted. Takes time linear in the size of the grants and the topic."""
        if topic in self.names:
            return True
        for pattern in self.patterns:
            # Nearly every pattern is a prefix; this decides most without a call.
            if topic.startswith(pattern[0]) and _fits(topic, pattern):
                return True
        return False

    @staticmethod
    def parse(claim: object) -> Grants:
        """The grants in a claim: a list of strings, or one string with spaces in between.

        Raises `GrantsError` for anything else, too many or too long grants, and those that no
        topic could ever fit: a typing error in them must not pass for "nothing granted".
        """
        if isinstance(claim, str):
            return _grants(tuple(item for item in claim.split(" ") if item))
        if not isinstance(claim, list | tuple):
            raise GrantsError("must be a list of strings or one string")
        items = cast("Collection[object]", claim)
        if not all(isinstance(item, str) for item in items):
            raise GrantsError("must contain nothing but strings")
        return _grants(tuple(cast("Collection[str]", items)))


EMPTY = Grants()
"""Grants nothing."""


def _fits(topic: str, pattern: tuple[str, ...]) -> bool:
    tail = pattern[-1]
    place, end = len(pattern[0]), len(topic) - len(tail)
    if place > end or not topic.endswith(tail):
        return False
    for piece in pattern[1:-1]:
        found = topic.find(piece, place, end)
        if found < 0:
            return False
        place = found + len(piece)
    return True


# Most installations grant a few sets to all their users: 256 of them, at most 2 MB of claims.
@lru_cache(maxsize=256)
def _grants(items: tuple[str, ...]) -> Grants:
    if not items:
        return EMPTY
    if len(items) > MAX_PATTERNS:
        raise GrantsError(f"has {len(items)} grants, the limit is {MAX_PATTERNS}")
    names: list[str] = []
    patterns: list[tuple[str, ...]] = []
    for place, item in enumerate(dict.fromkeys(items)):
        if not item:
            raise GrantsError("has an empty grant")
        if len(item) > MAX_TOPIC_BYTES:
            raise GrantsError(f"grant {place} is longer than {MAX_TOPIC_BYTES} characters")
        letters = item.replace("*", "")
        if letters and not is_topic(letters):
            raise GrantsError(f"grant {place} has a character that no topic has")
        stars = len(item) - len(letters)
        if stars > MAX_STARS:
            raise GrantsError(f"grant {place} has {stars} stars, the limit is {MAX_STARS}")
        if stars:
            first, *rest = item.split("*")
            *middle, last = rest
            # Two stars in a row are one.
            patterns.append((first, *(piece for piece in middle if piece), last))
        else:
            names.append(item)
    few = len(names) <= _FEW
    return Grants(tuple(names) if few else frozenset(names), tuple(patterns))
