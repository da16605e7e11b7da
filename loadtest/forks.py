"""Processes that are forked off to share the work, and certainly end."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

LEAVE_S = 10.0
"""How long a process may take to close its connections before it is killed."""


class Forks:
    """Processes with a pipe from each to us, in a context that ends them.

    The end of its pipe tells a process to leave: `EOFError` for whoever reads there.
    """

    def __init__(self) -> None:
        self.pipes: list[Connection] = []
        """Our ends, in the order in which the processes were forked."""
        self._processes: list[multiprocessing.process.BaseProcess] = []

    def fork(self, live: Callable[..., object], *args: object) -> Connection:
        """Calls `live` with its pipe and `args` in a process of its own; returns our end."""
        fork = multiprocessing.get_context("fork")
        ours, theirs = fork.Pipe()
        self.pipes.append(ours)
        process = fork.Process(target=self._live, args=(live, theirs, args))
        process.start()
        theirs.close()
        self._processes.append(process)
        return ours

    def _live(
        self, live: Callable[..., object], pipe: Connection, args: tuple[object, ...]
    ) -> None:
        for inherited in self.pipes:
            inherited.close()  # else the end of its own pipe would never come
        live(pipe, *args)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self._processes:
            process.join(LEAVE_S)
            process.kill()
