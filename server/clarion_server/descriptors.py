"""Open files: how many this process may have, and what is kept back of them.

A connection is a descriptor. When none are left, a worker cannot reach Redis any more, nor be
asked for its metrics, so clients get less than all.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import NamedTuple

MOST = 1_048_576
"""More are not asked for. It is Linux's own bound (fs.nr_open); some containers have a billion."""


class Shares(NamedTuple):
    """What clients may have of the open files.

    accepted: connections at the public port, whatever becomes of them.
    connected: those of clients that were let in. Fewer, so that others can be told to go.
    """

    accepted: int
    connected: int


def raise_limit() -> None:
    """Asks for as many open files as the system allows.

    The soft limit is low for programs that call select(2), which we do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS: no more than kern.maxfilesperproc
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def limit() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else min(soft, MOST)


def shares(files: int) -> Shares:
    """What clients may have of `files`.

    Kept back are a twentieth, 64 at least and 1,024 at most, half of it for newcomers who are told
    that there is no room: connections to Redis are some ten a shard, those of backends hundreds.
    """
    reserve = min(1024, max(64, files // 20))
    return Shares(max(files - reserve // 2, 2), max(files - reserve, 1))
