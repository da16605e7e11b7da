"""The Autobahn test suite's fuzzing cases against the development server's /echo.

What runs them is autobahn_host.py, in an environment of its own (.venv-autobahn). With --compress
the server agrees to compression, and the cases of it are run as well as the others.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtest.carriers import HERE, Clarion
from loadtest.report import Result, progress

ENVIRONMENT = HERE.parent / ".venv-autobahn"
REQUIREMENTS = HERE / "autobahn-requirements.txt"

LONGEST_MESSAGE = 32 << 20
"""The largest of the 9.* cases have 16 MiB; twice that, as for any limit that is to be tested."""

MOST_FRAGMENTS = 1 << 17
"""9.3.1 and 9.4.1 send one message in 65,536 frames."""

COMPRESSING = """\
development = true
[namespaces.default]
pipeline = [{ step = "compress", min_bytes = 0 }]
"""

EVERY_CASE = tuple(map(str, range(1, 14)))

FAILURES = ("FAILED", "WRONG CODE", "UNCLEAN")


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only these: 6 or 6.4 or 6.4.1")
    parser.add_argument(
        "--compress", action="store_true", help="agree to compression, and run 12 and 13 too"
    )
    parser.add_argument(
        "--messages",
        type=int,
        default=1000,
        help="at most so many in each case of 12 and 13; all of them take some 20 minutes",
    )
    parser.add_argument("--url", help="a server that runs already; its /echo, with its limits")


def run(args: argparse.Namespace) -> Result:
    result = Result("autobahn", vars(args))
    python = _environment()
    cases = [str(args.messages), *(args.cases or (EVERY_CASE if args.compress else ()))]
    if args.url:
        verdicts = _series(python, args.url, cases)
    else:
        limits = {
            "CLARION_LIMITS_MESSAGE_BYTES": str(LONGEST_MESSAGE),
            "CLARION_LIMITS_FRAGMENTS": str(MOST_FRAGMENTS),
            **args.environment,
        }
        with TemporaryDirectory() as folder:
            command = f"{args.command} --echo"
            if args.compress:
                file = Path(folder) / "clarion.toml"
                file.write_text(COMPRESSING)
                command += f" --config {shlex.quote(str(file))}"
            with Clarion(command, **limits) as clarion:
                verdicts = _series(python, f"ws://127.0.0.1:{clarion.port}/echo", cases)
    behaviors = Counter(verdict["behavior"] for verdict in verdicts)
    result.rows = [
        {"": name, "cases": count, "closed well": _closed_well(verdicts, name)}
        for name, count in behaviors.most_common()
    ]
    for verdict in verdicts:
        if verdict["behavior"] in FAILURES or verdict["close"] in FAILURES:
            result.faults.append(_line(verdict))
        elif verdict["behavior"] != "OK":
            result.notes.append(_line(verdict))
    if not verdicts:
        result.faults.append("no case was run")
    return result


def _line(verdict: dict[str, str]) -> str:
    close = "" if verdict["close"] == "OK" else f" (close: {verdict['close']})"
    why = verdict["result"] if verdict["behavior"] in FAILURES else verdict["close_result"]
    return f"{verdict['case']} {verdict['behavior']}{close}: {verdict['description'][:70]} - {why}"


def _closed_well(verdicts: list[dict[str, str]], behavior: str) -> int:
    return sum(v["behavior"] == behavior and v["close"] not in FAILURES for v in verdicts)


def _environment() -> Path:
    """The interpreter of .venv-autobahn, made or made anew when its requirements changed."""
    python = ENVIRONMENT / "bin" / "python"
    made_from = ENVIRONMENT / REQUIREMENTS.name
    wanted = REQUIREMENTS.read_text()
    if not made_from.exists() or made_from.read_text() != wanted:
        progress(f"making {ENVIRONMENT.name}: Twisted, Autobahn and its test suite")
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", "-r", str(REQUIREMENTS)], check=True)
        made_from.write_text(wanted)
    return python


def _series(python: Path, url: str, cases: list[str]) -> list[dict[str, str]]:
    with TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        # -P: or this file would be what `import autobahn` finds.
        argv = [str(python), "-P", str(HERE / "autobahn_host.py"), url, str(results), *cases]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as host:
            assert host.stdout
            try:
                for line in host.stdout:
                    if sys.stderr.isatty() or "0 of " in line:
                        progress(line.strip())
            finally:
                host.kill()
        return json.loads(results.read_text()) if results.exists() else []
