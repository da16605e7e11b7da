"""Calls of publish.lua, of which most is packed once for many.

A call has seventeen words, and to name its keys and pack them takes longer than all else that a
publish costs here. But what they say of the topic is always the same, and what they say of the
shard, the time and the history is the same for all drafts that are sent together: only the data
and the epoch are a draft's own.

Calls with an idempotency key or a conflation key have more words, and are packed as any call is.
"""

from __future__ import annotations

from typing import NamedTuple

from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_scripts import PUBLISH

HEADS = 32_768
"""Topics whose words are kept; some 12 MB. Making them takes 3 us."""


class Common(NamedTuple):
    """The words of drafts that are sent together, before and behind the epoch."""

    before: bytes
    behind: bytes


class Packing:
    """See the module's text."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._heads: dict[str, bytes] = {}

    def packed(self, topic: str, data: bytes, epoch: str, common: Common) -> bytes:
        """The call for one draft."""
        head = self._heads.get(topic)
        if head is None:
            if len(self._heads) >= HEADS:
                self._heads.clear()
            head = self._heads[topic] = self._head(topic)
        before, behind = common
        fresh = epoch.encode()
        return b"%b$%d\r\n%b\r\n%b$%d\r\n%b\r\n%b" % (
            head, len(data), data, before, len(fresh), fresh, behind,
        )  # fmt: skip

    @property
    def kept(self) -> int:
        """Topics whose words are kept."""
        return len(self._heads)

    def _head(self, topic: str) -> bytes:
        keys = self._keys
        names = (keys.meta(topic), keys.stream(topic), keys.channel(topic))
        return b"*17\r\n" + words(b"EVALSHA", PUBLISH.sha, 2, *names)


def words(*values: bytes | int) -> bytes:
    """Words of a command, as they go over the wire."""
    texts = [b"%d" % value if isinstance(value, int) else value for value in values]
    return b"".join([b"$%d\r\n%b\r\n" % (len(text), text) for text in texts])
