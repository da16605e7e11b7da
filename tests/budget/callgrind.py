"""The same with the processor's instructions, C included, where valgrind is installed.

They are those of one build of Python and of its packages on one kind of processor: good for
comparing two commits on a machine, and no budget for all machines. It takes a minute.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from budget.meter import Work

FOLDER = "BUDGET_FOLDER"
"""The variable that tells the process under valgrind where its dumps go."""

MAIN_THREAD = "01"


def run(arguments: list[str]) -> int:
    """Runs `python -m budget` anew, under valgrind, with `arguments`; returns its exit status."""
    with tempfile.TemporaryDirectory(prefix="clarion-budget-") as folder:
        # Nothing is counted until it is asked for: imports would take half a minute.
        valgrind = [
            *("valgrind", "-q", "--tool=callgrind", "--instr-atstart=no"),
            *("--separate-threads=yes", f"--callgrind-out-file={folder}/out.%p"),
        ]
        command = [*valgrind, sys.executable, "-m", "budget", *arguments]
        return subprocess.run(command, env=os.environ | {FOLDER: folder}, check=False).returncode


class Callgrind:
    """Tells the valgrind that this process runs under to count, and reads what it has counted."""

    def __init__(self) -> None:
        self._folder = Path(os.environ[FOLDER])
        self._dumps = 0

    def begin(self) -> None:
        """Begins to look at the instructions at all."""
        self._tell("-i", "on")

    def zero(self) -> None:
        """Begins a count."""
        self._tell("-z")

    def read(self) -> Work:
        """What the main thread has executed since."""
        self._tell("-d", "one")
        self._dumps += 1
        name = f"out.{os.getpid()}.{self._dumps}-{MAIN_THREAD}"
        found = re.search(r"^(?:totals|summary): (\d+)", (self._folder / name).read_text(), re.M)
        assert found, f"{name} has no sum"
        return Work(instructions=float(found[1]))

    def _tell(self, *words: str) -> None:
        command = ["callgrind_control", *words, str(os.getpid())]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
