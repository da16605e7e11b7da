"""Whose job is next: a queue for each namespace, served in turn. A machine.

A namespace with a thousand jobs waiting and one with a single job get every second process that
becomes free; within a namespace, first come is first served.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """See the module's text."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[T]] = {}  # none is empty; whose turn it is comes first

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __iter__(self) -> Iterator[T]:
        for queue in self._queues.values():
            yield from queue

    def waiting(self, name: str) -> int:
        """How many of a namespace wait."""
        return len(self._queues.get(name, ()))

    def put(self, name: str, job: T) -> None:
        self._queues.setdefault(name, deque()).append(job)

    def put_first(self, name: str, job: T) -> None:
        """A job that has had its turn and could not use it: it is its namespace's next."""
        self._queues.setdefault(name, deque()).appendleft(job)

    def next(self) -> T | None:
        """The job whose turn it is; None when none waits."""
        for name, queue in self._queues.items():
            job = queue.popleft()
            del self._queues[name]
            if queue:
                self._queues[name] = queue  # behind the others
            return job
        return None

    @property
    def names(self) -> list[str]:
        """The namespaces of which something waits."""
        return list(self._queues)

    def peek(self, name: str) -> T | None:
        """The job of a namespace that waits for the longest time."""
        queue = self._queues.get(name)
        return queue[0] if queue else None

    def drop_first(self, name: str) -> None:
        """Removes it."""
        queue = self._queues[name]
        queue.popleft()
        if not queue:
            del self._queues[name]
