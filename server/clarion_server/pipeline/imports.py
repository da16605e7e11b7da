"""Whether the functions that `python` steps name can be imported.

That is found out in a process of its own, before the server starts: the code is the user's, and may
take long, print, leave threads behind or end the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from clarion_server.option_values import Mistake, join
from clarion_server.options import Namespace
from clarion_server.pipeline.options import Python
from clarion_server.pipeline.python import PythonStep
from clarion_server.pipeline.step import Misconfigured

DEADLINE_S = 30.0
"""Of all imports together: as long as a process of the pool may take to start."""


class Trial(msgspec.Struct):
    """path: where modules are looked for."""

    path: list[str]
    functions: list[Python]


class Problem(msgspec.Struct):
    """What is wrong with the function at a place of the list."""

    place: int
    problem: str
    expected: str


def mistakes(namespaces: Mapping[str, Namespace], source: str) -> Sequence[Mistake]:
    """Everything that cannot be imported. `source` is the configuration file's name."""
    found = list(_functions(namespaces))
    if not found:
        return []
    keys = [f"{key}.function" for key, _ in found]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=msgspec.json.encode(Trial(sys.path, [options for _, options in found])),
            stdout=subprocess.PIPE,
            timeout=DEADLINE_S,
            check=True,
        )
        problems = msgspec.json.decode(done.stdout, type=list[Problem])
    except subprocess.TimeoutExpired:
        return [Mistake(source, keys[0], f"importing it took more than {DEADLINE_S:.0f} seconds")]
    except (subprocess.CalledProcessError, msgspec.DecodeError):
        return [Mistake(source, keys[0], "the process that imported it ended before it was done")]
    return [Mistake(source, keys[one.place], one.problem, one.expected) for one in problems]


def _functions(namespaces: Mapping[str, Namespace]) -> Iterator[tuple[str, Python]]:
    for name, namespace in namespaces.items():
        for place, options in enumerate(namespace.pipeline):
            if isinstance(options, Python):
                yield f"{join('namespaces', name)}.pipeline[{place}]", options


def _tried(place: int, options: Python) -> Iterator[Problem]:
    try:
        PythonStep(options).load()
    except Misconfigured as error:
        yield Problem(place, error.problem, error.expected)


def main() -> None:
    trial = msgspec.json.decode(sys.stdin.buffer.read(), type=Trial)
    sys.path[:] = trial.path
    # What the imported code prints goes to the terminal, not into the answer.
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    problems = [one for place, each in enumerate(trial.functions) for one in _tried(place, each)]
    with open(answer, "wb") as file:
        file.write(msgspec.json.encode(problems))
    sys.stdout.flush()
    os._exit(0)  # whatever threads it has started


if __name__ == "__main__":
    main()
