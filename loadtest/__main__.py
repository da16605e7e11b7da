"""python -m loadtest SCENARIO: see README.md."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

from loadtest import machine
from loadtest.carriers import CLARION

SCENARIOS = {
    "report": "make a page of a result of `run`",
    "run": "play scenarios (scenarios/*.toml): baseline, peak, burst, deep, failover and others",
    "targets": "every target, and what is measured of it: probes, scenarios, a page",
    "fanout": "one topic, 1,000 subscribers: deliveries a second, beside a bare loop of sends",
    "wide": "one topic, 10,000 subscribers, 10 publications a second: when is the last one served",
    "memory": "bytes that an idle, subscribed connection takes",
    "storm": "15,000 clients connect and subscribe at once",
    "storm_beside": "15,000 newcomers beside clients that are connected: what do these notice",
    "presence": "what it costs a worker and its Redis to know who is subscribed",
    "shards": "what Redis adds: latency, publishes a second, a topic a user; 0, 1 and 3 shards",
    "users": "a topic for each user: what a delivery costs that is shared with nobody",
    "publish": "what publishing over HTTP costs: one a request, batches; embedded, through Redis",
    "inbox": "what backends leave in Redis: entries published a second, and how soon",
    "pipeline": "steps that keep processors busy for seconds, beside what should not notice",
    "slow": "a part of the clients stops reading for good: who notices, what it costs, who is gone",
    "compress": "what compression saves and costs, for 1, 100 and 10,000 subscribers",
    "steps": "what each step of a pipeline costs, at its least and a byte",
    "autobahn": "the Autobahn test suite's fuzzing client against /echo",
}

PLACES = {"report": "page.command"}
"""Where the module of a scenario is when it is not called like it."""

DISTURBED = 0.1
"""Cores that others may use before a result says so: they take them from either of the two."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__)
    scenarios = parser.add_subparsers(dest="scenario", required=True, metavar="SCENARIO")
    for name, text in SCENARIOS.items():
        scenario = scenarios.add_parser(
            name, help=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        if name in sys.argv[1:2]:  # only what is wanted: several need packages or programs
            importlib.import_module(_place(name)).options(scenario)
        scenario.add_argument("--json", type=Path, metavar="FILE", help="write the result here too")
        scenario.add_argument("--command", default=CLARION, help="what starts the server")
        scenario.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="CLARION_...=VALUE",
            help="an option of the server, as an environment variable",
        )
    args = parser.parse_args()
    args.environment = dict(item.split("=", 1) for item in args.set)
    machine.pin(machine.GENERATOR_CPU)
    others, began = machine.all_cpu_seconds() - machine.own_cpu_seconds(), time.monotonic()
    result = importlib.import_module(_place(args.scenario)).run(args)
    others = machine.all_cpu_seconds() - machine.own_cpu_seconds() - others
    if others > DISTURBED * (time.monotonic() - began):
        cores = others / (time.monotonic() - began)
        result.notes.append(
            f"others took {cores:.2f} of the machine's cores meanwhile: times and rates say little"
        )
    result.show()
    if args.json:
        result.write(args.json)
    sys.exit(1 if result.faults else 0)


def _place(name: str) -> str:
    return f"loadtest.{PLACES.get(name, name)}"


if __name__ == "__main__":
    main()
