"""One plan, once, against one server: puts everybody in place, lets the phases pass, and counts.

crew        listeners, each with its share of the clients, and a backend that publishes
watch       reads every second what the server has used
here        the clock of the phases
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from loadtest import machine
from loadtest.play import verdict
from loadtest.play.crew import Crew
from loadtest.play.plan import CROWD_EVENTS, Phase, Plan
from loadtest.play.stage import Stage, summary
from loadtest.play.stamp import clock
from loadtest.play.tally import Output, Report
from loadtest.play.target import Target
from loadtest.play.timeline import Timeline
from loadtest.play.watch import Watch
from loadtest.report import progress

FIRST_SHARE = 0.34
"""Of the clients: memory for each is what the others add, as the first live in what was there."""

FOR_MEMORY = 5000
"""Clients at least: below, what each takes is lost in what the process allocates anyway."""

SETTLE_S = 0.5
"""For a server to have finished what an arrival brings with it."""

ARRIVE_S = 600.0
"""For everybody to be in place: 100,000 on a machine that has other work take three minutes."""

STALL_S = 10.0
"""When nothing arrives for so long after the last publication, what is missing is lost. Longer
than Clarion takes to find a dead shard, and longer than any client's pause."""

CARRIED = 0.97
"""Of what should have arrived: a phase with less has fallen behind, and not only at its ends."""

SHOWN_S = 5.0
"""Between two lines of progress where it is not a terminal."""


