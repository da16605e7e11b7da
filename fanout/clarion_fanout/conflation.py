"""Conflation keys: what a publication is the news of, within its topic.

A client that is behind needs only the newest price of each share, not all of them. Where the
namespace's policy is `latest`, a newer publication takes the place of one with the same key that
has not gone out yet; those without a key take each other's. The key goes with the publication from
its publisher to every worker, beside the data; subscribers are not sent it, as what it names stands
in the data for whoever wants it.

Not to be confused with a publisher's `id`, by which a repetition is known as one.
"""

from __future__ import annotations

import re

KEY_BYTES = 128
"""As long as an `id`: it names a thing, and does not describe it."""

PATTERN = r"[!-~]"
"""A character of a key: visible ASCII. It stands in payloads and logs, where a space or a line
break would end it."""

_is_key = re.compile(f"{PATTERN}{{1,{KEY_BYTES}}}").fullmatch


def is_key(text: str) -> bool:
    """Whether `text` may be a key."""
    return _is_key(text) is not None


def why_not_a_key(text: str) -> str:
    """What is wrong with a key, for its author."""
    if not text:
        return "key is empty"
    if len(text) > KEY_BYTES:
        return f"key has {len(text)} characters, the limit is {KEY_BYTES}"
    wrong = next(each for each in text if re.fullmatch(PATTERN, each) is None)
    return f"character {wrong!a} is not allowed in a key, which is visible ASCII"


def cut(payload: bytes) -> tuple[str, bytes]:
    """The key that stands before the data, and the data. Raises `ValueError`."""
    name, _, data = payload.partition(b" ")
    key = name.decode("ascii")
    if not is_key(key):
        raise ValueError("not a key")
    return key, data
