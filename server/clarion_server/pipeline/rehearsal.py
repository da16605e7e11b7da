"""What a namespace's steps do to one document, step by step, in a process with the pool's limits.

    for stage in rehearsal.stages(play): ...

The other process is this module, too. It takes a `Play` from standard input and writes a `Stage` a
line: one when it is ready, and then what each step has made, until one refuses.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Literal, TypeAlias

import msgspec

from clarion_server.options import Namespace
from clarion_server.pipeline import chain
from clarion_server.pipeline.options import AnyStep
from clarion_server.pipeline.step import Document, Failed, Misconfigured, Refused

START_S = 30.0
"""Until the steps must be made: as for a process of the pool."""

Outcome: TypeAlias = Literal["ready", "passed", "refused", "failed", "deadline", "memory", "died"]


class Play(msgspec.Struct):
    """path: where modules are looked for. data: JSON, checked. The limits are those of
    `[pipeline]`, and `limits.data_bytes`."""

    path: Sequence[str]
    steps: tuple[AnyStep, ...]
    files: Mapping[str, bytes]
    data: bytes
    limit: int
    deadline_s: float
    memory_bytes: int


class Stage(msgspec.Struct):
    """What came of a step. `data` is after it, where the document has passed; else `text`
    says why not."""

    step: str
    outcome: Outcome
    seconds: float = 0.0
    data: bytes = b""
    text: str = ""


def stages(play: Play) -> Iterator[Stage]:
    """Of every step until one does not let the document pass; the last one says how it ended."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Event()
    timer, allowed = _timer(START_S, process, late), START_S
    left = [options.step for options in play.steps if options.step != "compress"]
    stage = Stage("", "ready")
    with process, process.stdin, process.stdout:
        try:
            with suppress(BrokenPipeError):  # it has ended already, as will be seen
                process.stdin.write(msgspec.json.encode(play))
                process.stdin.close()
            for line in process.stdout:
                stage = msgspec.json.decode(line, type=Stage)
                if stage.outcome == "ready":
                    timer.cancel()
                    timer, allowed = _timer(play.deadline_s, process, late), play.deadline_s
                    continue
                if left:
                    left.pop(0)
                yield stage
        finally:
            timer.cancel()
            process.kill()
    if stage.outcome in ("ready", "passed") and left:
        if late.is_set():
            yield Stage(left[0], "deadline", allowed, text=f"it took more than {allowed:g} s")
        else:
            code = process.returncode
            yield Stage(left[0], "died", text=f"its process ended with code {code}")


def _timer(
    seconds: float, process: subprocess.Popen[bytes], late: threading.Event
) -> threading.Timer:
    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


def _played(play: Play) -> Iterator[Stage]:
    """In the other process."""
    namespace = Namespace(pipeline=play.steps)
    try:
        made = chain.make(namespace, limit=play.limit, files=play.files)
        made.load()
    except Misconfigured as error:
        yield Stage(play.steps[error.place].step, "failed", text=str(error))
        return
    yield Stage("", "ready")
    document = Document(play.data, play.limit)
    for number, step in enumerate(made.steps, 1):
        began = time.perf_counter()
        try:
            made.apply(step, document)
            seconds = time.perf_counter() - began
            data = made.result(document) if number == len(made.steps) else _written(document)
        except MemoryError:
            text = f"more than {play.memory_bytes >> 20} MiB of memory"
            yield Stage(step.name, "memory", time.perf_counter() - began, text=text)
            return
        except Refused as refused:
            outcome: Outcome = "failed" if isinstance(refused, Failed) else "refused"
            yield Stage(step.name, outcome, time.perf_counter() - began, text=str(refused))
            return
        yield Stage(step.name, "passed", seconds, data)


def _written(document: Document) -> bytes:
    """What data is between two steps, where it may have any size."""
    try:
        return msgspec.json.encode(document.value)
    except Refused:
        return document.data


def main() -> None:
    play = msgspec.json.decode(sys.stdin.buffer.read(), type=Play)
    sys.path[:] = play.path
    # What the user's code prints goes to the terminal.
    with open(os.dup(sys.stdout.fileno()), "wb") as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        resource.setrlimit(resource.RLIMIT_DATA, (play.memory_bytes, play.memory_bytes))
        for stage in _played(play):
            answer.write(msgspec.json.encode(stage) + b"\n")
            answer.flush()
    sys.stdout.flush()
    os._exit(0)  # whatever threads the user's code has started


if __name__ == "__main__":
    main()
