"""Many clients connect and subscribe at once, as after a deploy or a network's return."""

from __future__ import annotations

import argparse
import time
from statistics import median

from loadtest import machine
from loadtest.arrival import PER_ADDRESS, WELCOMES
from loadtest.carriers import Clarion
from loadtest.crowds import Crowds
from loadtest.report import Result, percentile, progress

SETTLE_S = 2.0
"""Between rounds: the server gets rid of those who left."""

STOPS = ("loop_lag", "gc_pause")
"""What the names of the metrics contain that tell how long the event loop stood still."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=15_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--welcomes",
        type=int,
        default=WELCOMES,
        help="clients that wait for their welcome at once; more than the listen backlog measures"
        " the kernel's retries",
    )
    parser.add_argument("--topics", choices=["one", "own"], default="one", help="own: one each")


def run(args: argparse.Namespace) -> Result:
    result = Result("storm", vars(args))
    rates, costs, shares, lates = [], [], [], []
    with Clarion(args.command, **args.environment) as clarion:
        for turn in range(args.rounds + 1):
            count = args.clients if turn else min(1000, args.clients)  # the first is a warm-up
            progress(f"round {turn} of {args.rounds}: {count:,} clients")
            # Each round from an address of its own: the last one's ports are not free again yet.
            first = turn * -(-args.clients // PER_ADDRESS) * PER_ADDRESS
            with Crowds(
                count, clarion.port, args.topics, first=first, welcomes=args.welcomes
            ) as crowds:
                cpu = machine.cpu_seconds(clarion.pid)
                arrivals = crowds.arrive()
                cpu = machine.cpu_seconds(clarion.pid) - cpu
            time.sleep(SETTLE_S)
            if arrivals.failures:
                result.faults.append(f"round {turn}: {dict(arrivals.failures)}")
            if not turn or not arrivals.latencies:
                continue
            good = len(arrivals.latencies)
            rates.append(good / arrivals.seconds)
            costs.append(cpu / good * 1e6)
            shares.append(arrivals.cpu_s / arrivals.seconds)
            lates.append([seconds * 1000 for seconds in arrivals.latencies])
        stops = clarion.metrics(*STOPS)
    if not rates:
        return result
    result.rows = [
        {
            "": f"{args.clients:,} at once",
            "arrivals/s": median(rates),
            "server CPU us each": median(costs),
            "a second and core": 1e6 / median(costs),
            "p50 ms": median(percentile(late, 0.50) for late in lates),
            "p99 ms": median(percentile(late, 0.99) for late in lates),
            "last ms": median(max(late) for late in lates),
            "generator": f"{median(shares):.0%}",
        }
    ]
    if median(shares) > 0.85:
        result.notes.append("the generator was the limit: trust 'a second and core'")
    longest = {name: value for name, value in stops.items() if name.endswith("_max")}
    for name, value in (longest or stops).items():
        result.notes.append(f"{name} {value:g}")
    if not stops:
        result.notes.append("/metrics has nothing about loop lag or GC pauses")
    return result
