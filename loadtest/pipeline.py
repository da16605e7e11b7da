"""Steps that take seconds of a processor beside publications that should not notice.

Two namespaces publish at a fixed rate, one without steps and one whose steps are small; alone at
first, and then beside one that has its steps busy all the time. The server and its processes have
one core together: what the steps take they take from the loop, as far as it lets them.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from statistics import median

from loadtest.carriers import Clarion
from loadtest.crowd import Crowd
from loadtest.publisher import Publisher
from loadtest.report import Result, percentile, progress
from loadtest.tail import Tail, payload

CONFIG = """
development = true
[pipeline]
processes = {processes}
deadline_s = {deadline:g}
wait_s = 600
[namespaces.plain]
subscribe = "everyone"
[namespaces.small]
subscribe = "everyone"
[[namespaces.small.pipeline]]
step = "redact"
fields = ["secret"]
[namespaces.slow]
[[namespaces.slow.pipeline]]
step = "python"
function = "slow_steps:work"
"""

STEPS = """
import time
def work(data):
    end = time.process_time() + data
    while time.process_time() < end:
        pass
    return data
"""

KINDS = ("plain", "small")

LAG_MS = 20.0
"""What the event loop's lag may be in 99 of 100 looks."""

RATIO = 1.5
"""What the others' p99 may be, beside busy steps, times what it is alone."""

CONNECTIONS = 1
"""Of the publisher of each kind: requests over several have no order."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rate", type=float, default=100.0, help="publications a second, each")
    parser.add_argument("--payload", type=int, default=256, help="bytes of JSON, at least 60")
    parser.add_argument("--seconds", type=float, default=10.0, help="alone, and beside")
    parser.add_argument("--work", type=float, default=2.0, help="CPU seconds of a slow step")
    parser.add_argument("--jobs", type=int, default=6, help="of these that are on their way")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)


def run(args: argparse.Namespace) -> Result:
    result = Result("pipeline", vars(args))
    ratios: dict[str, list[float]] = {kind: [] for kind in KINDS}
    rows: dict[str, list[dict[str, float]]] = {"alone": [], "beside busy steps": []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clarion.toml"
        deadline = 20 * args.work * max(args.processes, 1)
        file.write_text(CONFIG.format(processes=args.processes, deadline=deadline))
        (Path(folder) / "slow_steps.py").write_text(STEPS)
        for turn in range(1, args.rounds + 1):
            with Clarion(f"{args.command} --config {file}", **args.environment) as clarion:
                for name, taken in rows.items():
                    progress(f"round {turn} of {args.rounds}: {name}")
                    taken.append(_measured(args, result, clarion, slow=name != "alone"))
            alone, beside = (taken[-1] for taken in rows.values())
            for kind in KINDS:
                ratios[kind].append(beside[f"{kind} p99 ms"] / alone[f"{kind} p99 ms"])
    for name, taken in rows.items():
        result.rows.append(
            {"": name} | {key: median(row[key] for row in taken) for key in taken[0]}
        )
    for kind, found in ratios.items():
        text = f"{kind}: p99 is {median(found):.2f} times that of the run alone"
        (result.notes if median(found) <= RATIO else result.faults).append(text)
    worst = median(row["lag p99 ms"] for row in rows["beside busy steps"])
    if worst > LAG_MS:
        result.faults.append(f"the loop's lag is up to {worst:.1f} ms in 99 of 100 looks")
    result.notes += [
        "p50, p99: from the request to a subscriber",
        "lag p99: estimated from clarion_event_loop_lag_seconds",
        f"slow: publications done a second whose step takes {args.work:g} s of a processor, in"
        f" {args.processes} processes on the server's core",
    ]
    return result


def _measured(
    args: argparse.Namespace, result: Result, clarion: Clarion, *, slow: bool
) -> dict[str, float]:
    crowd = Crowd()
    publishers = {
        kind: Publisher(crowd.epoll, clarion.api_port, CONNECTIONS, "/v1/publish") for kind in KINDS
    }
    busy = Publisher(crowd.epoll, clarion.api_port, args.jobs if slow else 0, "/v1/publish")
    tails = {kind: Tail() for kind in KINDS}
    try:
        arrivals = crowd.arrive(2, clarion.port, lambda place: f"{KINDS[place]}:1", window=2)
        if arrivals.failures:
            raise SystemExit(f"clients failed: {dict(arrivals.failures)}")
        whose = dict(zip(crowd.sockets, KINDS, strict=True))
        before = clarion.metrics("event_loop_lag_seconds_bucket")
        count = int(args.rate * args.seconds)
        sent = dict.fromkeys(KINDS, 0)
        topics = 0
        began = time.perf_counter() + 0.1
        while any(len(tail.numbers) < count for tail in tails.values()):
            now = time.perf_counter()
            for place, kind in enumerate(KINDS):
                due = began + (sent[kind] + place / 2) / args.rate
                if sent[kind] < count and now >= due and publishers[kind].idle:
                    sent[kind] += 1
                    data = payload(sent[kind], args.payload, int(due * 1e9))
                    publishers[kind].post(f'{{"topic":"{kind}:1","data":{data}}}'.encode())
            while busy.idle and now < began + args.seconds:
                topics += 1
                busy.post(json.dumps({"topic": f"slow:{topics}", "data": args.work}).encode())
            for ready, _ in crowd.epoll.poll(0.0005, 64):
                if ready in whose:
                    data_read = crowd.sockets[ready].recv(1 << 18)
                    tails[whose[ready]].take(data_read, time.perf_counter_ns())
                for publisher in (*publishers.values(), busy):
                    if publisher.owns(ready):
                        publisher.read(ready)
            if now > began + 3 * args.seconds + 30:
                break
        lag = _lag_ms(before, clarion.metrics("event_loop_lag_seconds_bucket"))
        for kind in KINDS:
            result.faults += tails[kind].faults(1, count)
            result.faults += publishers[kind].errors[:3]
        result.faults += busy.errors[:3]
        taken = time.perf_counter() - began
    finally:
        for publisher in (*publishers.values(), busy):
            publisher.close()
        crowd.close()
    row = {}
    for kind in KINDS:
        latencies = [each / 1e6 for each in tails[kind].latencies_ns]
        row[f"{kind} p50 ms"] = percentile(latencies, 0.5)
        row[f"{kind} p99 ms"] = percentile(latencies, 0.99)
    return row | {"lag p99 ms": lag, "slow": busy.answered / taken}


def _lag_ms(before: dict[str, float], after: dict[str, float]) -> float:
    """What 99 of 100 looks did not exceed, as far as the histogram tells: as if what is in a bucket
    were spread over it evenly."""
    counts: dict[float, float] = {}
    for name, value in after.items():
        label = name.partition('le="')[2].partition('"')[0]
        seconds = math.inf if label == "+Inf" else float(label)
        counts[seconds] = counts.get(seconds, 0.0) + value - before.get(name, 0.0)
    wanted = 0.99 * max(counts.values(), default=0.0)
    lower, below = 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if count >= wanted:
            inside = count - below
            return 1000 * (lower + (bound - lower) * ((wanted - below) / inside if inside else 0))
        lower, below = bound, count
    return math.nan
