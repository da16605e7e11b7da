"""Which Redis shard a topic belongs to: rendezvous hashing, as the server does it.

Each shard gets a number for the topic, and the highest wins: the first eight bytes, big-endian, of
SHA-1(name of the shard + line feed + topic). A shard that is added or removed moves only the
topics that it wins or had.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def ranking(names: Sequence[str], topic: str) -> list[int]:
    """The indexes of the shards, the topic's own first."""

    def number(index: int) -> bytes:
        text = f"{names[index]}\n{topic}".encode()
        # Bytes compare as big-endian numbers do.
        return hashlib.sha1(text, usedforsecurity=False).digest()[:8]

    return sorted(range(len(names)), key=number, reverse=True)
