"""The check of a payload where it enters; from here on it is spliced as raw bytes.

A payload that one subscriber's parser refuses would cost that subscriber the whole message, so
the strictest parser in common use decides: orjson (UTF-8, no lone surrogates, no numbers beyond
a double, no control characters in strings). The nesting limit leaves room for the envelopes
around `data`: orjson and Python's json both stop near 1,000 levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from clarion_fanout.publication import PayloadError

MAX_DEPTH = 512
"""Levels of arrays and objects in `data`. Half of what the common parsers take."""

AT_ONCE = 65_536
"""Bytes that are checked on the event loop in any case: 6 ms for the worst, which is nothing but
empty arrays; a megabyte of them takes 0.15 s."""

_PARSER_DEPTH = 1024
"""The levels that orjson itself takes; `_too_deep` uses up the difference."""

_SHALLOW_BYTES = 2 * MAX_DEPTH
"""What is not longer is not nested too deep: each level takes two brackets."""


def check(data: bytes, max_bytes: int, *, defer: bool = False) -> bytes:
    """Returns `data` as it may be spliced into a frame: valid JSON on one line.

    defer: of more than `AT_ONCE` only the size is checked. For whoever sees to it that the rest is
        done before it is published, where nobody waits.
    Raises `PayloadError` with the reason. The limit is in bytes of UTF-8.
    """
    size = len(data)
    if size > max_bytes:
        raise PayloadError(f"data has {size} bytes, the limit is {max_bytes}")
    if defer and size > AT_ONCE:
        return data
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise PayloadError(f"data is not valid JSON: {error}") from None
    # Counting brackets bounds the depth from above, and is all that nearly every payload needs.
    deep = size > _SHALLOW_BYTES and data.count(b"[") + data.count(b"{") > MAX_DEPTH
    if deep and _too_deep(data):
        raise PayloadError(f"data is nested deeper than {MAX_DEPTH} levels")
    # In valid JSON a line break can only stand between tokens. SSE ends a field there.
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\n", b" ").replace(b"\r", b" ")
    return data


def are_plain(values: Sequence[bytes], max_bytes: int) -> bool:
    """Whether `check` would return each of them as it is, found out for all at once: with small
    ones that takes a fifth of the time. False says nothing, as when one is longer than a kilobyte.

    values: each is one JSON value as far as its quotes and brackets show, such as what
        `msgspec.Raw` has cut out of a document: no two may be a value together only.
    """
    if not values or max(map(len, values)) > min(max_bytes, _SHALLOW_BYTES):
        return False
    text = b"[%b]" % b",".join(values)
    if b"\n" in text or b"\r" in text:
        return False
    try:
        return len(orjson.loads(text)) == len(values)
    except orjson.JSONDecodeError:
        return False


def _too_deep(data: bytes) -> bool:
    padding = _PARSER_DEPTH - MAX_DEPTH
    try:
        orjson.loads(b"[" * padding + data + b"]" * padding)
    except orjson.JSONDecodeError:
        return True
    return False
