"""One topic, many subscribers: Clarion beside a bare loop of sends on the same core.

One publication at a time, so that nothing can be joined, and then batches as fast as they are
carried. README.md says what makes the two comparable.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from statistics import median

from loadtest.carriers import Clarion, Loop, has_compiler
from loadtest.report import Result, Row, percentile, progress
from loadtest.stand import LOW_WATER, Stalled, Stand

WARM_UP = 50
"""Publications before the first measured one: caches, code paths and socket buffers are warm."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--subscribers", type=int, default=1000)
    parser.add_argument("--payload", type=int, default=256, help="bytes of JSON, at least 60")
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken")
    parser.add_argument("--publications", type=int, default=300, help="one at a time, each round")
    parser.add_argument("--batches", type=int, nargs="*", default=[10, 100])
    parser.add_argument("--seconds", type=float, default=2.0, help="of batches, each round")
    parser.add_argument("--in-flight", type=int, default=3, help="batches not yet delivered")


class Cell:
    """What the rounds of one carrier, with one size of batch, came to."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.cpu_us: list[float] = []
        self.busy: list[float] = []
        self.latencies_ns: list[int] = []


def run(args: argparse.Namespace) -> Result:
    result = Result("fanout", vars(args))
    with ExitStack() as stack:
        clarion = stack.enter_context(
            Clarion(args.command, CLARION_KEEPALIVE_PING_S="3600", **args.environment)
        )
        ours = Stand(clarion, args.subscribers, "load")
        stack.callback(ours.close)
        _one_at_a_time(ours, 1, args.payload)
        frame = ours.tails[ours.samples[0]].frame
        stands = [ours]
        for language in ("C", "Python") if has_compiler() else ("Python",):
            loop = stack.enter_context(Loop(language, args.subscribers, frame))
            stands.insert(-1, Stand(loop, args.subscribers, ""))
            stack.callback(stands[-2].close)
        cells: dict[tuple[int, str], Cell] = {}
        try:
            for turn in range(args.rounds + 1):
                for batch in (1, *args.batches):
                    for stand in stands:
                        progress(f"round {turn} of {args.rounds}: {stand.carrier.name}, by {batch}")
                        cell = _measure(stand, batch, args, warm_up=turn == 0)
                        if turn:
                            _add(cells.setdefault((batch, stand.carrier.name), Cell()), cell)
        except Stalled as stalled:
            result.faults.append(str(stalled))
        for stand in stands:
            result.faults += stand.faults()
        request_us = _request_us(ours, args.payload) if not result.faults else float("nan")
    result.rows = [_row(batch, name, cell, cells) for (batch, name), cell in cells.items()]
    result.notes = [
        f"{args.subscribers:,} subscribers, frames of {len(frame)} bytes ({args.payload} of data)",
        f"a publish request alone (no subscriber) costs {request_us:.0f} us of the server's CPU: "
        f"{request_us / args.subscribers:.2f} us of each delivery, one at a time",
        "loss, order, duplicates: every subscriber's bytes compared, "
        f"{len(ours.samples)} of them parsed in full"
        + (" - all well" if not result.faults else ""),
    ]
    if args.batches:
        result.notes.append(
            f"{args.in_flight} batches in flight: the loop sends each as one write, Clarion may"
            " join them, so that it can be ahead"
        )
    if not has_compiler():
        result.notes.append("no C compiler: ratios are to the Python loop")
    for (batch, name), cell in cells.items():
        if max(cell.busy) > 0.85:
            result.notes.append(
                f"{name} by {batch}: the generator was {max(cell.busy):.0%} busy and may have"
                " been the limit; trust the CPU column"
            )
    return result


def _measure(stand: Stand, batch: int, args: argparse.Namespace, *, warm_up: bool) -> Cell:
    for tail in stand.tails.values():
        tail.latencies_ns.clear()
    before, cpu, stand.busy_s = stand.published, stand.cpu_seconds(), 0.0
    began = time.perf_counter()
    if batch == 1:
        spent = _one_at_a_time(stand, WARM_UP if warm_up else args.publications, args.payload)
    else:
        spent = _batches(stand, batch, 0.3 if warm_up else args.seconds, args)
    wall = time.perf_counter() - began
    deliveries = (stand.published - before) * stand.clients
    cell = Cell()
    cell.rates.append(deliveries / spent)
    cell.cpu_us.append((stand.cpu_seconds() - cpu) / deliveries * 1e6)
    cell.busy.append(stand.busy_s / wall)
    if batch > 1:  # one at a time, a sample is read only when all have something to read
        for tail in stand.tails.values():
            cell.latencies_ns += tail.latencies_ns
    return cell


def _one_at_a_time(stand: Stand, publications: int, size: int) -> float:
    """Seconds from a publication to its last delivery, the median, times `publications`."""
    spent = []
    for _ in range(publications):
        began = time.perf_counter()
        stand.publish(1, size)
        spent.append(stand.arrival() - began)
        stand.read(stand.got)
        stand.drain()
    return median(spent) * publications


def _batches(stand: Stand, batch: int, seconds: float, args: argparse.Namespace) -> float:
    """Seconds from the first batch to the last delivery, never more than --in-flight under way."""
    stand.gather(LOW_WATER)
    began = heard = time.perf_counter()
    before = stand.total
    while (now := time.perf_counter()) < began + seconds:
        while stand.can_publish() and stand.backlog() <= (args.in_flight - 1) * batch:
            stand.publish(batch, args.payload)
        stand.turn(0.1)
        if stand.total != before:
            before, heard = stand.total, now
        elif now - heard > 10:
            raise Stalled(f"{stand.carrier.name}: nothing arrives any more")
    while stand.backlog() > 0:
        stand.turn(0.1)  # the samples first: the last batch is on its way to all
    stand.gather(1)
    stand.drain()
    return time.perf_counter() - began


def _request_us(stand: Stand, size: int, requests: int = 300) -> float:
    """CPU of one publish request that nobody receives."""
    assert stand.publisher
    topic, stand.topic, published = stand.topic, "nobody", stand.published
    cpu, answered = stand.cpu_seconds(), stand.publisher.answered
    for number in range(requests):
        stand.publish(1, size)
        while stand.publisher.answered <= answered + number:
            stand.turn(1.0)
    stand.topic, stand.published = topic, published
    return (stand.cpu_seconds() - cpu) / requests * 1e6


def _add(sum_: Cell, cell: Cell) -> None:
    sum_.rates += cell.rates
    sum_.cpu_us += cell.cpu_us
    sum_.busy += cell.busy
    sum_.latencies_ns += cell.latencies_ns


def _row(batch: int, name: str, cell: Cell, cells: dict[tuple[int, str], Cell]) -> Row:
    floor = cells.get((batch, "C loop")) or cells[batch, "Python loop"]
    # Round by round: the noise of a shared machine is slower. The last may be incomplete.
    rates = [a / b for a, b in zip(cell.rates, floor.rates, strict=False)]
    cpu = [b / a for a, b in zip(cell.cpu_us, floor.cpu_us, strict=False)]
    late = [ns / 1e6 for ns in cell.latencies_ns]
    return {
        "": f"{name}, {'one at a time' if batch == 1 else f'batches of {batch}'}",
        "deliveries/s": median(cell.rates),
        "x C": median(rates),
        "CPU us/delivery": round(median(cell.cpu_us), 3).__str__(),
        "C's CPU / ours": median(cpu),
        "p50 ms": percentile(late, 0.50) if late else "",
        "p99 ms": percentile(late, 0.99) if late else "",
        "generator": f"{median(cell.busy):.0%}",
    }
