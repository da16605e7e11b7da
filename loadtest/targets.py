"""Every target beside what is measured now: the probes and scenarios that it takes, and a page."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from loadtest import machine
from loadtest.agenda import Agenda, Step
from loadtest.page import goals
from loadtest.page.command import write
from loadtest.play import plan
from loadtest.report import Result, progress
from loadtest.run import RESULTS, seconds_of


def options(parser: argparse.ArgumentParser) -> None:
    probes, targets = goals.load()
    choices = [*probes, *goals.scenarios(targets)]
    parser.add_argument(
        "--only", nargs="+", choices=choices, default=choices, help="probes and scenarios"
    )
    parser.add_argument("--out", type=Path, help="the result; results/DATE-targets.json otherwise")


def run(args: argparse.Namespace) -> Result:
    result = Result("targets", vars(args))
    probes, targets = goals.load()
    ways = [name for name in probes if name in args.only]
    days = [name for name in goals.scenarios(targets) if name in args.only]
    steps = [Step(name, probes[name].seconds) for name in ways]
    steps += [Step(f"run {name}", seconds_of(plan.load(name))) for name in days]
    agenda = Agenda(steps)
    document: dict[str, Any] = {
        "kind": "clarion targets",
        "began": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine.describe() | machine.settings(),
        "probes": {},
        "scenarios": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        for step in steps:
            progress(f"[{agenda.place()}] {step.name}")
            began = time.monotonic()
            file = Path(folder, "result.json")
            name = step.name.removeprefix("run ")
            if step.name in ways:
                found = _measured(args, file, [name, *probes[name].options, "--json", str(file)])
                if found:
                    document["probes"][name] = found
            else:
                found = _measured(args, file, ["run", name, "--out", str(file)])
                document["scenarios"] += found.get("scenarios", [])
                document |= {key: found[key] for key in found if key.endswith("_cores")}
            result.faults += [f"{step.name}: {fault}" for fault in found.get("faults", ["failed"])]
            result.notes += [f"{step.name}: {note}" for note in found.get("notes", ())]
            agenda.done(time.monotonic() - began)
    result.rows = list(goals.rows(document))
    result.notes += goals.unfound(document)
    document["faults"], document["notes"] = result.faults, result.notes
    out = args.out or RESULTS / f"{time.strftime('%Y-%m-%d')}-targets.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, default=str) + "\n")
    result.notes.append(f"{out}, {write(out)}")
    return result


def _measured(args: argparse.Namespace, file: Path, words: list[str]) -> dict[str, Any]:
    """What another command of the load test writes to a file; empty when it did not."""
    file.unlink(missing_ok=True)
    options = [f"--set={key}={value}" for key, value in args.environment.items()]
    python = [sys.executable, "-m", "loadtest"]
    # Its own table is for who asks for it alone; what is under way, it says beside ours.
    subprocess.run(
        [*python, *words, f"--command={args.command}", *options],
        stdout=subprocess.DEVNULL,
        check=False,
    )
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found
