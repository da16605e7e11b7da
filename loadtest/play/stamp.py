"""The stamp that each publication carries: which topic, which number, when it was due.

    {"stamp":"~TTTTTTNNNNNNNNNNDDDDDDDDDDDDDDDDDDD~","pad":"xxx..."}

One string of digits, of constant length. It leaves every JSON encoder as it went in, and it stands
between two marks that occur nowhere else, so that it is found in the bytes of any protocol without
parsing what is around it.
"""

from __future__ import annotations

import re
import time

FIELDS = re.compile(rb"~([0-9]{6})([0-9]{10})([0-9]{19})~")
"""The topic's number, the publication's number in it (from 1), and when it was due (ns)."""

LEAST_BYTES = 58
"""The shortest payload that can carry a stamp."""

clock = time.perf_counter_ns
"""Since the machine was started, the same for all its processes (CLOCK_MONOTONIC)."""


def payload(topic: int, number: int, due_ns: int, size: int) -> str:
    """JSON of exactly `size` bytes, LEAST_BYTES or more."""
    pad = "x" * (size - LEAST_BYTES)
    return f'{{"stamp":"~{topic:06}{number:010}{due_ns:019}~","pad":"{pad}"}}'


def topic_name(number: int) -> str:
    """The name of a topic. The same everywhere: peers allow less in names than Clarion."""
    return f"load{number}"
