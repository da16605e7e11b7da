"""One topic, very many subscribers, few publications: how long until the last one is served."""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from statistics import median

from loadtest.carriers import Clarion, Loop, has_compiler
from loadtest.report import Result, percentile, progress
from loadtest.stand import Stand

LATE_S = 0.010
"""A publication that is sent later than this has waited for the one before."""

SHOWN = {"p50": 0.50, "p99": 0.99}

SHARES = 5
"""After each publication one share of the subscribers is read: reading all of them would take
half of the time between two."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subscribers", type=int, default=10_000)
    parser.add_argument("--payload", type=int, default=256, help="bytes of JSON, at least 60")
    parser.add_argument("--rate", type=float, default=10.0, help="publications a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3, help="each: the C loop, then Clarion")


def run(args: argparse.Namespace) -> Result:
    result = Result("wide", vars(args))
    language = "C" if has_compiler() else "Python"
    frame, served = _round(args, result, None, subscribers=10, seconds=0.5)
    spans: dict[str, list[list[float]]] = {f"{language} loop": [], "clarion": []}
    for turn in range(1, args.rounds + 1):
        for name, rounds in spans.items():
            progress(f"round {turn} of {args.rounds}: {name}")
            loop = None if name == "clarion" else language
            _, served = _round(
                args, result, loop, frame, subscribers=args.subscribers, seconds=args.seconds
            )
            rounds.append(served)
    for name, rounds in spans.items():
        result.rows.append(
            {"": f"{name}, {args.subscribers:,} subscribers, {args.rate:g} a second"}
            | {f"{label} ms": _median(rounds, share) for label, share in SHOWN.items()}
            | {f"{label} x C": _ratio(rounds, spans, share) for label, share in SHOWN.items()}
        )
    result.notes.insert(0, "from when a publication is due until its last subscriber has it")
    return result


def _median(rounds: list[list[float]], share: float) -> float:
    return median(percentile(served, share) for served in rounds)


def _ratio(rounds: list[list[float]], spans: dict[str, list[list[float]]], share: float) -> float:
    floor = next(iter(spans.values()))
    pairs = zip(rounds, floor, strict=True)
    return median(percentile(ours, share) / percentile(theirs, share) for ours, theirs in pairs)


def _round(
    args: argparse.Namespace,
    result: Result,
    language: str | None,
    frame: bytes = b"",
    *,
    subscribers: int,
    seconds: float,
) -> tuple[bytes, list[float]]:
    """A frame as it was sent, and for each publication the ms until the last one had it."""
    with ExitStack() as stack:
        carrier: Clarion | Loop
        if language:
            carrier = stack.enter_context(Loop(language, subscribers, frame))
        else:
            carrier = stack.enter_context(
                Clarion(args.command, CLARION_KEEPALIVE_PING_S="3600", **args.environment)
            )
        stand = Stand(carrier, subscribers, "load")
        stack.callback(stand.close)
        late, served = _pace(stand, args, seconds)
        result.faults += stand.faults()
        if late:
            result.notes.append(
                f"{carrier.name}: {late} of {len(served)} publications waited for the one before:"
                " the machine is too slow, or too busy, for this --rate"
            )
        return next((tail.frame for tail in stand.tails.values()), frame), served


def _pace(stand: Stand, args: argparse.Namespace, seconds: float) -> tuple[int, list[float]]:
    """How many were sent late; and for each, ms from when it was due until the last one had it."""
    subscribers, late, served = list(stand.got), 0, []
    began = time.perf_counter() + 0.1
    for number in range(int(args.rate * seconds)):
        due = began + number / args.rate
        time.sleep(max(0.0, due - time.perf_counter()))
        stand.glance()
        late += time.perf_counter() - due > LATE_S
        stand.publish(1, args.payload)
        served.append((stand.arrival() - due) * 1000)
        stand.read(subscribers[number % SHARES :: SHARES])
    stand.read(subscribers)
    stand.drain()
    return late, served
