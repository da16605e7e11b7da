"""What an idle, subscribed connection takes, in the server's process and in the kernel."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

from loadtest import machine
from loadtest.carriers import Clarion
from loadtest.crowds import Crowds
from loadtest.report import Result, progress

WARM_UP = 1000
"""Clients that come and go before the first reading: imports, arenas and caches are in place."""

SETTLED_BYTES = 1 << 16
SETTLE_S = 10.0


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=15_000)
    parser.add_argument("--topics", choices=["one", "own"], default="one", help="own: one each")


def run(args: argparse.Namespace) -> Result:
    result = Result("memory", vars(args))
    some = args.clients // 3
    with Clarion(args.command, **args.environment) as clarion:

        @contextmanager
        def crowd(count: int, first: int) -> Iterator[Crowds]:
            progress(f"{count:,} clients")
            with Crowds(count, clarion.port, args.topics, first=first) as clients:
                if failures := clients.arrive().failures:
                    result.faults.append(f"clients failed: {dict(failures)}")
                yield clients

        with crowd(WARM_UP, 0):
            pass
        empty = _settled(clarion.pid)
        with crowd(some, WARM_UP) as early:
            third = _settled(clarion.pid)
            kernel, sockets = machine.kernel_bytes(), machine.socket_bytes()
            with crowd(args.clients - some, WARM_UP + some) as late:
                full = _settled(clarion.pid)
                kernel = machine.kernel_bytes() - kernel
                sockets = machine.socket_bytes() - sockets
                if lost := early.lost() + late.lost():
                    result.faults.append(f"{lost} connections were closed by the server")
        after = _settled(clarion.pid)
    result.rows = [
        {
            "": f"{args.clients:,} idle, {args.topics} topic",
            "bytes each": (full - third) / (args.clients - some),
            "MiB before": empty / 2**20,
            "with a third": third / 2**20,
            "with all": full / 2**20,
            "when they left": after / 2**20,
            "kernel, both ends": kernel / (args.clients - some),
        }
    ]
    result.notes = [
        "process memory is PSS, summed over the server's processes; 'bytes each' is what the last"
        " two thirds added: what the first needed may have been lying about",
        f"buffers of TCP sockets: {sockets / 1024:,.0f} KiB more than with a third",
    ]
    return result


def _settled(pid: int) -> int:
    """PSS, once two readings half a second apart agree, or after a while."""
    deadline = time.monotonic() + SETTLE_S
    time.sleep(1.0)
    last = machine.pss_bytes(pid)
    while time.monotonic() < deadline:
        time.sleep(0.5)
        now = machine.pss_bytes(pid)
        if abs(now - last) < SETTLED_BYTES:
            return now
        last = now
    return last
