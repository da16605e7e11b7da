"""A letter: what a backend leaves in the inbox, and what is wrong with one that cannot be sent.

    XADD clarion:inbox * topic <topic> data <json> [id <key>]

Other fields are ignored, up to a number, as other members of a JSON object are over HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from clarion_fanout import payload
from clarion_fanout.publication import PayloadError
from clarion_fanout.topics import is_topic, why_not_a_topic

FIELDS = 16
"""Fields of an entry: five times what we know."""

KEY_CHARACTERS = 128
"""Of `id`, as over HTTP."""

_KNOWN = (b"topic", b"data", b"id")


class Letter(NamedTuple):
    """An entry of the inbox that can be published.

    entry: its id in the stream. key: the idempotency key that it brought.
    """

    entry: bytes
    topic: str
    data: bytes
    key: str | None = None


class Undeliverable(ValueError):
    """An entry cannot be published, now or ever. The text says why, for its author."""


def read(entry: bytes, fields: Sequence[bytes], data_bytes: int) -> Letter:
    """The letter that an entry's names and values are. Raises `Undeliverable`."""
    if len(fields) == 4 and fields[0] == b"topic" and fields[2] == b"data":
        topic, data, key = fields[1], fields[3], None  # as nearly everybody writes it
    else:
        topic, data, key = _picked(fields)
    name = topic.decode("utf-8", "replace")
    if not is_topic(name):
        raise Undeliverable(why_not_a_topic(name))
    try:
        data = payload.check(data, data_bytes)
    except PayloadError as error:
        raise Undeliverable(str(error)) from None
    return Letter(entry, name, data, None if key is None else _key(key))


def _picked(fields: Sequence[bytes]) -> tuple[bytes, bytes, bytes | None]:
    """The values of the fields that we know."""
    if len(fields) > 2 * FIELDS:
        raise Undeliverable(f"{len(fields) // 2} fields, the limit is {FIELDS}")
    found: dict[bytes, bytes] = {}
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if name in found:
            raise Undeliverable(f"{name.decode()} is given twice")
        if name in _KNOWN:
            found[name] = value
    for name in (b"topic", b"data"):
        if name not in found:
            raise Undeliverable(f"{name.decode()} is missing")
    return found[b"topic"], found[b"data"], found.get(b"id")


def _key(value: bytes) -> str:
    try:
        key = value.decode()
    except UnicodeDecodeError:
        raise Undeliverable("id is not valid UTF-8") from None
    if not key:
        raise Undeliverable("id is empty")
    if len(key) > KEY_CHARACTERS:
        raise Undeliverable(f"id has {len(key)} characters, the limit is {KEY_CHARACTERS}")
    return key
