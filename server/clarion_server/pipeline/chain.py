"""The steps of one namespace, made once in each process that runs them.

    files = chain.read_files(namespace.pipeline)       once, where the server starts
    made = chain.make(namespace, limit=config.limits.data_bytes, files=files)   in any process
    made.run(data)

A chain that is made has opened its schemas and templates. A user's function is only named in it, so
that the event loop's process never imports the user's code: it is imported by `load`, or else by
the first `run`. What must be read from files is read once and handed to all processes, so that one
which starts later does not work by another schema.

A step's module is imported when the first chain with it is made: who has no steps pays for none.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from clarion_server.options import Namespace
from clarion_server.pipeline.options import (
    Compress,
    JsonSchema,
    Project,
    Python,
    Redact,
    StepOptions,
    Template,
    XmlToJson,
)
from clarion_server.pipeline.step import Document, Failed, Misconfigured, Refused, Step

log = logging.getLogger(__name__)

Files = Mapping[str, bytes]
"""What schema and template files hold, by path."""

TEXT = 500
"""Characters of a text for a publisher: a few errors and their places. Data may be quoted in it."""


LINES = 10
"""That a chain logs in a second, at most: whoever publishes could fill the disk with them."""


class Chain:
    """The steps that change or check data, in order. `compress` is none of them: it is about how
    publications are sent, so that a namespace with nothing else has an empty chain.

    names: of the steps.
    safe: every step's time is bounded by the document's size, and none runs the user's code: a
        small document may be done on the event loop.
    limit: the most bytes that may come out. What goes in may be larger.
    """

    def __init__(
        self, steps: Iterable[Step], *, limit: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.steps = tuple(steps)
        self.names = tuple(step.name for step in self.steps)
        self.safe = all(step.safe for step in self.steps)
        self.limit = limit
        self._clock = clock
        self._second, self._lines = 0, 0  # the second in which lines were logged, and how many

    def load(self) -> None:
        """Imports what the first `run` would import. Raises `Misconfigured`, with `place`."""
        for place, step in enumerate(self.steps):
            try:
                step.load()
            except Misconfigured as error:
                error.place = place
                raise

    def run(self, data: bytes) -> bytes:
        """What the steps make of `data`, which is JSON that `payload.check` has let pass.

        Raises `Refused` with its `step`, of which `Failed` is the kind that is not the publisher's
        fault. `MemoryError` passes: only the owner of the process knows what it means.
        """
        document = Document(data, self.limit)
        for step in self.steps:
            self.apply(step, document)
        return self.result(document)

    def apply(self, step: Step, document: Document) -> None:
        """One step of `run`."""
        try:
            step.run(document)
        except Refused as refused:
            raise _named(refused, step.name) from None
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            self._log(f"step {step.name} failed: {_summary(error)}")
            raise _named(Failed("failed; the server's log says why"), step.name) from None

    def result(self, document: Document) -> bytes:
        """The end of `run`."""
        try:
            data = document.data
            if len(data) > self.limit:
                raise Refused(f"data has {len(data)} bytes, the limit is {self.limit}")
        except Refused as refused:
            raise _named(refused, self.names[-1] if self.names else "") from None
        return data

    def _log(self, line: str) -> None:
        second = int(self._clock())
        if second != self._second:
            if self._lines > LINES:
                log.error("%d more failures of steps were not logged", self._lines - LINES)
            self._second, self._lines = second, 0
        self._lines += 1
        if self._lines <= LINES:
            log.error("%s", line)


def read_files(steps: Iterable[StepOptions]) -> Files:
    """What the files hold that `steps` name. Raises `config.files.BadFile`."""
    # The configuration's package is not for the processes of the pool: it imports a lot.
    from clarion_server.config.files import read_bytes

    steps = tuple(steps)
    paths = {step.schema for step in steps if isinstance(step, JsonSchema)}
    paths |= {step.template for step in steps if isinstance(step, Template)}
    return {path: read_bytes(Path(path)) for path in paths if path}


def make(namespace: Namespace, *, limit: int, files: Files | None = None) -> Chain:
    """The chain of a namespace.

    limit: the most bytes that data may have when it leaves a step.
    files: None: they are read here.
    Raises `Misconfigured` with `place`.
    """
    files = read_files(namespace.pipeline) if files is None else files
    steps: list[Step] = []
    for place, options in enumerate(namespace.pipeline):
        try:
            if not isinstance(options, Compress):
                steps.append(make_step(options, files))
        except Misconfigured as error:
            error.place = place
            raise
    return Chain(steps, limit=limit)


def make_step(options: StepOptions, files: Files) -> Step:
    """Raises `Misconfigured`."""
    match options:
        case JsonSchema():
            from clarion_server.pipeline.json_schema import JsonSchemaStep

            return JsonSchemaStep(options, files)
        case XmlToJson():
            from clarion_server.pipeline.xml_to_json import XmlToJsonStep

            return XmlToJsonStep(options)
        case Template():
            from clarion_server.pipeline.template import TemplateStep

            return TemplateStep(options, files)
        case Redact():
            from clarion_server.pipeline.fields import RedactStep

            return RedactStep(options)
        case Project():
            from clarion_server.pipeline.fields import ProjectStep

            return ProjectStep(options)
        case Python():
            from clarion_server.pipeline.python import PythonStep

            return PythonStep(options)
        case _:
            raise Misconfigured("", f"{options.step} is not a step of a chain")


def _named(refused: Refused, name: str) -> Refused:
    text = str(refused)
    if len(text) > TEXT:
        refused.args = (text[:TEXT] + "...",)
    refused.step = name
    return refused


def _summary(error: BaseException) -> str:
    """One line for the log: what, and where in the user's code. No stack: whoever publishes could
    fill the log with them."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    place = f" at {frames[0].filename}:{frames[0].lineno}" if frames else ""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{text[:TEXT]!r}{place}"
