"""Which publications leave compressed, and how much of the loop's time that may take.

A publication is compressed once, when the first of its receivers that can read it is served; see
`forms`. It happens on the event loop: a process of the pool would have to be waited for by
everything that follows in the topic. So it is bounded:

    one message   up to `FULL_BYTES` at the level that is configured, up to `MOST_BYTES` at level 1,
                  beyond that not at all: 6 ms for the worst text, a tenth of it for usual JSON
    all of them   `SHARE` of the time. What comes beyond leaves as it is, which is always allowed

Small publications, and those that do not shrink, leave as they are too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from clarion_fanout.topics import DEFAULT_NAMESPACE, namespace_of
from clarion_server import deflate
from clarion_server.counters import Counters
from clarion_server.options import Config
from clarion_server.pipeline.options import Compress

FULL_BYTES = 80 * 1024
"""The largest `data` by default, with its envelope and some room. The worst text for zlib, random
letters of a small alphabet, takes 6 ms of this size at level 6; JSON of records 0.7 ms."""

MOST_BYTES = 256 * 1024
"""At level 1 the worst text takes 6 ms of this size, and JSON of records 1 ms."""

SHARE = 0.5
"""Of the loop's time: whoever publishes faster than we can compress still has the other half."""

BURST_S = 0.004
"""What may be used up at once. With what comes back meanwhile it makes 8 ms of work in one turn of
the loop, and whatever message is the last."""


class Rule(NamedTuple):
    """What a namespace wants. min_bytes: of a message. level: zlib's."""

    min_bytes: int
    level: int


def rules(config: Config) -> Mapping[str, Rule | None]:
    """What each configured namespace wants; empty if none wants anything."""
    wanted: dict[str, Rule | None] = {}
    for name, namespace in config.namespaces.items():
        steps = [step for step in namespace.pipeline if isinstance(step, Compress)]
        wanted[name] = Rule(steps[-1].min_bytes, steps[-1].level) if steps else None
    return wanted if any(wanted.values()) else {}


class Compressor:
    """See the module's text.

    clock: seconds. worked: of which this thread has had a processor, so that a busy machine does
    not count as work of ours.
    """

    def __init__(
        self,
        wanted: Mapping[str, Rule | None],
        counters: Counters,
        clock: Callable[[], float] = time.perf_counter,
        worked: Callable[[], float] = time.thread_time,
    ) -> None:
        self._rules = wanted
        self._counters = counters
        self._clock = clock
        self._worked = worked
        self._left = BURST_S
        self._at = clock()

    def compress(self, topic: str, text: bytes) -> bytes | None:
        """The payload of a compressed message of `topic`; None if it leaves as it is."""
        found = self._rules
        rule = found.get(namespace_of(topic), found.get(DEFAULT_NAMESPACE))
        size = len(text)
        if rule is None or size < rule.min_bytes:
            return None
        counters = self._counters
        if size > MOST_BYTES:
            counters.compressed["too_large"] += 1
            return None
        now = self._clock()
        left = min(BURST_S, self._left + (now - self._at) * SHARE)
        self._at = now
        self._left = left
        if left <= 0:
            counters.compressed["no_time"] += 1
            return None
        began = self._worked()
        payload = deflate.compress(text, rule.level if size <= FULL_BYTES else 1)
        spent = self._worked() - began
        self._left = left - spent
        counters.compress_seconds += spent
        if len(payload) >= size:
            counters.compressed["no_smaller"] += 1
            return None
        counters.compressed["compressed"] += 1
        counters.compressible_bytes += size
        counters.compressed_bytes += len(payload)
        return payload
