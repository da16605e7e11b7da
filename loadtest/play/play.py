"""One plan, once, against one server: puts everybody in place, lets the phases pass, and counts.

listeners   processes, each with its share of the clients      listeners.py
backend     a process that publishes when something is due     backend.py
here        the clock of the phases; reads every second what the server has used
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

from loadtest import machine
from loadtest.play.backend import Backend, Output, publish
from loadtest.play.histogram import Histogram
from loadtest.play.listeners import Listeners, Report, listen
from loadtest.play.plan import Phase, Plan
from loadtest.play.stamp import clock
from loadtest.play.stops import longest
from loadtest.play.target import Target
from loadtest.report import progress

PER_PROCESS = 15_000
"""Clients in one process: 20,000 open files are a common limit."""

FIRST_SHARE = 0.34
"""Of the clients: memory for each is what the others add, as the first live in what was there."""

STALL_S = 10.0
"""When nothing arrives for so long after the last publication, what is missing is lost. Longer
than Clarion takes to find a dead shard, and longer than any client's pause."""

FOR_MEMORY = 5000
"""Clients at least: below, what each takes is lost in what the process allocates anyway."""

SETTLE_S = 1.0
ARRIVE_S = 180.0
CARRIED = 0.97
"""Of what should have arrived: a phase with less has fallen behind, and not only at its ends."""

FULL = 0.85
"""The share of the generator's cores beyond which it was, or may have been, the limit."""

LOOK_S = 1.0
ROWS = 600
"""Of the timeline, at most: a plot has no more pixels."""

LONGEST_STOP_S = 10.0
"""Shown for stops beyond the last bucket."""


@dataclass
class Stage:
    """A phase, as it went."""

    phase: Phase
    began: float
    seconds: float = 0.0
    published: int = 0
    deliveries: int = 0
    in_time: int = 0
    """Deliveries before the phase was over: what its CPU time and seconds were spent on."""
    cpu_s: float = 0.0
    generator: float = 0.0
    """The share of the generator's cores that was in use, by whomever."""
    own: float = 0.0
    """CPU time of the generator's processes."""
    latencies: Histogram = field(default_factory=Histogram)
    waited: Histogram = field(default_factory=Histogram)
    late: Histogram = field(default_factory=Histogram)
    arrivals: Histogram = field(default_factory=Histogram)
    carried: bool = True

    def document(self, fan: float) -> dict[str, Any]:
        """For a result. fan: listeners that a publication has."""
        return {
            "name": self.phase.name,
            "measured": self.phase.measured,
            "event": self.phase.event,
            "began": round(self.began, 3),
            "seconds": round(self.seconds, 3),
            "rate": self.phase.rate,
            "published": self.published,
            "expected": round(self.published * fan),
            "deliveries": self.deliveries,
            "carried": self.carried,
            "in_time": self.in_time,
            "cpu_us": self.cpu_s / self.in_time * 1e6 if self.in_time else None,
            "server_busy": self.cpu_s / self.seconds,
            "generator_busy": self.generator,
            "generator_own": self.own / self.seconds,
            "latency": summary(self.latencies),
            "waited": summary(self.waited),
            "late": summary(self.late),
            "back": summary(self.arrivals),
            "histogram": self.latencies.pairs(),
        }


def summary(histogram: Histogram) -> dict[str, float | int | None]:
    """The percentiles that are shown, ms."""
    if not histogram.counts:
        return {"count": 0}
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {"count": histogram.total} | {
        name: histogram.percentile(share) / 1e6 for name, share in shares.items()
    }


def _row(second: dict[str, Any]) -> dict[str, Any]:
    """A row of the timeline as a result keeps it: percentiles for a histogram."""
    rest = {key: value for key, value in second.items() if key != "histogram"}
    return rest | summary(Histogram(second["histogram"]))


