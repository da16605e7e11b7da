"""Makes a page of a result: `python -m loadtest report loadtest/results/2026-11-21T1800.json`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from loadtest.page.page import page
from loadtest.report import Result


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", type=Path, metavar="FILE", help="written by `run`")


def run(args: argparse.Namespace) -> Result:
    result = Result("report", {})
    for path in args.results:
        result.notes.append(str(write(path)))
    return result


def write(path: Path) -> Path:
    """Writes the page of a result beside it."""
    out = path.with_suffix(".html")
    out.write_text(page(json.loads(path.read_text())))
    return out
