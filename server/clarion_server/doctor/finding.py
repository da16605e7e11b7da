"""What a check says, and what it measures against."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

State: TypeAlias = Literal["ok", "warn", "bad", "unknown"]
"""ok: nothing to do. warn: it works, and will not on a bad day. bad: it does not work, or a promise
does not hold. unknown: this system does not say, or we may not ask."""


class Finding(NamedTuple):
    """The outcome of one check.

    found, wanted: the values, for people; `wanted` may be empty where anything will do.
    why: what happens otherwise; a sentence.
    change: the command or the line of configuration that changes it. Never contains a secret.
    """

    name: str
    state: State
    found: str
    wanted: str = ""
    why: str = ""
    change: str = ""


def ok(name: str, found: str, wanted: str = "") -> Finding:
    return Finding(name, "ok", found, wanted)


def warn(name: str, found: str, wanted: str, why: str, change: str) -> Finding:
    return Finding(name, "warn", found, wanted, why, change)


def bad(name: str, found: str, wanted: str, why: str, change: str) -> Finding:
    return Finding(name, "bad", found, wanted, why, change)


def unknown(name: str, why: str) -> Finding:
    return Finding(name, "unknown", "cannot be read", "", why)


class Plan(NamedTuple):
    """What the server is to do here.

    connections: of clients, at once, over all workers.
    ports: the public and the private one; 0 for any.
    prefix: of all names in Redis.
    history_bytes: what the embedded broker's histories may take; 0 with Redis.
    timeout_s: how long a shard may take to answer.
    """

    connections: int
    workers: int = 1
    ports: tuple[int, ...] = (8000, 8001)
    prefix: str = "clarion"
    history_bytes: int = 0
    timeout_s: float = 2.0


def size(count: float) -> str:
    """Bytes for people: `1.5 GiB`."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