class Play:
    """See the module's text. A context manager that ends every process it has started."""

    def __init__(self, plan: Plan, target: Target, cores: tuple[int, ...], label: str) -> None:
        self.plan, self.target, self.cores, self.label = plan, target, cores, label
        self.pipes: list[Connection] = []
        self.processes: list[multiprocessing.process.BaseProcess] = []
        self.timeline: dict[int, dict[str, Any]] = {}
        self.grain = max(1, round(plan.seconds() / ROWS))
        self.began = time.monotonic()
        self.stage = Stage(Phase(name="arrival", seconds=0, rate=0), 0.0)
        self.total = Report()
        self.output = Output()
        self.live: dict[int, int] = {}
        self.ledgers: dict[int, tuple[int, int, int]] = {}
        self.faults: list[str] = []
        self.looked = 0.0
        self.moved = self.began
        self.stops: dict[str, float] = {}
        self.cpu = 0.0
        self._shown = 0.0

    def __enter__(self) -> Self:
        plan, target = self.plan, self.target
        shares = max(-(-plan.clients // PER_PROCESS), min(len(self.cores), 4))
        # Ports of an earlier run are not free again at once: each has addresses of its own.
        net = 1 + int(time.time()) % 250
        for share in range(shares):
            places = range(plan.clients * share // shares, plan.clients * (share + 1) // shares)
            talks = {place: target.talk(place) for place in places}
            self._fork(lambda s=share, p=places, t=talks: self._listen(s, p, t, net))  # type: ignore[misc]
        desk, address = target.desk()
        self._fork(
            lambda: Backend(
                desk,
                lambda: address,
                topics=plan.topic_count,
                size=plan.payload,
                batch=plan.batch,
                careful=plan.careful,
            )
        )
        return self

    def _listen(self, share: int, places: range, talks: dict[int, Any], net: int) -> Listeners:
        return Listeners(self.plan, share, places, talks, self.target.port, net)

    def _fork(self, make: Callable[[], Listeners | Backend]) -> None:
        ours, theirs = multiprocessing.Pipe()
        fork = multiprocessing.get_context("fork")
        process = fork.Process(target=self._live, args=(make, theirs, [*self.pipes, ours]))
        process.start()
        theirs.close()
        self.pipes.append(ours)
        self.processes.append(process)

    def _live(
        self, make: Callable[[], Listeners | Backend], pipe: Connection, others: list[Connection]
    ) -> None:
        for other in others:
            other.close()  # inherited: else the end of its own pipe would never come
        os.sched_setaffinity(0, self.cores)
        with suppress(KeyboardInterrupt, BrokenPipeError):
            made = make()
            if isinstance(made, Listeners):
                listen(made, pipe)
            else:
                publish(made, pipe)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(10.0)
            process.kill()

    # The whole

    def run(self) -> dict[str, Any]:
        """Plays it; returns what a result keeps of it."""
        plan = self.plan
        arrival = self._arrive()
        stages: list[Stage] = []
        for phase in plan.phases:
            stages.append(self._pass(phase))
            # One alone may be the machine's fault; what it left over comes with the next.
            if plan.ramp and len(stages) > 1 and not (stages[-2].carried or stages[-1].carried):
                break
        fallen = not stages[-1].carried
        missing = self._settle(fallen)
        self._judge(missing, fallen)
        measured = [stage for stage in stages if stage.phase.measured and stage.carried]
        whole, own, late = Histogram(), Histogram(), Histogram()
        # A ramp's latencies are those of its first phase: the others are there to overload.
        for stage in measured[:1] if plan.ramp else measured:
            whole.add(stage.latencies.counts)
            own.add(stage.waited.counts)
            late.add(stage.late.counts)
        best = max((stage.in_time / stage.seconds for stage in measured), default=None)
        deliveries = sum(stage.deliveries for stage in measured)
        in_time = sum(stage.in_time for stage in measured)
        cpu = sum(stage.cpu_s for stage in measured)
        seconds = sum(stage.seconds for stage in measured)
        return {
            "target": self.target.name,
            "version": self.target.version,
            "setting": self.target.setting,
            "arrival": arrival,
            "phases": [stage.document(self._fan()) for stage in stages],
            "grain": self.grain,
            "timeline": [_row(self.timeline[second]) for second in sorted(self.timeline)],
            "deliveries": deliveries,
            "per_second": best if plan.ramp else in_time / seconds if seconds else None,
            "best": best,
            "cpu_us": cpu / in_time * 1e6 if in_time else None,
            "latency": summary(whole),
            "steady_us": measured[0].document(1)["cpu_us"] if measured else None,
            "steady_latency": summary(measured[0].latencies) if measured else {},
            "histogram": whole.pairs(),
            "waited": summary(own),
            "late": summary(late),
            "back": summary(stages[-1].arrivals),
            "generator_busy": max((stage.generator for stage in measured), default=0.0),
            "counts": {
                "lost": self.total.lost + missing,
                "told": self.total.told,
                "duplicates": self.total.duplicates,
                "disordered": self.total.disordered,
                "swaps": self.total.swaps,
                "retries": self.output.retries,
                "ends": dict(self.total.ends),
            },
            "limits": self._limits(measured, whole, own),
            "faults": self.faults,
        }

    def _fan(self) -> float:
        return self.plan.clients * self.plan.subscriptions / self.plan.topic_count

    def _arrive(self) -> dict[str, Any]:
        plan = self.plan
        cpu, began = self._cpu(), time.monotonic()
        first = self._memory()
        self._in_place(FIRST_SHARE)
        time.sleep(SETTLE_S / 2)
        third, some, paused = self._memory(), sum(self.live.values()), time.monotonic()
        idle = paused - began
        began = time.monotonic() - idle
        self._in_place(1.0)
        cpu, seconds = self._cpu() - cpu, time.monotonic() - began - SETTLE_S / 2
        self._read(SETTLE_S)
        full, live = self._memory(), sum(self.live.values())
        stage = self.stage
        if live < plan.clients:
            raise SystemExit(f"only {live:,} of {plan.clients:,} arrived: {self.total.failures}")
        return {
            "clients": live,
            "seconds": seconds,
            "cpu_us": cpu / live * 1e6,
            "latency": summary(stage.arrivals),
            "memory_before": first,
            "memory_full": full,
            "memory_each": (full - third) / (live - some) if live >= FOR_MEMORY else None,
        }

    def _in_place(self, share: float) -> None:
        deadline = time.monotonic() + ARRIVE_S
        self._tell(("arrive", share))
        wanted = int(self.plan.clients * share)
        while sum(self.live.values()) < wanted and time.monotonic() < deadline:
            self._read(0.2)
            self._tell(("live",))
            if self.total.failures:
                break
            self._show(f"{sum(self.live.values()):,} of {self.plan.clients:,} in place")

    def _pass(self, phase: Phase) -> Stage:
        """Lets a phase pass."""
        self._flush()
        cpu, generator = self._cpu(), machine.busy_seconds(self.cores)
        stage = self.stage = Stage(phase, time.monotonic() - self.began)
        started = time.monotonic()
        if phase.event in ("reconnect", "stop reading", "read again"):
            self._tell(("event", phase.event, float(phase.share)))
        elif phase.event:
            self.target.strike(phase.event)
        self._tell(("churn", float(phase.churn) / (len(self.pipes) - 1)))
        if phase.rate:
            self.pipes[-1].send(("phase", clock(), float(phase.seconds), float(phase.rate)))
        while (left := started + phase.seconds - time.monotonic()) > 0:
            self._read(min(left, 0.2))
            self._show(f"{phase.name}, {left:.0f} s left")
        self._flush()
        stage.seconds, stage.in_time = time.monotonic() - started, stage.deliveries
        stage.cpu_s = self._cpu() - cpu
        stage.generator = (machine.busy_seconds(self.cores) - generator) / (
            stage.seconds * len(self.cores)
        )
        if self.plan.ramp:
            expected = phase.rate * phase.seconds * self._fan()
            stage.carried = stage.deliveries >= CARRIED * expected
        return stage

    def _settle(self, fallen: bool) -> int:
        """Waits until everybody has everything; returns how many deliveries are missing."""
        self._tell(("churn", 0.0))
        self._tell(("drain",))
        if fallen:
            self.pipes[-1].send(("cancel",))
            self._flush()
            return 0  # what is still on its way would take its time, and tells nothing
        missing, numbers = -1, [0]
        self.moved = time.monotonic()
        least = -1
        while time.monotonic() < self.moved + STALL_S:
            self._read(0.1)
            self.pipes[-1].send(("numbers",))
            numbers, output = self._answer(self.pipes[-1])
            self._put(output)
            if not output.idle:
                self.moved = time.monotonic()
                self._show(f"{output.pending:,} publications have not left yet")
                continue
            missing = 0
            for pipe in self.pipes[:-1]:
                pipe.send(("missing", numbers))
                missing += self._answer(pipe)
            if missing == 0:
                break
            if missing != least:
                least, self.moved = missing, time.monotonic()
            self._show(f"{missing:,} deliveries are missing")
        self._tell(("over",))
        self._flush()
        return missing

    def _judge(self, missing: int, fallen: bool) -> None:
        total, faults = self.total, self.faults
        if missing and not fallen:
            faults.append(f"{missing:,} deliveries did not arrive")
        if total.lost:
            faults.append(f"{total.lost:,} publications were skipped, {total.told:,} told")
        if total.duplicates:
            faults.append(f"{total.duplicates:,} duplicates")
        if total.disordered:
            faults.append(f"{total.disordered:,} out of order")
        faults += [f"{count:,} times: {text}" for text, count in total.failures.items()]
        if not fallen:
            faults += [f"publishing: {text} ({n:,})" for text, n in self.output.errors.items()]

    def _limits(self, measured: list[Stage], whole: Histogram, waited: Histogram) -> list[str]:
        """Where the generator, not the server, may have been what was measured."""
        limits = []
        for stage in measured:
            if stage.generator > FULL:
                own = stage.own / stage.seconds / len(self.cores)
                limits.append(
                    f"{stage.phase.name}: the generator's cores were {stage.generator:.0%} busy,"
                    f" {own:.0%} with its own work"
                )
        if waited.counts and waited.percentile(0.99) > 0.5 * whole.percentile(0.99):
            limits.append(
                f"up to {waited.percentile(0.99) / 1e6:.1f} ms of a p99 of"
                f" {whole.percentile(0.99) / 1e6:.1f} ms may be the generator's own"
            )
        return limits

    # Pipes

    def _tell(self, what: tuple[object, ...]) -> None:
        """Says something to every listening process."""
        for pipe in self.pipes[:-1]:
            pipe.send(what)

    def _answer(self, pipe: Connection) -> Any:
        """The answer to a question; reports that come before it are taken in."""
        while True:
            said = pipe.recv()
            match said:
                case Report() | Output():
                    self._put(said)
                case ("numbers", numbers, output):
                    return numbers, output
                case _:
                    return said

    def _flush(self) -> None:
        """Takes in what everybody has counted up to now."""
        for pipe in self.pipes:
            pipe.send(("told",))
        for pipe in self.pipes:
            while True:
                said = pipe.recv()
                if said == "told":
                    break
                self._put(said)
        self._look()

    def _read(self, seconds: float) -> None:
        """Takes reports in for a while, and looks at the server now and then."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for pipe in wait(self.pipes, left):
                assert isinstance(pipe, Connection)
                try:
                    self._put(pipe.recv())
                except EOFError:
                    raise SystemExit("a process of the generator has ended") from None
            if time.monotonic() - self.looked > LOOK_S:
                self._look()

    def _put(self, said: Report | Output) -> None:
        stage, second = self.stage, self._second(said.at)
        if isinstance(said, Output):
            stage.published += said.published
            stage.late.add(said.late)
            stage.own += said.cpu_s
            self.output.retries += said.retries
            self.output.errors += said.errors
            second["pending"] = said.pending
            for row, share in self._rows(said.at, said.seconds):
                row["published"] += said.published * share
            return
        deliveries = round(said.deliveries * self.plan.step)
        if deliveries:
            self.moved = time.monotonic()
        stage.deliveries += deliveries
        stage.own += said.cpu_s
        stage.latencies.add(said.latencies)
        stage.waited.add(said.waited)
        stage.arrivals.add(said.arrivals)
        total = self.total
        self.ledgers[said.share] = (said.lost, said.duplicates, said.disordered)
        total.lost, total.duplicates, total.disordered = map(
            sum, zip(*self.ledgers.values(), strict=True)
        )
        total.told += said.told
        total.swaps += said.swaps
        total.ends += said.ends
        total.failures += said.failures
        self.live[said.share] = said.live
        for row, share in self._rows(said.at, said.seconds):
            row["deliveries"] += deliveries * share
            row["bytes"] += said.size * share
        second["live"] = sum(self.live.values())
        second["ends"] += sum(said.ends.values())
        second["generator"] += said.cpu_s
        histogram = Histogram(map(tuple, second["histogram"]))
        histogram.add(said.latencies)
        second["histogram"] = histogram.pairs()

    def _rows(self, at: float, seconds: float) -> Iterator[tuple[dict[str, Any], float]]:
        """The rows that a stretch of time up to `at` falls into, each with its share of it."""
        begin = max(at - seconds, self.began)
        first = int((begin - self.began) / self.grain)
        for number in range(first, int((at - self.began) / self.grain) + 1):
            low = self.began + number * self.grain
            part = min(at, low + self.grain) - max(begin, low)
            if part > 0:
                yield self._second(low + self.grain / 2), part / (at - begin)

    def _second(self, at: float) -> dict[str, Any]:
        """The row of the timeline for a time (monotonic seconds)."""
        number = max(0, int((at - self.began) / self.grain))
        empty: dict[str, Any] = {"second": number * self.grain, "phase": self.stage.phase.name}
        empty |= dict.fromkeys(("published", "pending", "deliveries", "bytes", "live", "ends"), 0)
        empty |= {"generator": 0.0, "histogram": []}
        return self.timeline.setdefault(number, empty)

    # What the server uses

    def _cpu(self) -> float:
        total = 0.0
        for pid in self.target.pids:
            with suppress(OSError):
                total += machine.cpu_seconds(pid)
        # A worker that was killed takes its CPU time with it.
        self.cpu = max(self.cpu, total)
        return self.cpu

    def _memory(self) -> int:
        return sum(machine.pss_bytes(pid) for pid in self.target.pids)

    def _look(self) -> None:
        now = self.looked = time.monotonic()
        second = self._second(now)
        with suppress(OSError):
            second["memory"] = self._memory()
        second["cpu_s"] = self._cpu()
        stops = self.target.stops()
        for name, key in (("event_loop_lag", "lag_ms"), ("gc_pause", "gc_ms")):
            if stops:
                second[key] = min(LONGEST_STOP_S, longest(self.stops, stops, name)) * 1000
        self.stops = dict(stops)

    def _show(self, text: str) -> None:
        if sys.stderr.isatty() or time.monotonic() - self._shown > 5.0:
            self._shown = time.monotonic()
            progress(f"{self.label}: {text}")
