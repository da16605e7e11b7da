"""What the processes of the pool can do: run the steps of each namespace that has some."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from clarion_fanout import payload
from clarion_fanout.publication import PayloadError
from clarion_server.options import Namespace
from clarion_server.pipeline import chain
from clarion_server.pipeline.chain import Chain, Files
from clarion_server.pipeline.child import Work
from clarion_server.pipeline.step import Refused


def chains(namespaces: Mapping[str, Namespace], limit: int, files: Files) -> Mapping[str, Chain]:
    """The chains of those that have steps, by name. Raises `Misconfigured`."""
    made = {
        name: chain.make(namespace, limit=limit, files=files)
        for name, namespace in namespaces.items()
        if namespace.pipeline
    }
    return {name: each for name, each in made.items() if each.steps}


def make(namespaces: Mapping[str, Namespace], limit: int, files: Files) -> Mapping[str, Work]:
    """The same in a process of the pool, which imports the user's code too."""
    made = chains(namespaces, limit, files)
    for each in made.values():
        each.load()
    return {name: partial(run, each) for name, each in made.items()}


def run(steps: Chain, data: bytes) -> bytes:
    """Runs the steps, behind the check of large data that was put off. Raises `Refused`."""
    if len(data) > payload.AT_ONCE:
        try:
            data = payload.check(data, len(data))
        except PayloadError as error:
            raise Refused(str(error)) from None
    return steps.run(data)
