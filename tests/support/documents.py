"""Documents for steps, and what a step makes of one."""

from __future__ import annotations

from typing import Any

import msgspec

from clarion_server.pipeline.step import Document, Step

LIMIT = 1_000_000


def document(value: object, limit: int = LIMIT) -> Document:
    """`value` as it comes from a publisher."""
    return Document(msgspec.json.encode(value), limit)


def made(step: Step, value: object, limit: int = LIMIT) -> Any:
    """What `step` makes of `value`, read back from what would leave."""
    one = document(value, limit)
    step.run(one)
    return msgspec.json.decode(one.data)


def nested(depth: int) -> Any:
    """An array in an array in ..., `depth` levels."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value
