"""Plays scenarios against Clarion, and against its peers beside it; see README.md."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from loadtest import machine
from loadtest.agenda import Agenda, Step
from loadtest.page.command import write
from loadtest.peers import PEERS
from loadtest.peers.shelf import CannotInstall
from loadtest.play.plan import Plan, PlanError, load, names
from loadtest.play.play import Play
from loadtest.play.target import ClarionTarget, Target
from loadtest.report import Result, progress

RESULTS = Path(__file__).parent / "results"

AROUND_S = 8.0
"""Of each play: a server starts, settles and stops, and the last deliveries are waited for."""

ARRIVALS = 4000
"""Clients that get into place in a second, about."""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help=f"a file, or one of: {', '.join(names())}; none: all but {', '.join(_unusual())}",
    )
    parser.add_argument("--clients", type=float, default=1.0, help="times the scenario's number")
    parser.add_argument("--seconds", type=float, default=1.0, help="times the phases' lengths")
    parser.add_argument("--repetitions", type=int, default=0, help="0: as the scenario says")
    parser.add_argument("--out", type=Path, help="the result; results/DATE-TIME.json otherwise")
    parser.add_argument(
        "--against",
        nargs="*",
        default=[],
        metavar="PEER",
        choices=[*PEERS, "all"],
        help=f"play compare and crowd against these too: all, or of {', '.join(PEERS)}",
    )
    parser.add_argument("--redis", default="redis-server", help="the program")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="Clarion's, at least, with a Redis: each takes no more clients than it has open files",
    )
    parser.add_argument(
        "--server-cores", type=int, default=1, help="the others are the generator's"
    )


def run(args: argparse.Namespace) -> Result:
    result = Result("run", vars(args))
    try:
        plans = [_sized(load(name), args) for name in args.scenarios or _usual()]
    except PlanError as error:
        raise SystemExit(str(error)) from None
    server, generator = _cores(args.server_cores)
    agenda = Agenda([step for plan in plans for step in _steps(plan, args)])
    document: dict[str, Any] = {
        "kind": "clarion load test",
        "began": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine.describe() | machine.settings(),
        "server_cores": len(server),
        "generator_cores": len(generator),
        "scenarios": [],
    }
    for plan in plans:
        takes = []
        for turn in range(1, plan.repetitions + 1):
            for target in _targets(args, plan, server, generator):
                label = f"{plan.name} {turn}/{plan.repetitions} {target.name}"
                shown = f"[{agenda.place()}] {label}"
                progress(f"{shown}: starting")
                began = time.monotonic()
                try:
                    cores = sorted({*server, *generator}) if plan.shared else generator
                    with target, Play(plan, target, tuple(cores), shown) as play:
                        takes.append({"repetition": turn, **play.run()})
                    _faults(result, label, takes[-1])
                except CannotInstall as reason:
                    result.notes.append(f"{target.name} is left out: {reason}")
                except SystemExit as reason:  # a peer's trouble must not cost the other figures
                    result.faults.append(f"{label}: {reason}")
                agenda.done(time.monotonic() - began)
        document["scenarios"].append({"plan": plan.document(), "takes": takes})
        result.rows += rows(plan, takes)
    document["faults"], document["notes"] = result.faults, result.notes
    out = args.out or RESULTS / f"{time.strftime('%Y-%m-%dT%H%M')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, default=str) + "\n")
    result.notes.append(f"{out}, {write(out)}")
    return result


def _usual() -> list[str]:
    return [name for name in names() if load(name).usual]


def _unusual() -> list[str]:
    return [name for name in names() if not load(name).usual]


def _cores(wanted: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The server's cores, and the generator's: all others."""
    count = machine.cores()
    server = tuple(range(min(wanted, max(1, count - 1))))
    return server, tuple(range(len(server), count)) or (0,)


def _sized(plan: Plan, args: argparse.Namespace) -> Plan:
    """A scenario as large, as long and as often as is asked for."""
    plan = plan.scaled(args.clients, args.seconds)
    if args.workers > plan.workers:
        plan = replace(plan, workers=args.workers, redis=max(1, plan.redis))
    return replace(plan, repetitions=args.repetitions or plan.repetitions)


def _steps(plan: Plan, args: argparse.Namespace) -> Iterator[Step]:
    for _ in range(plan.repetitions):
        for name in (ClarionTarget.name, *_peers(plan, args)):
            yield Step(f"{plan.name} {name}", seconds_of(plan) / plan.repetitions)


def seconds_of(plan: Plan) -> float:
    """How long all repetitions of a scenario take against one server, about."""
    arrival = plan.clients / (plan.arrivals or ARRIVALS)
    return (plan.seconds() + AROUND_S + arrival) * plan.repetitions


def _peers(plan: Plan, args: argparse.Namespace) -> list[str]:
    wanted = list(PEERS) if "all" in args.against else args.against
    return wanted if plan.peers else []


def _targets(
    args: argparse.Namespace, plan: Plan, server: tuple[int, ...], generator: tuple[int, ...]
) -> Iterator[Target]:
    if plan.shared:
        server = generator = tuple(sorted({*server, *generator}))
    yield ClarionTarget(
        plan,
        args.command,
        args.environment,
        cores=server,
        redis=args.redis,
        redis_cores=generator,
    )
    for name in _peers(plan, args):
        yield PEERS[name](server)


def _faults(result: Result, label: str, take: dict[str, Any]) -> None:
    result.faults += [f"{label}: {fault}" for fault in take["faults"]]
    for limit in take["limits"]:
        result.notes.append(f"{label}: the generator may have been the limit: {limit}")


def rows(plan: Plan, takes: list[dict[str, Any]]) -> list[dict[str, object]]:
    """A line for each target: medians of its repetitions."""
    lines: list[dict[str, object]] = []
    for name in dict.fromkeys(take["target"] for take in takes):
        mine = [take for take in takes if take["target"] == name]

        def middle(*path: str, of: list[dict[str, Any]] = mine) -> float:
            found = []
            for take in of:
                value: Any = take
                for key in path:
                    value = value.get(key) if value else None
                found.append(float("nan") if value is None else float(value))
            return median(found)

        lines.append(
            {
                "": f"{plan.name}, {name}",
                "clients": plan.clients,
                "deliveries/s": middle("per_second"),
                "server us each": middle("cpu_us"),
                "p50 ms": middle("latency", "p50"),
                "p99 ms": middle("latency", "p99"),
                "p99.9 ms": middle("latency", "p99.9"),
                "max ms": middle("latency", "max"),
                "bytes/client": middle("arrival", "memory_each"),
                "arrival us": middle("arrival", "cpu_us"),
                "generator": f"{middle('generator_busy'):.0%}",
            }
        )
    return lines
