"""A letter: what a backend leaves in the inbox, and what is wrong with one that cannot be sent.

    XADD clarion:inbox * topic <topic> data <json> [id <text>] [key <text>]

Other fields are ignored, up to a number, as other members of a JSON object are over HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from clarion_fanout import payload
from clarion_fanout.conflation import is_key, why_not_a_key
from clarion_fanout.publication import PayloadError
from clarion_fanout.topics import is_topic, why_not_a_topic

FIELDS = 16
"""Fields of an entry: four times what we know."""

ID_CHARACTERS = 128
"""Of `id`, as over HTTP."""

_KNOWN = (b"topic", b"data", b"id", b"key")


class Letter(NamedTuple):
    """An entry of the inbox that can be published.

    entry: its name in the stream. id, key: what it brought; see `Draft`.
    """

    entry: bytes
    topic: str
    data: bytes
    id: str | None = None
    key: str = ""


class Undeliverable(ValueError):
    """An entry cannot be published, now or ever. The text says why, for its author."""


def read(entry: bytes, fields: Sequence[bytes], data_bytes: int, *, defer: bool = False) -> Letter:
    """The letter that an entry's names and values are. defer: see `payload.check`.

    Raises `Undeliverable`.
    """
    if len(fields) == 4 and fields[0] == b"topic" and fields[2] == b"data":
        topic, data, id, key = fields[1], fields[3], None, None  # as nearly everybody writes it
    else:
        topic, data, id, key = _picked(fields)
    name = topic.decode("utf-8", "replace")
    if not is_topic(name):
        raise Undeliverable(why_not_a_topic(name))
    try:
        data = payload.check(data, data_bytes, defer=defer)
    except PayloadError as error:
        raise Undeliverable(str(error)) from None
    return Letter(
        entry, name, data, None if id is None else _id(id), "" if key is None else _key(key)
    )


def checked(letter: Letter) -> Letter:
    """A letter whose check was put off. Raises `Undeliverable`."""
    if len(letter.data) <= payload.AT_ONCE:
        return letter
    try:
        return letter._replace(data=payload.check(letter.data, len(letter.data)))
    except PayloadError as error:
        raise Undeliverable(str(error)) from None


def _picked(fields: Sequence[bytes]) -> tuple[bytes, bytes, bytes | None, bytes | None]:
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
    return found[b"topic"], found[b"data"], found.get(b"id"), found.get(b"key")


def _id(value: bytes) -> str:
    try:
        id = value.decode()
    except UnicodeDecodeError:
        raise Undeliverable("id is not valid UTF-8") from None
    if not id:
        raise Undeliverable("id is empty")
    if len(id) > ID_CHARACTERS:
        raise Undeliverable(f"id has {len(id)} characters, the limit is {ID_CHARACTERS}")
    return id


def _key(value: bytes) -> str:
    key = value.decode("utf-8", "replace")
    if not is_key(key):
        raise Undeliverable(why_not_a_key(key))
    return key
