"""What the processes of the pool can do: run the steps of each namespace that has some."""

from __future__ import annotations

from collections.abc import Mapping

from clarion_server.options import Namespace
from clarion_server.pipeline import chain
from clarion_server.pipeline.chain import Chain, Files
from clarion_server.pipeline.child import Work


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
    return {name: each.run for name, each in made.items()}