class Play:
    """See the module's text. A context manager: the generator's processes live as long."""

    def __init__(self, plan: Plan, target: Target, cores: tuple[int, ...], label: str) -> None:
        self.plan, self.target, self.cores, self.label = plan, target, cores, label
        self.crew = Crew(plan, target, cores, self._put)
        self.watch = Watch(target)
        self.timeline = Timeline(time.monotonic(), plan.seconds())
        self.stage = Stage(Phase(name="arrival", seconds=0, rate=0), 0.0)
        self.total = Report()
        """What all listeners have counted since they began."""
        self.output = Output()
        """What the publisher had to try again, and what went wrong."""
        self.live: dict[int, int] = {}
        """Clients in place, by share."""
        self._ledgers: dict[int, tuple[int, int, int]] = {}
        self._moved = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        self.crew.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.crew.__exit__(kind, error, trace)

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
        missing = self._fall() if fallen else self._settle()
        return {
            "target": self.target.name,
            "version": self.target.version,
            "setting": self.target.setting,
            "arrival": arrival,
            "stops": self.watch.worst,
            "phases": [stage.document(plan.fan) for stage in stages],
            "grain": self.timeline.grain,
            "timeline": self.timeline.document(),
            **verdict.figures(plan, stages),
            "counts": verdict.counts(self.total, self.output, missing),
            "limits": verdict.limits(stages, len(self.cores)),
            "faults": verdict.faults(self.total, self.output, missing, fallen),
        }

    # Arriving

    def _arrive(self) -> dict[str, Any]:
        plan, watch = self.plan, self.watch
        before, cpu = watch.memory(), watch.cpu()
        seconds = self._in_place(FIRST_SHARE)
        third, some, kernel = watch.memory(), self._present(), machine.kernel_bytes()
        seconds += self._in_place(1.0)
        cpu, full, live = watch.cpu() - cpu, watch.memory(), self._present()
        kernel = machine.kernel_bytes() - kernel
        if live < plan.clients:
            raise SystemExit(
                f"only {live:,} of {plan.clients:,} arrived: {dict(self.total.failures)},"
                f" {dict(self.total.ends.most_common(3))}"
            )
        return {
            "clients": live,
            "seconds": seconds,
            "cpu_us": cpu / live * 1e6,
            "latency": summary(self.stage.arrivals),
            "memory_before": before,
            "memory_full": full,
            "memory_each": (full - third) / (live - some) if live >= FOR_MEMORY else None,
            "kernel_each": kernel / (live - some) if live >= FOR_MEMORY and kernel > 0 else None,
        }

    def _in_place(self, share: float) -> float:
        """Lets a share of the clients arrive; returns how long that took."""
        began = time.monotonic()
        self.crew.tell("arrive", share)
        wanted = int(self.plan.clients * share)
        while self._present() < wanted and time.monotonic() < began + ARRIVE_S:
            self._read(0.1)
            self.crew.tell("live")
            if self.total.failures:
                break
            self._show(f"{self._present():,} of {self.plan.clients:,} in place")
        seconds = time.monotonic() - began
        self._read(SETTLE_S)
        return seconds

    def _present(self) -> int:
        return sum(self.live.values())

    # Phases

    def _pass(self, phase: Phase) -> Stage:
        """Lets a phase pass."""
        self._flush()
        cpu, busy = self.watch.cpu(), machine.busy_seconds(self.cores)
        began = time.monotonic()
        stage = self.stage = Stage(phase, began - self.timeline.began)
        if phase.event in CROWD_EVENTS:
            self.crew.tell("event", phase.event, float(phase.share))
        elif phase.event:
            self.target.strike(phase.event)
        self.crew.tell("churn", float(phase.churn) / self.crew.shares)
        if phase.rate:
            self.crew.tell_publisher("phase", clock(), float(phase.seconds), float(phase.rate))
        while (left := began + phase.seconds - time.monotonic()) > 0:
            self._read(min(left, 0.2))
            self._show(f"{phase.name}, {left:.0f} s left")
        self._flush()
        stage.seconds, stage.in_time = time.monotonic() - began, stage.deliveries
        stage.cpu_s = self.watch.cpu() - cpu
        busy = machine.busy_seconds(self.cores) - busy
        stage.generator = busy / (stage.seconds * len(self.cores))
        if self.plan.ramp:
            expected = phase.rate * phase.seconds * self.plan.fan
            stage.carried = stage.deliveries >= CARRIED * expected
        return stage

    def _fall(self) -> int:
        """Ends a play that was not carried. What is on its way would take its time, for nothing."""
        self.crew.tell_publisher("cancel")
        self.crew.tell("over")
        self._flush()
        return 0

    def _settle(self) -> int:
        """Waits until everybody has everything; returns how many deliveries are missing."""
        self.crew.tell("churn", 0.0)
        self.crew.tell("drain")
        self._moved = time.monotonic()
        missing = least = -1
        while missing and time.monotonic() < self._moved + STALL_S:
            self._read(0.1)
            numbers, output = self.crew.numbers()
            self._put(output)
            if not output.idle:
                self._moved = time.monotonic()
                self._show(f"{output.pending:,} publications have not left yet")
                continue
            missing = self.crew.missing(numbers)
            if missing != least:
                least, self._moved = missing, time.monotonic()
            self._show(f"{missing:,} deliveries are missing")
        self.crew.tell("over")
        self._flush()
        return missing

    # Reports

    def _flush(self) -> None:
        self.crew.flush()
        self.watch.look(self.timeline.row(time.monotonic()))

    def _read(self, seconds: float) -> None:
        """Takes reports in for a while, and looks at the server when that is due."""
        self.crew.read(seconds)
        if self.watch.due():
            self.watch.look(self.timeline.row(time.monotonic()))

    def _put(self, said: Report | Output) -> None:
        row = self.timeline.row(said.at)
        row["generator"] += said.cpu_s
        if isinstance(said, Output):
            self.stage.put(said)
            self.output.retries += said.retries
            self.output.errors += said.errors
            row["pending"] = said.pending
            for part, share in self.timeline.rows(said.at, said.seconds):
                part["published"] += said.published * share
            return
        deliveries = said.deliveries * self.plan.step
        self.stage.add(said, deliveries)
        self._sum(said)
        if deliveries:
            self._moved = time.monotonic()
        for part, share in self.timeline.rows(said.at, said.seconds):
            part["deliveries"] += deliveries * share
            part["bytes"] += said.size * share
        row["live"] = self._present()
        row["ends"] += said.ends.total()
        self.timeline.latencies(said.at).add(said.latencies)

    def _sum(self, said: Report) -> None:
        total = self.total
        self._ledgers[said.share] = (said.lost, said.duplicates, said.disordered)
        total.lost, total.duplicates, total.disordered = map(
            sum, zip(*self._ledgers.values(), strict=True)
        )
        total.told += said.told
        total.swaps += said.swaps
        total.ends += said.ends
        total.failures += said.failures
        self.live[said.share] = said.live

    def _show(self, text: str) -> None:
        if sys.stderr.isatty() or time.monotonic() - self._shown > SHOWN_S:
            self._shown = time.monotonic()
            progress(f"{self.label}: {text}")
